"""What a screening programme's year would take, by what was measured: no run, arithmetic alone.

python benchmarks/year.py [--exams 40000000] [--gpu-rate 2000]

Reads the results of scale.py, decode.py, extract.py, search.py and cluster.py and multiplies. What
a GPU embeds in a second is an assumption, said as such, unless gpu.py has been run on one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
IMAGES_AN_EXAM = 4
LARGEST = "10000000"
ROW = 64  # bytes of an image that a search has in memory (embedstore.index)
BESIDE = 44  # bytes of an image beside its vector: row, digest, cut, size and time
SIDE = 224


def result(name: str) -> Any:
    """Return what a benchmark kept."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def year(exams: int, rate: float) -> dict[str, Any]:
    """Multiply."""
    images = exams * IMAGES_AN_EXAM
    scale = {part: rows[LARGEST] for part, rows in result("scale").items()}
    decode = result("decode")["transfer_syntaxes"]
    extract, search = result("extract"), result("search")
    write, index, probe = scale["write"], scale["index"], scale["probe logistic"]
    rows = int(LARGEST)

    def of(each: float) -> float:
        return each * images

    cores = {
        short: decode[name]["224"]["embedstore_ms"]
        for short, name in {
            "uncompressed": "Explicit VR Little Endian",
            "JPEG 2000 lossless": "JPEG 2000 Image Compression (Lossless Only)",
            "JPEG lossless": "JPEG Lossless, Non-Hierarchical, First-Order Prediction "
            "(Process 14 [Selection Value 1])",
        }.items()
    }
    of_one = {
        "bytes": [round(write["bytes"] / rows), 1024 * 4 + BESIDE, SIDE * SIDE + BESIDE],
        "decoding_ms": cores,
        "model_ms": extract["efficiency"]["model_wall_ms"],
        "index": [round(index["bytes"] / rows), index["microseconds_a_row"], ROW],
        "probe": [probe["microseconds_a_row"], round(probe["peak_anonymous_gb"] / rows * 1e9)],
        "driver_images_a_second": result("cluster")["driver_images_a_second"],
        "search_ms_at_ten_million": scale["search"]["median_ms"],
    }
    return {
        "exams": exams,
        "images": images,
        "of_one_image": of_one,
        "store_gb": {
            "512 x float16, with its table": round(of(write["bytes"] / rows) / 1e9),
            "1024 x float32, a second backbone": round(of(1024 * 4 + BESIDE) / 1e9),
            "pictures kept, 224 x 224": round(of(SIDE * SIDE + BESIDE) / 1e9),
        },
        "files": int(round(of(write["files"] / rows), -3)),
        "core_hours_of_decoding": {k: round(of(ms / 1e3) / 3600) for k, ms in cores.items()},
        "hours_of_the_model_on_this_machine": round(
            of(extract["efficiency"]["model_wall_ms"] / 1e3) / 3600
        ),
        "gpu": {
            "assumed_images_a_second": rate,
            "hours": round(images / rate / 3600, 1),
            "cores_that_feed_it": {k: round(rate * ms / 1e3) for k, ms in cores.items()},
        },
        "driver_of_a_cluster_hours": round(
            images / result("cluster")["driver_images_a_second"] / 3600, 1
        ),
        "index": {
            "lists_gb": round(of(index["bytes"] / rows) / 1e9, 1),
            "memory_of_a_search_gb": round(of(ROW) / 1e9, 1),
            "hours": round(of(index["microseconds_a_row"] / 1e6) / 3600, 1),
            "other_kinds_gb": {
                name: round(of(about["memory_mb"] / search["rows"]) / 1e3)
                for name, about in search["peers"].items()
                if "memory_mb" in about
            },
        },
        "probe": {
            "hours": round(of(probe["microseconds_a_row"] / 1e6) / 3600, 1),
            "memory_gb": round(of(probe["peak_anonymous_gb"] / rows)),
        },
    }


def main() -> None:
    """Print and keep."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--exams", type=int, default=40_000_000)
    options.add_argument("--gpu-rate", type=float, default=2000)
    given = options.parse_args()
    told = json.dumps(year(given.exams, given.gpu_rate), indent=1)
    (RESULTS / "year.json").write_text(told + "\n")
    print(told)


if __name__ == "__main__":
    main()

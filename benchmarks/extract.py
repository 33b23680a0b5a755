"""Extraction against what its parts cost, a script a user would write, and two peers, in one run.

python benchmarks/extract.py [--patients 120] [--rounds 3] [--peers PYTHON]

PYTHON is one that has the peers (`pip install clip-benchmark clip-retrieval`, in an environment of
their own); without it they are not measured. Every contender is a process, run on many images and
on few; the difference is the time of an image, so that starting up does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from embedstore.backbones import load_backbone
from embedstore.encode import Encoders
from embedstore.feed import Batch, stacked
from embedstore.images.prepare import Prepared, prepare
from embedstore.images.recipe import named
from embedstore.plan import choose
from embedstore.store import Store
from embedstore.types import Floats

HERE = Path(__file__).parent
RESULT = HERE / "results" / "extract.json"
MODEL = "convnext_tiny"
WHOLE = "embedstore, mammography"
FEW = 4
CORES = os.cpu_count() or 1


@dataclass(slots=True)
class Contender:
    """A way to embed a folder of images: the command, and where its vectors are found then."""

    command: Callable[[Path, Path], list[str]]
    vectors: Callable[[Path], Floats]
    milliseconds: list[float] = field(default_factory=list)
    startup: list[float] = field(default_factory=list)
    found: Floats | None = None
    batch_size: int = 0

    def run(self, many: Path, few: Path) -> None:
        """Time both folders, and keep the vectors of the many."""
        short, images = self._seconds(few)[0], len(list(many.glob("*.png")))
        long, self.found = self._seconds(many)
        self.milliseconds.append(1000 * (long - short) / (images - FEW))
        self.startup.append(short)

    def _seconds(self, folder: Path) -> tuple[float, Floats]:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch)
            command = self.command(folder, out)
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, env=environment())
            seconds = time.perf_counter() - began
            if done.returncode:
                raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
            return seconds, self.vectors(out)


def environment() -> dict[str, str]:
    """Return this environment, the hub shut off."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def save_weights(path: Path) -> None:
    """Save random weights whose vectors differ from image to image.

    ConvNeXt begins with blocks scaled by 1e-6, which hands on the stem's output nearly as it is:
    all images would look alike, and any two runs would agree.
    """
    torch.manual_seed(0)
    state = open_clip.create_model(MODEL, pretrained_text=False).state_dict()
    scaled = {k: torch.full_like(v, 0.5) if k.endswith(".gamma") else v for k, v in state.items()}
    save_file({k: v.clone() for k, v in scaled.items()}, path)


def folders(root: Path, patients: int) -> tuple[Path, Path]:
    """Make the films, and a folder with few of them."""
    command = [sys.executable, str(HERE.parent / "cli.py"), "phantoms", str(root / "films")]
    options = ["--patients", str(patients), "--size", "1024"]
    subprocess.run(command + options, check=True, capture_output=True)
    many, few = root / "films" / "images", root / "few"
    few.mkdir()
    for film in sorted(many.iterdir())[:FEW]:
        shutil.copy(film, few)
    return many, few


def ours(weights: Path, *options: str) -> Contender:
    """Return `embedstore extract` with some options."""

    def command(folder: Path, out: Path) -> list[str]:
        backbone = f"open_clip:{MODEL}@{weights}"
        start = [sys.executable, str(HERE.parent / "cli.py"), "extract", str(folder)]
        return [*start, "--store", str(out / "S.zarr"), "--backbone", backbone, *options]

    def vectors(out: Path) -> Floats:
        store = Store.open(out / "S.zarr")
        key, spec = next(iter(store.specs.items()))
        made.batch_size = store.provenance[key]["batch_size"]
        embeddings = store.read(spec)
        return embeddings.vectors[np.argsort(embeddings.columns["path"])]

    made = Contender(command, vectors)
    return made


def script(python: str, name: str, weights: Path) -> Contender:
    """Return one of contenders.py."""

    def command(folder: Path, out: Path) -> list[str]:
        (out / "files").write_text("\n".join(map(str, sorted(folder.iterdir()))))
        places = (out / "files", weights, out / "v.npy")
        return [python, str(HERE / "contenders.py"), name, *map(str, places)]

    return Contender(command, lambda out: np.load(out / "v.npy"))


def clip_retrieval(python: str, weights: Path) -> Contender:
    """Return `clip-retrieval inference`; it writes float16, normalised, in the files' order."""

    def command(folder: Path, out: Path) -> list[str]:
        options = {
            "input_dataset": folder,
            "output_folder": out,
            "clip_model": f"open_clip:{MODEL}/{weights}",
            "enable_text": False,
            "batch_size": 32,
            "num_prepro_workers": 2,
        }
        module = [python, "-m", "clip_retrieval.clip_inference.main"]
        return module + [f"--{name}={value}" for name, value in options.items()]

    return Contender(command, lambda out: np.load(out / "img_emb" / "img_emb_0.npy"))


class Floor:
    """What decoding and the model cost by themselves, in milliseconds an image.

    Decoding: processor time of `prepare` in this one process, which runs on one thread. The model:
    wall time of the extractor's own encoder, alone and on all cores, times the cores (threads that
    wait for each other spin, so that their processor time says nothing).
    """

    def __init__(self, weights: Path, films: list[Path], recipe: str, precision: str) -> None:
        self.films = films
        self.backbone = load_backbone(f"open_clip:{MODEL}@{weights}", named(recipe), "", "cpu")
        self.precision = precision
        self.decode: list[float] = []
        self.model: list[float] = []

    def run(self, batch_size: int) -> None:
        """Measure once, in batches as the extraction took them."""
        spec = self.backbone.spec
        began = time.process_time()
        prepared = [prepare(film, 0, [spec.recipe]) for film in self.films]
        self.decode.append(1000 * (time.process_time() - began) / len(prepared))
        plan = choose("cpu", self.precision, batch_size, 0, len(prepared))
        batches = [
            self._batch(prepared[i : i + batch_size]) for i in range(0, len(prepared), batch_size)
        ]
        with Encoders([[self.backbone]], plan) as encoders:
            encoders.submit(batches[0], [spec.key]).result()
            began = time.perf_counter()
            for batch in batches:
                encoders.submit(batch, [spec.key]).result()
            self.model.append(1000 * (time.perf_counter() - began) / len(prepared))

    def _batch(self, prepared: list[Prepared]) -> Batch:
        levels = stacked([p.pictures[0] for p in prepared], "cpu")
        return Batch(list(enumerate(prepared)), [], {self.backbone.spec.recipe.pixel_key: levels})

    def milliseconds(self) -> list[float]:
        """Return the floor of every round."""
        return [d / CORES + m for d, m in zip(self.decode, self.model, strict=True)]


def agreement(vectors: Floats, other: Floats) -> dict[str, float]:
    """Compare two sets of vectors, in direction; and how alike different images are, beside it."""
    unit, with_unit = (
        v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True)
        for v in (vectors, other)
    )
    between = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    return {
        "least_cosine": round(float((unit * with_unit).sum(axis=1).min()), 6),
        "largest_difference_of_unit_vectors": float(f"{np.abs(unit - with_unit).max():.1e}"),
        "mean_cosine_of_different_images": round(float(between.mean()), 4),
    }


def median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios round by round."""
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)


class Busy:
    """Share of the processors' time that other processes took since this began; Linux only."""

    def __init__(self) -> None:
        self.began = self._now()

    def share(self) -> float | None:
        """0 to 1; None where the system does not tell."""
        busy, own, total = (b - a for a, b in zip(self.began, self._now(), strict=True))
        return round(max(0.0, busy - own) / total, 3) if total else None

    @staticmethod
    def _now() -> tuple[float, float, float]:
        if not Path("/proc/stat").exists():
            return 0.0, 0.0, 0.0
        ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        idle, hertz, own = ticks[3] + ticks[4], os.sysconf("SC_CLK_TCK"), os.times()
        return (sum(ticks) - idle) / hertz, sum(own[:4]), sum(ticks) / hertz


def contend(weights: Path, peers: str, auto: str) -> dict[str, Contender]:
    """Return everything to be run, by name; ours first."""
    made = {
        WHOLE: ours(weights),
        "embedstore, float32": ours(weights, "--recipe", "plain", "--precision", "float32"),
        "DataLoader": script(sys.executable, "dataloader", weights),
    }
    if auto != "float32":
        made["embedstore, auto"] = ours(weights, "--recipe", "plain")
    if peers:
        made["clip-retrieval"] = clip_retrieval(peers, weights)
        made["CLIP_benchmark"] = script(peers, "clip-benchmark-float32", weights)
        if auto != "float32":  # its default; without such instructions it takes many times as long
            made["CLIP_benchmark, bfloat16"] = script(peers, "clip-benchmark", weights)
    return made


def report(made: dict[str, Contender], floor: Floor) -> dict[str, Any]:
    """Put the medians together."""
    best = made.get("embedstore, auto", made["embedstore, float32"])
    exact = made["embedstore, float32"].found
    assert exact is not None
    assert best.found is not None
    rows: dict[str, dict[str, Any]] = {}
    for name, contender in made.items():
        assert contender.found is not None
        rows[name] = {
            "ms_per_image": round(statistics.median(contender.milliseconds), 2),
            "startup_s": round(statistics.median(contender.startup), 2),
        }
        if not name.startswith("embedstore"):
            rows[name]["times_as_long"] = median_ratio(contender.milliseconds, best.milliseconds)
            rows[name]["float32"] = agreement(exact, contender.found)
            rows[name]["auto"] = agreement(best.found, contender.found)
    return {
        "efficiency": {
            "decode_cpu_ms": round(statistics.median(floor.decode), 2),
            "model_wall_ms": round(statistics.median(floor.model), 2),
            "floor_ms": round(statistics.median(floor.milliseconds()), 2),
            "extract_ms": rows[WHOLE]["ms_per_image"],
            "batch_size": made[WHOLE].batch_size,
            "ratio": median_ratio(made[WHOLE].milliseconds, floor.milliseconds()),
        },
        "contenders": rows,
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=120, help="four films each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="", metavar="PYTHON")
    given = parser.parse_args()
    auto = choose("cpu", "auto", 0, -1, 1).precision
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.safetensors")
        save_weights(weights)
        many, few = folders(Path(folder), given.patients)
        made = contend(weights, given.peers, auto)
        floor = Floor(weights, sorted(many.iterdir()), "mammography", auto)
        others = Busy()
        for _ in range(given.rounds):
            for name, contender in made.items():
                contender.run(many, few)
                print(f"{name}: {contender.milliseconds[-1]:.1f} ms an image", flush=True)
            floor.run(made[WHOLE].batch_size)
            print(f"floor: {floor.milliseconds()[-1]:.1f} ms an image", flush=True)
    result = {
        "images": 4 * given.patients,
        "machine": f"{platform.processor() or platform.machine()}, {CORES} processors",
        "torch": torch.__version__,
        "precision_chosen": auto,
        "rounds": given.rounds,
        "share_of_the_processors_others_took": others.share(),
        **report(made, floor),
    }
    if not given.peers:
        result["peers"] = "not measured"
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

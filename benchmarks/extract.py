"""`embedstore extract` against what its parts cost; against others: peers.py.

python benchmarks/extract.py [--patients 120] [--rounds 3]

The command is run on many images and on few; the difference is the time of an image, so that
starting up does not count.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

HERE = Path(__file__).parent
RESULT = HERE / "results" / "extract.json"
MODEL = "convnext_tiny"
FEW = 4
CORES = os.cpu_count() or 1


@dataclass(slots=True)
class Command:
    """The command on many images and on few, round by round."""

    weights: Path
    milliseconds: list[float] = field(default_factory=list)
    startup: list[float] = field(default_factory=list)
    batch_size: int = 0

    def run(self, many: Path, few: Path) -> None:
        """Time both folders."""
        short, long = self._seconds(few), self._seconds(many)
        self.milliseconds.append(1000 * (long - short) / (len(list(many.iterdir())) - FEW))
        self.startup.append(short)

    def _seconds(self, folder: Path) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "S.zarr"
            start = [sys.executable, str(HERE.parent / "cli.py"), "extract", str(folder)]
            backbone = f"open_clip:{MODEL}@{self.weights}"
            began = time.perf_counter()
            subprocess.run(
                [*start, "--store", str(path), "--backbone", backbone],
                check=True,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
            )
            seconds = time.perf_counter() - began
            (how,) = Store.open(path).provenance.values()
            self.batch_size = how["batch_size"]
            return seconds


def save_weights(path: Path) -> None:
    """Save random weights whose vectors differ from image to image.

    ConvNeXt begins with blocks scaled by 1e-6, which hands on the stem's output nearly as it is:
    all images would look alike, and any two runs would agree.
    """
    torch.manual_seed(0)
    state = open_clip.create_model(MODEL, pretrained_text=False).state_dict()
    scaled = {k: torch.full_like(v, 0.5) if k.endswith(".gamma") else v for k, v in state.items()}
    save_file({k: v.clone() for k, v in scaled.items()}, path)


def films(root: Path, patients: int) -> Path:
    """Make the films, four a patient."""
    command = [sys.executable, str(HERE.parent / "cli.py"), "phantoms", str(root / "films")]
    options = ["--patients", str(patients), "--size", "1024"]
    subprocess.run(command + options, check=True, capture_output=True)
    return root / "films" / "images"


def some_of(many: Path, root: Path) -> Path:
    """Make a folder with few of them."""
    few = root / "few"
    few.mkdir()
    for film in sorted(many.iterdir())[:FEW]:
        shutil.copy(film, few)
    return few


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


def report(command: Command, floor: Floor) -> dict[str, Any]:
    """Put the medians together."""
    return {
        "decode_cpu_ms": round(statistics.median(floor.decode), 2),
        "model_wall_ms": round(statistics.median(floor.model), 2),
        "floor_ms": round(statistics.median(floor.milliseconds()), 2),
        "extract_ms": round(statistics.median(command.milliseconds), 2),
        "startup_s": round(statistics.median(command.startup), 2),
        "batch_size": command.batch_size,
        "ratio": median_ratio(command.milliseconds, floor.milliseconds()),
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=120, help="four films each")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    auto = choose("cpu", "auto", 0, -1, 1).precision
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.safetensors")
        save_weights(weights)
        many = films(Path(folder), given.patients)
        few = some_of(many, Path(folder))
        command = Command(weights)
        floor = Floor(weights, sorted(many.iterdir()), "mammography", auto)
        others = Busy()
        for _ in range(given.rounds):
            command.run(many, few)
            print(f"extract: {command.milliseconds[-1]:.1f} ms an image", flush=True)
            floor.run(command.batch_size)
            print(f"floor: {floor.milliseconds()[-1]:.1f} ms an image", flush=True)
    result = {
        "images": 4 * given.patients,
        "machine": f"{platform.processor() or platform.machine()}, {CORES} processors",
        "torch": torch.__version__,
        "precision_chosen": auto,
        "rounds": given.rounds,
        "share_of_the_processors_others_took": others.share(),
        "efficiency": report(command, floor),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

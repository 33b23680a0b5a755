"""The page of a study: how long it takes, and how large it is.

python benchmarks/study_page.py [--contenders 12] [--images 2000]

Twelve contenders answered for 2,000 images of 500 patients, four classes, three subgroups; one
map of all of them with thumbnails. Judged first, which is not counted; then rendered.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from pathlib import Path

import numpy as np

from embedstore.evaluate import judge
from embedstore.protocol import Protocol
from embedstore.registry import load
from embedstore.report.study_page import html
from embedstore.scoring import compare
from embedstore.study.findings import Contender, Findings, Map
from embedstore.subgroups import By
from embedstore.types import Embeddings, Recipe, Spec

RESULT = Path(__file__).parent / "results" / "study_page.json"
CLASSES = ("A", "B", "C", "D")
HOW = Protocol(folds=2, by=(By("vendor"),), order=CLASSES)
D, SIDE = 16, 72


def vectors(n: int, signal: float) -> Embeddings:
    """Four images a patient, of one class."""
    rng = np.random.default_rng(0)
    groups = np.arange(n) // 4
    truth = groups % len(CLASSES)
    x = signal * rng.normal(size=(len(CLASSES), D))[truth] + rng.normal(size=(n, D))
    digests = np.zeros((n, 16), np.uint8)
    digests[:, :4] = np.arange(n, dtype=">u4").view(np.uint8).reshape(n, 4)
    return Embeddings(
        Spec("made", "", Recipe(), "pooled", D),
        np.array([f"film{i:05d}" for i in range(n)]),
        x.astype(np.float32),
        groups.astype(str),
        digests,
        {"density": np.array(CLASSES)[truth], "vendor": np.array(["a", "b", "c"])[groups % 3]},
    )


def findings(contenders: int, n: int) -> Findings:
    """Judge contenders of rising signal."""
    head, judged = load("embedstore.probes", "logistic"), []
    for i in range(contenders):
        trial = judge(vectors(n, 0.1 + 0.05 * i), "density", head, "logistic", HOW)
        name = f"backbone{i}/logistic"
        judged.append(Contender(name, "probe", trial.report, trial.scored, 68, 1.0))
    images, first = vectors(n, 0.5), judged[0].report
    rng = np.random.default_rng(1)
    pictures = tuple(rng.integers(0, 256, (SIDE, SIDE)).astype(np.uint8) for _ in range(n))
    places = rng.random((n, 2)).astype(np.float32)
    shown = Map("made", places, images.columns["density"], images.ids, pictures, "at random")
    compared = compare({c.name: c.answered for c in judged}, judged[0].name, CLASSES, 0)
    return Findings(
        title="Benchmark",
        store="made",
        label="density",
        classes=CLASSES,
        split=first.split,
        split_fingerprint=first.split_fingerprint,
        images=n,
        patients=n // 4,
        contenders=tuple(judged),
        reference=judged[0].name,
        compared={c.name: c for c in compared},
        groupings=(),
        curves=(),
        tournaments=(),
        audits=(),
        maps=(shown,),
        methods=(),
        citation="",
        notes=(),
    )


def main() -> None:
    """Render once cold and once warm; write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contenders", type=int, default=12)
    parser.add_argument("--images", type=int, default=2000)
    asked = parser.parse_args()
    made = findings(asked.contenders, asked.images)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        text = html(made)
        seconds.append(round(time.perf_counter() - began, 3))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
        "contenders": asked.contenders,
        "images": asked.images,
        "seconds": {"cold": seconds[0], "warm": seconds[1]},
        "megabytes": round(len(text.encode()) / 1e6, 2),
        "more_memory_mib": round((after - before) / 1024),
    }
    print(json.dumps(found, indent=1))
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

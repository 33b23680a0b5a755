"""Scores of many resamples: how fast, and whether the intervals hold what they promise.

python benchmarks/scores.py [--datasets 500] [--loops 20]

Speed: ten metrics of 20,000 x 4 predictions, 5,000 patients of 4 images, 2,000 resamples of
patients, against scikit-learn's functions in a loop, of which `--loops` are run. Coverage: data
sets drawn from one population, in which images of a patient are alike in score and label; how often
a nominal 95 % interval holds the population's value, when patients are resampled and when images
are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from embedstore.metrics import bca, jackknife, measured, patient_draws, percentile
from embedstore.metrics.counts import FROM_COUNTS, confusion
from embedstore.metrics.draws import Draws
from embedstore.metrics.ranks import ranked

RESULT = Path(__file__).parent / "results" / "scores.json"
RESAMPLES, IMAGES = 2000, 4
COVERED = ("accuracy", "quadratic_kappa", "auroc")
K = 3

Sample = tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]


def predictions(patients: int, k: int, seed: int, alike: float = 0.7) -> Sample:
    """Truth, probabilities and patients of screening-like data.

    A patient's images share most of the grade behind the label and of the error of the model.
    """
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), IMAGES)

    def correlated() -> NDArray[np.float64]:
        own = np.repeat(rng.normal(size=patients), IMAGES)
        mixed: NDArray[np.float64] = np.sqrt(alike) * own + np.sqrt(1 - alike) * rng.normal(
            size=len(groups)
        )
        return mixed

    grade = correlated()
    edges = np.linspace(-1, 1, k - 1)
    truth = np.searchsorted(edges, grade).astype(np.intp)
    seen = grade + 0.8 * correlated()
    centres = np.linspace(-1.6, 1.6, k)
    logits = -((seen[:, None] - centres) ** 2)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return truth, p / p.sum(axis=1, keepdims=True), groups


def by_scikit_learn(truth: NDArray[np.intp], p: NDArray[np.float64]) -> None:
    """Ten metrics, once."""
    answer, k = p.argmax(axis=1), p.shape[1]
    sk.accuracy_score(truth, answer)
    sk.balanced_accuracy_score(truth, answer)
    sk.f1_score(truth, answer, average="macro")
    for weights in (None, "linear", "quadratic"):
        sk.cohen_kappa_score(truth, answer, weights=weights)
    sk.roc_auc_score(truth, p, multi_class="ovr")
    onehot = np.eye(k)[truth]
    sk.average_precision_score(onehot, p)
    sk.log_loss(truth, p)
    np.mean([sk.brier_score_loss(onehot[:, c], p[:, c]) for c in range(k)])


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def speed(loops: int) -> dict[str, Any]:
    """Ours against the loop, in one run."""
    truth, p, groups = predictions(5000, 4, 0)
    draws = patient_draws(groups, RESAMPLES, 0)
    drawing = min(timed(lambda: patient_draws(groups, RESAMPLES, 0)) for _ in range(3))
    ours = min(timed(lambda: measured(truth, p, draws, "ABCD")) for _ in range(3))

    def loop() -> None:
        for b in range(1, 1 + loops):
            rows = np.repeat(np.arange(len(truth)), draws.weights[b][draws.patient])
            by_scikit_learn(truth[rows], p[rows])

    theirs = timed(loop) / loops * RESAMPLES
    return {
        "images": len(truth),
        "resamples": RESAMPLES,
        "metrics": len(measured(truth, p, patient_draws(groups, 1, 0), "ABCD")),
        "seconds": round(drawing + ours, 2),
        "scikit_learn_ten_metrics_seconds": round(theirs, 1),
        "times_faster": round(theirs / (drawing + ours), 1),
    }


def some(truth: NDArray[np.intp], p: NDArray[np.float64], draws: Draws) -> dict[str, Any]:
    """Return the metrics whose coverage is looked at; AUROC of the highest grade."""
    counts = confusion(truth, p.argmax(axis=1), K, draws)
    found: dict[str, Any] = {name: FROM_COUNTS[name](counts) for name in COVERED[:2]}
    found["auroc"] = ranked(truth == K - 1, p[:, K - 1], draws)["auroc"]
    return found


def coverage(datasets: int, patients: int) -> dict[str, Any]:
    """Share of the intervals that hold the population's value."""
    truth, p, _ = predictions(200_000, K, 10**6)
    once = Draws.once(len(truth))
    true = {name: float(values[0]) for name, values in some(truth, p, once).items()}
    kinds = ("patients, percentile", "patients, BCa", "images, percentile")
    held = {kind: dict.fromkeys(COVERED, 0) for kind in kinds}
    for seed in range(datasets):
        truth, p, groups = predictions(patients, K, seed)
        images = np.arange(len(truth))
        values = some(truth, p, patient_draws(groups, RESAMPLES, seed))
        without = some(truth, p, jackknife(groups))
        by_image = some(truth, p, patient_draws(images, RESAMPLES, seed))
        for name in COVERED:
            intervals = (
                percentile(values[name]),
                bca(values[name], without[name]),
                percentile(by_image[name]),
            )
            for kind, (low, high) in zip(kinds, intervals, strict=True):
                held[kind][name] += low <= true[name] <= high
    return {
        "data_sets": datasets,
        "patients": patients,
        "images_of_each": IMAGES,
        "true": {name: round(value, 4) for name, value in true.items()},
        "held": {k: {n: round(c / datasets, 3) for n, c in of.items()} for k, of in held.items()},
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=500)
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--loops", type=int, default=20)
    given = parser.parse_args()
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
        "speed": speed(given.loops),
        "coverage": coverage(given.datasets, given.patients),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

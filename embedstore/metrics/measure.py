"""Every metric there is, by name, for every resample at once.

Names: those of `TITLES`; ``f1:CLASS``, ``recall:CLASS``, ``auroc:CLASS`` and
``average_precision:CLASS`` for one class against the rest; of two classes also
``sensitivity@0.9`` and ``specificity@0.9``, the second class being the positive one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import UsageError
from embedstore.metrics import probabilities as sureness
from embedstore.metrics.counts import FROM_COUNTS, OF_EACH_CLASS, Counts, confusion
from embedstore.metrics.draws import Draws
from embedstore.metrics.ranks import ranked
from embedstore.metrics.ratio import mean_known, ratio

TITLES: Mapping[str, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced acc.",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "quadratic_kappa": "quadratic κ",
    "average_precision": "average precision",
    "linear_kappa": "linear κ",
    "kappa": "κ",
    "within_one": "within one",
    "class_error": "class error",
    "log_loss": "log loss",
    "brier": "Brier",
    "ece": "ECE",
}
"""What each is called in a table; the first five are shown unless others are asked for."""

POINTS = (0.8, 0.9, 0.95)
"""Of two classes: sensitivity at these specificities, and the reverse."""

_LOW = {"class_error", "log_loss", "brier", "ece"}

Values = Mapping[str, NDArray[np.float64]]


def low_is_good(name: str) -> bool:
    """Say whether less is better."""
    return name.rpartition(": ")[2] in _LOW


def refuse_unknown(names: Sequence[str]) -> None:
    """Raise `UsageError` for a name that is no metric's, whatever the classes are."""
    others = {
        "f1",
        "recall",
        *(f"{w}@{x:g}" for x in POINTS for w in ("sensitivity", "specificity")),
    }
    for name in names:
        stem = name.rpartition(": ")[2].partition(":")[0]
        if stem not in TITLES and stem not in others:
            known = ", ".join((*TITLES, *sorted(others)))
            raise UsageError(f"--metric {name}: there are {known}; of one class: f1:CLASS")


def measured(
    truth: NDArray[np.intp],
    probabilities: NDArray[np.floating[Any]],
    draws: Draws,
    classes: Sequence[str],
) -> dict[str, NDArray[np.float64]]:
    """Every metric for every row of weights: name to (b,).

    Parameters
    ----------
    truth
        (n,) class numbers.
    probabilities
        (n, k); the answer is the most probable class, the first of equals.
    classes
        Their k names, in clinical order.
    """
    counts = confusion(truth, probabilities.argmax(axis=1), len(classes), draws)
    out = _from_counts(counts, classes)
    out |= _from_ranks(truth, probabilities, draws, classes)
    images = sureness.images(draws)
    for name, each in (("log_loss", sureness.log_loss), ("brier", sureness.brier)):
        out[name] = ratio(draws.total(each(truth, probabilities)[:, None])[:, 0], images)
    out["ece"] = sureness.expected_calibration_error(truth, probabilities, draws)
    return out


def _from_counts(counts: Counts, classes: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    out = {name: metric(counts) for name, metric in FROM_COUNTS.items()}
    for name, metric in OF_EACH_CLASS.items():
        values = metric(counts)
        out |= {f"{name}:{c}": values[:, i] for i, c in enumerate(classes)}
    return out


def _from_ranks(
    truth: NDArray[np.intp],
    probabilities: NDArray[np.floating[Any]],
    draws: Draws,
    classes: Sequence[str],
) -> dict[str, NDArray[np.float64]]:
    """Return the areas, of two classes for the second, else for each against the rest."""
    if len(classes) == 2:
        return dict(ranked(truth == 1, probabilities[:, 1], draws, POINTS))
    every = [ranked(truth == c, probabilities[:, c], draws) for c in range(len(classes))]
    out = {}
    for name in every[0]:
        out[name] = mean_known(np.stack([one[name] for one in every], axis=1))
        out |= {f"{name}:{c}": one[name] for c, one in zip(classes, every, strict=True)}
    return out


def grouped(
    truth: NDArray[np.intp],
    probabilities: NDArray[np.floating[Any]],
    classes: Sequence[str],
    positive: Sequence[str],
) -> tuple[NDArray[np.intp], NDArray[np.floating[Any]]]:
    """Join classes to two: truth (n,), 1 for those `positive`, and probabilities (n, 2).

    Dense (C, D) against the rest, say: the probability is the sum over the classes joined.
    """
    joined = np.isin(list(classes), list(positive))
    dense = probabilities[:, joined].sum(axis=1)
    return joined[truth].astype(np.intp), np.stack([1 - dense, dense], axis=1)


def metric_title(metric: str) -> str:
    """Name a metric as a column: ``C+D: auroc`` and ``f1:B`` keep what they are of."""
    question, colon, name = metric.rpartition(": ")
    stem, of, which = name.partition(":")
    stem, at, point = stem.partition("@")
    known = TITLES.get(stem, {"f1": "F1"}.get(stem, stem))
    return f"{question}{colon}{known}{at}{point}{' of ' + which if of else ''}"

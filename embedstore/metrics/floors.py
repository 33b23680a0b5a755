"""What answering without looking at an image gets.

majority
    The commonest class of the tested images, always, with probability 1.
prior
    The shares of the classes among the tested images as probabilities; the answer is the commonest.
random
    Each class as often as any other, at random: the expected confusion matrix; probabilities 1/k.

Shares are those of the tested images, so that no floor falls below chance: with balanced classes
the training side's commonest class is the test side's rarest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from embedstore.metrics.counts import FROM_COUNTS, OF_EACH_CLASS
from embedstore.metrics.draws import Draws
from embedstore.metrics.measure import low_is_good, measured


def floors(truth: NDArray[np.intp], classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Map each metric to the floors majority, prior and random; (n,) class numbers."""
    n, k = len(truth), len(classes)
    shares = np.bincount(truth, minlength=k) / n
    once = Draws.once(n)
    lookless = {
        "majority": np.eye(k)[shares.argmax()],
        "prior": shares,
        "random": np.full(k, 1 / k),
    }
    out: dict[str, dict[str, float]] = {}
    for name, row in lookless.items():
        for metric, values in measured(truth, np.tile(row, (n, 1)), once, classes).items():
            out.setdefault(metric, {})[name] = float(values[0])
    expected = np.tile((shares * n / k)[:, None], (1, k))[None]
    for metric, of_counts in FROM_COUNTS.items():
        out[metric]["random"] = float(of_counts(expected)[0])
    for metric, of_class in OF_EACH_CLASS.items():
        for c, value in zip(classes, of_class(expected)[0], strict=True):
            out[f"{metric}:{c}"]["random"] = float(value)
    return out


def highest(name: str, of: Mapping[str, float]) -> float:
    """Return the floor that is hardest to pass; NaN where none is known."""
    known = [value for value in of.values() if not np.isnan(value)]
    if not known:
        return float("nan")
    return min(known) if low_is_good(name) else max(known)

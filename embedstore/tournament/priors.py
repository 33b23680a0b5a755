"""Class priors put right without the labels of what is tested.

A zero-shot model leans to a class by its wording alone, as far as answering it for everyone (Zhao
et al. 2021, "Calibrate before use", arXiv 2102.09690). Each class gets one weight, so that over the
images of the choosing side, whose labels are counted and not otherwise looked at, the mean
probabilities are the shares of the classes there. One step of it is Batch Calibration (Zhou et al.
2023, arXiv 2309.17249) with those shares for its uniform prior; steps are taken until they match.
The weights then stay as they are for the images tested.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LOWEST = -80.0
"""Log of the smallest likelihood: its float32 keeps all digits."""

_CLOSE = 5e-5
_STEPS = 100
_MEMORY = 4
_LIGHTEST = -70.0  # sums of 1 / weight stay within float32

Doubles = NDArray[np.float64]


def class_shares(truth: NDArray[np.intp], classes: int) -> Doubles:
    """(k,) shares, a class without an image counting half of one."""
    counts = np.maximum(np.bincount(truth, minlength=classes), 0.5)
    shares: Doubles = counts / counts.sum()
    return shares


def matching_weights(likelihood: NDArray[np.floating[Any]], shares: Doubles) -> Doubles:
    """Find what to multiply each class by, (k,), so that mean probabilities are `shares` +-5e-5.

    The fixed point of multiplying by share / mean, its steps mixed as Anderson's (Walker and Ni
    2011, SIAM J. Numer. Anal. 49) has it: five of them do where one after the other takes hundreds.
    Where no weights match, images being surer than e^-80, the nearest seen are returned.

    Parameters
    ----------
    likelihood
        (k, n) exp(logit less the image's largest), not below e^-80.
    shares
        (k,) above 0, summing to 1.
    """
    point = np.log(shares) - np.log(likelihood).mean(axis=1, dtype=np.float64)
    least, best = np.inf, shares
    points: list[Doubles] = []
    moves: list[Doubles] = []
    for _ in range(_STEPS):
        point = np.maximum(point - point.max(), _LIGHTEST)
        weights = np.exp(point)
        mean = _mean(likelihood, weights)
        off = float(np.abs(mean - shares).max())
        if off < least:
            least, best = off, weights
        if off < _CLOSE:
            break
        move = np.log(shares / np.maximum(mean, 1e-30))
        points, moves = [*points, point][-_MEMORY:], [*moves, move - move.mean()][-_MEMORY:]
        point = _mixed(points, moves)
    return best


class Priors:
    """What class weights are fitted on, each set of images once, by rows and true shares."""

    def __init__(self, truth: NDArray[np.intp], classes: int) -> None:
        self._truth, self._classes = truth, classes
        self._fits: dict[bytes, tuple[int, NDArray[np.intp], Doubles]] = {}

    def number(self, rows: NDArray[np.intp]) -> int:
        """Note a set of images, and give it a number."""
        shares = class_shares(self._truth[rows], self._classes)
        return self._fits.setdefault(rows.tobytes(), (len(self._fits), rows, shares))[0]

    def weights(self, likelihood: NDArray[np.floating[Any]]) -> Doubles:
        """(v, k, n) of all images to (v, k, f) weights.

        A fit does not start where another ended, near as that is: it would know of its labels.
        """
        fitted = np.empty((*likelihood.shape[:2], len(self._fits)))
        for out, one in zip(fitted, likelihood, strict=True):
            for number, rows, shares in self._fits.values():
                out[:, number] = matching_weights(one.take(rows, axis=1), shares)
        return fitted


def _mean(likelihood: NDArray[np.floating[Any]], weights: Doubles) -> Doubles:
    """(k,) mean probabilities."""
    each = np.einsum("k,kn->n", weights.astype(likelihood.dtype), likelihood)
    np.reciprocal(each, out=each)
    total: Doubles = np.einsum("kn,n->k", likelihood, each).astype(np.float64) * weights
    return total / len(each)


def _mixed(points: list[Doubles], moves: list[Doubles]) -> Doubles:
    """Return the next point: where the moves seen so far, taken as linear, would vanish."""
    if len(points) == 1:
        return points[0] + moves[0]
    passed, changed = (np.diff(np.stack(rows, axis=1), axis=1) for rows in (points, moves))
    mix = np.linalg.lstsq(changed, moves[-1], rcond=1e-6)[0]
    following: Doubles = points[-1] + moves[-1] - (passed + changed) @ mix
    return following

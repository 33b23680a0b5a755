"""How good one ranking is, and how good one in random order is expected to be, query by query.

As in Manning, Raghavan and Schütze 2008, chapter 8: precision@k, average precision, R-precision and
reciprocal rank; nDCG by Järvelin and Kekäläinen 2002. ``map@k`` divides by the most that can be
relevant among the first k, min(R, k), so that a perfect ranking has 1; ``map`` is of the whole
ranking. ``hit@k`` is whether anything relevant is among the first k.

With N candidates, R of them relevant, in random order: each place is relevant with probability R/N,
two places both are with R(R-1)/N(N-1), and the first relevant one's place is negatively
hypergeometric. What is expected follows exactly; nothing is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Values = Mapping[str, NDArray[np.float64]]

TITLES: Mapping[str, str] = {
    "precision": "precision",
    "map": "mAP",
    "r_precision": "R-precision",
    "ndcg": "nDCG",
    "hit": "hit",
    "recall": "recall",
    "mrr": "MRR",
    "median_rank": "median rank",
}
"""What each is called in a table, without its ``@k``."""

_TAIL = 40  # times the mean wait, beyond which e**-40 of the first relevant places lie


def measured(
    relevant: NDArray[np.bool_], total: NDArray[np.intp], ks: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Measure rankings: name to (b,).

    Parameters
    ----------
    relevant
        (b, n): whether what stands at each place is relevant, best place first.
    total
        (b,) how many are, at least 1 each.
    """
    row, place = np.nonzero(relevant)
    before = np.cumsum(total) - total
    precision = (np.arange(len(row)) - before[row] + 1) / (place + 1)  # at each relevant place
    rows = len(total)

    def summed(taken: NDArray[np.bool_], values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(row[taken], values[taken], minlength=rows).astype(np.float64)

    first, ones = place[before], np.ones(len(row))
    out = {f"precision@{k}": summed(place < k, ones) / k for k in ks}
    out |= {f"map@{k}": summed(place < k, precision) / np.minimum(total, k) for k in ks}
    out["r_precision"] = summed(place < total[row], ones) / total
    out |= {f"hit@{k}": (first < k).astype(np.float64) for k in ks}
    out["mrr"] = 1 / (first + 1)
    out["map"] = np.bincount(row, precision, minlength=rows) / total
    out["rank"] = first + 1.0
    return out


def by_chance(
    candidates: NDArray[np.intp], total: NDArray[np.intp], ks: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Return what `measured` is expected to give for random orders: name to (q,).

    Parameters
    ----------
    candidates, total
        (q,) how many there are to rank, at least the largest k, and how many of them are relevant.
    """
    pairs, of = np.unique(np.stack([candidates, total], axis=1), axis=0, return_inverse=True)
    of = of.reshape(-1)
    n, r = pairs.astype(np.float64).T
    one = r / n
    both = one * (r - 1) / np.maximum(n - 1, 1)
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, pairs.max() + 1))])

    def precisions(k: NDArray[np.intp]) -> NDArray[np.float64]:
        # the sum over the first k places of P(relevant) times the precision expected there
        up_to = harmonic[k]
        expected: NDArray[np.float64] = one * up_to + both * (k - up_to)
        return expected

    out = {f"precision@{k}": one for k in ks}
    for k in ks:
        out[f"map@{k}"] = precisions(np.full(len(pairs), k)) / np.minimum(r, k)
    out["r_precision"] = one
    out |= {f"hit@{k}": _any(n, r, k) for k in ks}
    out["mrr"] = np.array([_reciprocal(*pair) for pair in pairs.tolist()])
    out["map"] = precisions(pairs[:, 0]) / r
    out["rank"] = (n + 1) / (r + 1)
    return {name: values[of] for name, values in out.items()}


def _any(n: NDArray[np.float64], r: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Chance that one of r relevant among n is drawn in k."""
    can = n - r >= k
    logs = np.zeros(int(can.sum()))
    for drawn in range(k):  # logs of gamma functions would lose what is rare
        logs += np.log1p(-r[can] / (n[can] - drawn))
    chance = np.ones(len(n))
    chance[can] = -np.expm1(logs)
    return chance


def _reciprocal(n: int, r: int) -> float:
    """Return the expected reciprocal rank of the first of r relevant among n."""
    places = np.arange(1, min(n - r, -(-_TAIL * n // r)) + 2)
    waits = np.concatenate([[1.0], 1 - r / (n - places[:-1] + 1.0)]).cumprod()
    return float((waits * r / (n - places + 1) / places).sum())


def dcg(gains: NDArray[np.float64], ks: Sequence[int]) -> NDArray[np.float64]:
    """(b, k) gains in order to their (b, len(ks)) sums of gain over log2(place + 1)."""
    sums = np.cumsum(gains / np.log2(np.arange(gains.shape[1]) + 2), axis=1)
    return sums[:, np.asarray(ks) - 1]


def ideal_dcg(
    gains: NDArray[np.float64], counts: NDArray[np.intp], ks: Sequence[int]
) -> NDArray[np.float64]:
    """Return the largest sums there can be, (q, len(ks)).

    Parameters
    ----------
    gains, counts
        (q, c) what finding one of each class is worth, and how many of each there are to find.
    """
    order = np.argsort(-gains, axis=1)
    worth = np.take_along_axis(gains, order, axis=1)
    ends = np.cumsum(np.take_along_axis(counts, order, axis=1), axis=1)
    starts = np.concatenate([np.zeros_like(ends[:, :1]), ends[:, :-1]], axis=1)
    discounts = _discounts(max(ks))
    sums = [
        (worth * (discounts[np.minimum(ends, k)] - discounts[np.minimum(starts, k)])).sum(axis=1)
        for k in ks
    ]
    return np.stack(sums, axis=1)


def dcg_by_chance(
    gains: NDArray[np.float64], counts: NDArray[np.intp], ks: Sequence[int]
) -> NDArray[np.float64]:
    """Return the sums expected of random orders, (q, len(ks)); parameters as for `ideal_dcg`."""
    mean = (gains * counts).sum(axis=1) / counts.sum(axis=1)
    sums: NDArray[np.float64] = mean[:, None] * _discounts(max(ks))[np.asarray(ks)]
    return sums


def _discounts(most: int) -> NDArray[np.float64]:
    """(most + 1,) sums of the discounts of the first 0, 1, … places."""
    return np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(most) + 2))])


def class_gains(classes: int, graded: bool) -> NDArray[np.float64]:
    """(c, c): what finding each class is worth to each, 1 for its own.

    Ungraded 0 for all others. Graded it falls evenly with the distance in their order, to 0 between
    the first and the last: linear gains, as in linear kappa a step is a step.
    """
    if not graded or classes < 2:
        return np.eye(classes)
    places = np.arange(classes)
    gains: NDArray[np.float64] = 1 - np.abs(places[:, None] - places) / (classes - 1)
    return gains

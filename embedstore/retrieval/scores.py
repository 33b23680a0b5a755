"""From queries to scores: means over queries and classes, intervals, and differences.

Patients of the queries are resampled; what can be found stays as it is. So an interval is of other
queries put to this collection, not of another collection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.metrics import RESAMPLES, Draws, bca, jackknife, patient_draws, percentile
from embedstore.metrics.compare import Difference, difference, holm
from embedstore.metrics.ratio import mean_known, ratio
from embedstore.results import Score
from embedstore.retrieval.measures import Values

MACRO = "macro "
"""What stands before the name of a mean over classes."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Metrics on every draw of patients: `boot` and `left_out` are name to (b,), (1 + p,)."""

    boot: Values
    left_out: Values


def resamples(groups: NDArray[np.intp], seed: int) -> tuple[Draws, Draws]:
    """Draw patients anew, and leave each out: (q,) numbers of what is drawn together."""
    return patient_draws(groups, RESAMPLES, seed), jackknife(groups)


def drawn(values: Values, classes: NDArray[np.intp], draws: tuple[Draws, Draws]) -> Drawn:
    """Average (q,) values over queries and over classes, draw by draw; `draws` of `resamples`.

    Names are those of `values`, the same after ``macro``, and after the number of each class and a
    colon: ``2:mrr``.
    """
    boot, left_out = draws
    return Drawn(_means(values, classes, boot), _means(values, classes, left_out))


def plain(values: Values, classes: NDArray[np.intp]) -> dict[str, float]:
    """Average as `drawn` does, of the queries as they are."""
    once = Draws.once(len(classes))
    return {name: float(of[0]) for name, of in _means(values, classes, once).items()}


def _means(
    values: Values, classes: NDArray[np.intp], draws: Draws
) -> dict[str, NDArray[np.float64]]:
    table = np.stack(list(values.values()), axis=1)
    present = np.unique(classes).tolist()
    sums, counts = [], []
    for c in present:
        rows = classes == c
        some = _only(draws, rows)
        sums.append(some.total(table[rows]))
        counts.append(some.total(np.ones((int(rows.sum()), 1), dtype=np.int64)))
    of_class = [ratio(s, np.broadcast_to(n, s.shape)) for s, n in zip(sums, counts, strict=True)]
    whole = np.sum(sums, axis=0)
    mean = ratio(whole, np.broadcast_to(np.sum(counts, axis=0), whole.shape))
    out = {}
    for i, name in enumerate(values):
        out[name] = mean[:, i]
        out[f"{MACRO}{name}"] = mean_known(np.stack([of[:, i] for of in of_class], axis=1))
        out |= {f"{c}:{name}": of[:, i] for c, of in zip(present, of_class, strict=True)}
    return out


def _only(draws: Draws, rows: NDArray[np.bool_]) -> Draws:
    """Take some queries and their patients, drawn as before."""
    patients, number = np.unique(draws.patient[rows], return_inverse=True)
    return Draws(draws.weights[:, patients], number)


def scores(found: Drawn, floors: Mapping[str, float]) -> dict[str, Score]:
    """Put interval and floor beside each value; the floor is random order."""
    out = {}
    for name, values in found.boot.items():
        low, high = percentile(values)
        interval = bca(values, found.left_out[name])
        floor = floors[name]
        out[name] = Score(float(values[0]), low, high, floor, interval, {"random": floor})
    return out


@dataclass(frozen=True, slots=True)
class Against:
    """A backbone against the first: by metric; `p_holm` is corrected for all that were compared."""

    name: str
    differences: Mapping[str, Difference]
    p_holm: Mapping[str, float]


def compare(contenders: Mapping[str, Drawn], names: Sequence[str]) -> list[Against]:
    """Subtract the first contender from each other, draw by draw, in the metrics named."""
    first, *others = contenders
    base = contenders[first]
    found = {
        other: {
            name: difference(
                contenders[other].boot[name],
                base.boot[name],
                contenders[other].left_out[name],
                base.left_out[name],
            )
            for name in names
        }
        for other in others
    }
    corrected = {
        name: dict(zip(others, holm([found[o][name].p for o in others]).tolist(), strict=True))
        for name in names
    }
    return [Against(o, found[o], {name: corrected[name][o] for name in names}) for o in others]

"""Which word moves what: the effect of each part of a prompt on the score and on the answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Effect:
    """What one choice for one part of a prompt does, against the other choices for it.

    Attributes
    ----------
    part, choice
        The slot, template or description set, and what stood there.
    change
        Of the metric, against the mean over all choices for this part with all else alike; but for
        what some of the choices do not have, as a template's own slots: that is averaged over.
    answers
        (k,) the same of each class's share of the answers.
    comparisons
        Sets of variants alike in all else that it was averaged over.
    """

    part: str
    choice: str
    change: float
    answers: tuple[float, ...]
    comparisons: int


def effects(
    parts: Sequence[Mapping[str, str]],
    values: NDArray[np.float64],
    answers: NDArray[np.float64],
) -> list[Effect]:
    """Average over variants that differ in one part only; what has no such partner is left out.

    With every combination there these are the main effects of a factorial design (Montgomery,
    Design and Analysis of Experiments, chapter 5). The largest effect of each part on the metric
    comes first.

    Parameters
    ----------
    parts
        Of v variants: name of the part to what stands there.
    values
        (v,) metric; variants of which it is NaN are left out.
    answers
        (v, k) shares of the answers.
    """
    known = np.flatnonzero(~np.isnan(values)).tolist()
    outcomes = np.column_stack([values, answers])
    out: list[Effect] = []
    for name in dict.fromkeys(name for v in known for name in parts[v]):
        having = [v for v in known if name in parts[v]]
        held = _held(name, [parts[v] for v in having])
        alike: dict[tuple[str | None, ...], list[tuple[str, int]]] = defaultdict(list)
        for v in having:
            alike[tuple(parts[v].get(key) for key in held)].append((parts[v][name], v))
        out += _of_part(name, list(alike.values()), outcomes)
    spread: dict[str, float] = defaultdict(float)
    for one in out:
        spread[one.part] = max(spread[one.part], abs(one.change))
    return sorted(out, key=lambda one: (-spread[one.part], one.part, -one.change))


def _held(name: str, parts: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the other parts that every choice for this one has in some variant."""
    by_choice: dict[str, set[str]] = defaultdict(set)
    for one in parts:
        by_choice[one[name]] |= one.keys()
    return sorted(set.intersection(*by_choice.values()) - {name})


def _of_part(
    name: str, alike: Sequence[Sequence[tuple[str, int]]], outcomes: NDArray[np.float64]
) -> list[Effect]:
    """Compare the choices within each set of variants that are alike otherwise."""
    changes: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for variants in alike:
        by_choice: dict[str, list[int]] = defaultdict(list)
        for choice, v in variants:
            by_choice[choice].append(v)
        if len(by_choice) < 2:
            continue
        means = {choice: outcomes[own].mean(axis=0) for choice, own in by_choice.items()}
        middle = np.mean(list(means.values()), axis=0)
        for choice, mean in means.items():
            changes[choice].append(mean - middle)
    return [
        Effect(name, choice, float(mean[0]), tuple(mean[1:].tolist()), len(changes[choice]))
        for choice, mean in ((c, np.mean(found, axis=0)) for c, found in changes.items())
    ]

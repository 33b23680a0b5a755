"""A head's answers for many splits at once, and its parameters chosen without the tested side.

Choosing is nested: within the training side of each split, by folds that keep patients together
(Varma and Simon 2006, "Bias in error estimation when using cross-validation for model selection").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedstore.blocks import Blocks, part
from embedstore.classifier import points
from embedstore.fitted import Answers, Rows, fit, in_columns, takes_blocks
from embedstore.metrics.probabilities import log_loss
from embedstore.splits import inner_folds
from embedstore.types import Floats

Sides = Sequence[tuple[Rows, Rows]]
"""Row numbers of the training and the tested side, split by split."""

Grid = Mapping[str, Sequence[Any]]
"""Values to try of each parameter."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen for one split, and the answers with it."""

    parameters: Mapping[str, Any]
    answers: Answers


def answers(
    make: Callable[..., Any],
    grid: Grid,
    vectors: Floats | Blocks,
    truth: Rows,
    groups: Rows,
    sides: Sides,
) -> list[list[Answers]]:
    """Fit a head at each point of a grid on each training side: answers by point and split.

    A head with a method ``fit_grid(X, y, splits, grid)`` does all of it at once.
    """
    classes, head = int(truth.max()) + 1, make()
    if hasattr(head, "fit_grid") and (takes_blocks(head) or not isinstance(vectors, Blocks)):
        found = head.fit_grid(vectors, truth, sides, grid)
        return [[in_columns(p, known, classes) for p, known in of_point] for of_point in found]
    return [
        [
            fit(make(**point), part(vectors, a), truth[a], groups[a]).answers(
                part(vectors, b), classes
            )
            for a, b in sides
        ]
        for point in points(grid)
    ]


def chosen(
    make: Callable[..., Any],
    grid: Grid,
    vectors: Floats | Blocks,
    truth: Rows,
    groups: Rows,
    sides: Sides,
    seed: int = 0,
) -> list[Chosen]:
    """Choose a grid's point for each split by log loss on inner folds of its training side.

    Parameters
    ----------
    groups
        (n,) numbers of what must not stand on two sides of an inner fold.

    Raises
    ------
    DataError
        A training side has too few patients of a class for inner folds.
    """
    if isinstance(vectors, Blocks) and len(sides) > 1:
        # one after the other: the answers of all points for all inner folds are held meanwhile
        each = ([side] for side in sides)
        return [
            one for alone in each for one in chosen(make, grid, vectors, truth, groups, alone, seed)
        ]
    inner = [
        [(train[a], train[b]) for a, b in inner_folds(truth[train], groups[train], seed)]
        for train, _ in sides
    ]
    every = [*sides, *(side for folds in inner for side in folds)]
    found = answers(make, grid, vectors, truth, groups, every)
    out, start = [], len(sides)
    for number, folds in enumerate(inner):
        own = slice(start, start + len(folds))
        start += len(folds)
        tested = np.concatenate([test for _, test in folds])
        losses = [
            log_loss(truth[tested], np.concatenate(of_point[own])).mean() for of_point in found
        ]
        best = int(np.argmin(losses))
        out.append(Chosen(points(grid)[best], found[best][number]))
    return out


def at_the_edge(grid: Grid, chosen_points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Map each number-valued parameter to the end of its grid that most splits chose."""
    edges = {}
    for name, values in grid.items():
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) < 3 or len(numbers) < len(values):
            continue
        for end in (min(numbers), max(numbers)):
            if sum(p[name] == end for p in chosen_points) * 2 > len(chosen_points):
                edges[name] = end
    return edges

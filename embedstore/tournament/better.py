"""Better prompts out of those there are, found on a choosing side and only there.

Both searches score as many trials at once as `scored` is given; neither sees an image that its
result is tested on, if the side given has none.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from embedstore.metrics import low_is_good
from embedstore.tournament.entries import Entries, Task, Wording
from embedstore.tournament.honest import Pick
from embedstore.tournament.scores import Scores, Side, scored

LIBRARY = 100
"""So many of the best variants may join an ensemble, and word a class of a selection."""

_SWEEPS = 5


def best_variant(entries: Entries, scores: Scores, by: str) -> Pick:
    """Choose the variant of the best score, the first of equals."""
    variant = int(scores.order(by)[0])
    return Pick(entries.wording(variant), float(scores.metric(by)[variant]), variant)


def ensemble(
    task: Task,
    entries: Entries,
    scores: Scores,
    side: Side,
    by: str,
    members: int = 10,
    library: int = LIBRARY,
) -> Pick:
    """Add to the best variant, one at a time, the one that helps most, as long as one does.

    Greedy forward selection with replacement (Caruana et al. 2004), of which the vectors and not
    the answers are averaged: the sentences of all members word the class together, so that the
    result is one prompt set and as quick as any.

    Parameters
    ----------
    scores
        Of `entries` on `side`.
    members
        At most so many, repetitions counted.
    """
    pick = best_variant(entries, scores, by)
    candidates = [entries.wording(v) for v in scores.order(by)[:library].tolist()]
    for _ in range(members - 1):
        trials = [_joined(pick.wording, one) for one in candidates]
        following = _best(task, Entries.of(entries.sentences, trials), side, by)
        if not _better(following.chosen, pick.chosen, by):
            break
        pick = replace(following, variant=None)
    return pick


def per_class(
    task: Task,
    entries: Entries,
    scores: Scores,
    side: Side,
    by: str,
    library: int = LIBRARY,
) -> Pick:
    """Choose each class's wording by itself, the others held, until no change helps.

    Starts at the best variant; a class may take its wording from the `library` variants that did
    best among those which word it differently.

    Parameters
    ----------
    scores
        Of `entries` on `side`.
    """
    pick = best_variant(entries, scores, by)
    own = entries.sets[scores.order(by)[0]].copy()
    choices = [_wordings(entries.sets[scores.order(by), c], library) for c in range(len(own))]
    for _ in range(_SWEEPS):
        before = own.copy()
        for c, sets in enumerate(choices):
            trials = np.tile(own, (len(sets), 1))
            trials[:, c] = sets
            tried = replace(entries, sets=trials)
            following = _best(task, tried, side, by)
            if _better(following.chosen, pick.chosen, by) and following.variant is not None:
                own = trials[following.variant]
                pick = replace(following, variant=None)
        if np.array_equal(own, before):
            break
    return pick


def _wordings(ordered: NDArray[np.int32], most: int) -> NDArray[np.int32]:
    """(u,) distinct sets in the order of their best variants."""
    sets, first = np.unique(ordered, return_index=True)
    return sets[np.argsort(first)][:most]


def _joined(one: Wording, other: Wording) -> Wording:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _best(task: Task, trials: Entries, side: Side, by: str) -> Pick:
    (found,) = scored(task, trials, [side], auroc=by == "auroc")
    return best_variant(trials, found, by)


def _better(one: float, other: float, by: str) -> bool:
    return one < other if low_is_good(by) else one > other

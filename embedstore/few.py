"""Learning from few images: a part of a training side, drawn so that it can be published."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import UsageError


@dataclass(frozen=True, slots=True)
class Few:
    """How much of each training side is learnt from: images of each class, or a share of it."""

    of_each_class: int = 0
    share: float = 1.0

    def __str__(self) -> str:
        """Say it in a few words."""
        if self.of_each_class:
            return f"{self.of_each_class} of each class"
        return f"{self.share:.3g} of the training side"

    def take(
        self, truth: NDArray[np.intp], groups: NDArray[np.intp], train: NDArray[np.intp], seed: int
    ) -> NDArray[np.intp]:
        """Draw from the rows of a training side, patient by patient in an order of the seed's.

        Smaller draws of one seed are contained in larger ones. Few images of a class are of as
        many patients as there are.

        Raises
        ------
        UsageError
            A class has fewer images.
        """
        rng = np.random.default_rng(seed)
        drawn = []
        for number in np.unique(truth[train]):
            rows = rng.permutation(train[truth[train] == number])
            turn = _turns(groups[rows])  # first one image of each patient, then a second
            rows = rows[np.argsort(turn, kind="stable")]
            want = self.of_each_class or max(1, round(self.share * len(rows)))
            if want > len(rows):
                raise UsageError(
                    f"a training side has {len(rows)} images of a class, fewer than {want}; give "
                    f"a smaller number"
                )
            drawn.append(rows[:want])
        return np.sort(np.concatenate(drawn))


def _turns(groups: NDArray[np.intp]) -> NDArray[np.intp]:
    """Count for each place how often its group stood before it."""
    seen: Counter[int] = Counter()
    turns = []
    for group in groups.tolist():
        turns.append(seen[group])
        seen[group] += 1
    return np.array(turns, dtype=np.intp)

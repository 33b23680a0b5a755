"""A linear probe by several splits, as it is or after erasure, and the difference of two such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore import registry
from embedstore.audit.erasure import Eraser
from embedstore.choose import answers
from embedstore.fitted import Answers
from embedstore.metrics import RESAMPLES, jackknife, measured, patient_draws, percentile
from embedstore.metrics.compare import Difference, difference
from embedstore.splits import kfold, linked
from embedstore.types import Embeddings, Floats, Split

METRICS = {"accuracy": "accuracy", "auroc": "AUROC"}

_FOLDS = 5
_FEW_IMAGES = 5000

Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Question:
    """Images and what is to be told of them.

    Attributes
    ----------
    values, truth
        (n,) str, and (n,) their numbers in `classes`.
    groups
        (n,) numbers of what must stay together.
    splits
        By patient, for one fold seed each.
    """

    images: Embeddings
    values: NDArray[np.str_]
    classes: tuple[str, ...]
    truth: NDArray[np.intp]
    groups: NDArray[np.intp]
    splits: tuple[Split, ...]

    @classmethod
    def of(cls, images: Embeddings, values: NDArray[np.str_], seed: int = 0) -> Question:
        """Give the values numbers, and split by patient: one fold seed, or three of few images.

        Raises
        ------
        DataError
            There are too few patients, in all or of a class.
        """
        classes = tuple(np.unique(values).tolist())
        groups = linked(images)
        seeds = range(seed, seed + (3 if len(images) <= _FEW_IMAGES else 1))
        least = min((len(np.unique(groups[values == c])) for c in classes), default=0)
        folds = max(2, min(_FOLDS, least))
        splits = tuple(kfold(images, values, folds, s) for s in seeds)
        truth = np.searchsorted(classes, values).astype(np.intp)
        return cls(images, values, classes, truth, groups, splits)

    def by_image(self) -> tuple[Split, ...]:
        """Split the same images by the same seeds, whoever they are of."""
        return tuple(
            kfold(self.images, self.values, int(s.fold.max()) + 1, s.seed, by="image")
            for s in self.splits
        )

    def tell(
        self, splits: Sequence[Split], concept: NDArray[np.intp] | None = None
    ) -> list[Answers]:
        """Answer for every image, once for each split: (n, k) probabilities.

        With a `concept`, (n,) class numbers, it is erased first, as the training side alone
        teaches.
        """
        vectors = np.asarray(self.images.vectors, dtype=np.float32)
        head = registry.load(registry.PROBES, "logistic")
        sides = [side for split in splits for side in split]
        if concept is None:
            (found,) = answers(head, {}, vectors, self.truth, self.groups, sides)
        else:
            found = [
                answers(head, {}, erased, self.truth, self.groups, [side])[0][0]
                for side in sides
                for erased in [_erased(vectors, concept, side[0])]
            ]
        left = iter(found)
        runs = []
        for split in splits:
            run = np.zeros((len(vectors), len(self.classes)))
            for _, test in split:
                run[test] = next(left)
            runs.append(run)
        return runs

    def measured(self, runs: Sequence[Answers], seed: int = 0) -> Measured:
        """Score answers, averaged over the splits draw by draw."""
        both = []
        for draws in (patient_draws(self.groups, RESAMPLES, seed), jackknife(self.groups)):
            of = [measured(self.truth, run, draws, self.classes) for run in runs]
            both.append({m: np.mean([v[m] for v in of], axis=0) for m in METRICS})
        return Measured(*both)


def _erased(vectors: Floats, concept: NDArray[np.intp], train: NDArray[np.intp]) -> Floats:
    return Eraser.fit(vectors[train], concept[train])(vectors).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Measured:
    """Metrics by name on the same draws of patients, (b,) each, and with patients left out."""

    values: Values
    left_out: Values

    def score(self, metric: str) -> str:
        """Value and interval, in words."""
        low, high = percentile(self.values[metric])
        return f"{self.values[metric][0]:.3f} ({low:.3f} to {high:.3f})"

    def low(self, metric: str) -> float:
        """Lower end of the interval."""
        return percentile(self.values[metric])[0]

    def less(self, other: Measured, metric: str) -> Difference:
        """Subtract another's, patient draw by patient draw."""
        return difference(
            self.values[metric],
            other.values[metric],
            self.left_out[metric],
            other.left_out[metric],
        )


def told(found: Difference) -> str:
    """Say a difference and its interval."""
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"

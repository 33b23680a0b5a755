"""What heads answered: of images, or of the views, breasts, exams and patients they are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedstore.calibration import apply_temperature, fit_temperature
from embedstore.fitted import Answers
from embedstore.levels import Units
from embedstore.results import Bin
from embedstore.types import VALIDATION

_BINS = 10


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers of heads that saw no image of the same patient, once for each fold seed.

    Attributes
    ----------
    ids
        (n,) str.
    truth, groups
        (n,) class numbers, and numbers of what is linked (patients).
    columns
        Name to (n,) str.
    runs
        For each seed (n, k) probabilities, zeros where not tested.
    fold
        For each seed (n,) the fold that tested it, or why none did, as in `Split`.
    """

    ids: NDArray[np.str_]
    truth: NDArray[np.intp]
    groups: NDArray[np.intp]
    columns: Mapping[str, NDArray[np.str_]]
    runs: tuple[Answers, ...]
    fold: tuple[NDArray[np.intp], ...]

    @property
    def tested(self) -> NDArray[np.bool_]:
        """(n,): which the first seed tested."""
        tested: NDArray[np.bool_] = self.fold[0] >= 0
        return tested

    def take(self, rows: NDArray[np.bool_]) -> Answered:
        """Only those rows."""
        return Answered(
            self.ids[rows],
            self.truth[rows],
            self.groups[rows],
            {name: values[rows] for name, values in self.columns.items()},
            tuple(run[rows] for run in self.runs),
            tuple(fold[rows] for fold in self.fold),
        )

    def at(self, of: Units, labels: NDArray[np.str_]) -> tuple[Answered, NDArray[np.bool_]]:
        """Average the answers for each unit's images; units of several labels are left out.

        Also return which units, (u,), were.
        """
        first = np.unique(of.of, return_index=True)[1]
        _, differ = of.agreed(labels)
        fold, runs = [], []
        for each, run in zip(self.fold, self.runs, strict=True):
            most = np.full(len(of.ids), each.min())
            np.maximum.at(most, of.of, each)
            # the validation side has answers, too
            aside = (each == VALIDATION) & (most[of.of] == VALIDATION)
            fold.append(most)
            runs.append(of.mean(run, (each >= 0) | aside))
        units = Answered(
            of.ids,
            self.truth[first],
            self.groups[first],
            {name: of.agreed(values)[0] for name, values in self.columns.items()},
            tuple(runs),
            tuple(fold),
        )
        return units.take(~differ), differ

    def calibrated(self) -> Answered | None:
        """Temper the answers by what other patients' answers teach; None where there are none.

        The temperature of a fold is fitted to the answers on the validation side of the split,
        else to those of the other folds.
        """
        runs = []
        for run, fold in zip(self.runs, self.fold, strict=True):
            tempered = np.zeros_like(run)
            for k in range(int(fold.max()) + 1):
                aside = (fold == VALIDATION) & (fold.max() == 0)
                rows = aside if aside.any() else (fold >= 0) & (fold != k)
                if not rows.any():
                    return None
                temperature = fit_temperature(run[rows], self.truth[rows])
                tempered[fold == k] = apply_temperature(run[fold == k], temperature)
            runs.append(tempered)
        return replace(self, runs=tuple(runs))

    def reliability(self) -> tuple[Bin, ...]:
        """How often answers of each confidence are right, in ten bins; empty ones are left out.

        Of the first seed (DeGroot and Fienberg 1983; Guo et al. 2017).
        """
        run, truth = self.runs[0][self.tested], self.truth[self.tested]
        confidence, right = run.max(axis=1), run.argmax(axis=1) == truth
        bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
        return tuple(
            Bin(
                float(confidence[bins == b].mean()),
                float(right[bins == b].mean()),
                int((bins == b).sum()),
            )
            for b in np.unique(bins).tolist()
        )

"""Scores of class probabilities: resampled by patient, with intervals, floors and comparisons."""

from embedstore.metrics.draws import RESAMPLES, Draws, jackknife, patient_draws
from embedstore.metrics.floors import floors, highest
from embedstore.metrics.intervals import bca, percentile
from embedstore.metrics.measure import (
    TITLES,
    grouped,
    low_is_good,
    measured,
    metric_title,
    refuse_unknown,
)

__all__ = [
    "RESAMPLES",
    "TITLES",
    "Draws",
    "bca",
    "floors",
    "grouped",
    "highest",
    "jackknife",
    "low_is_good",
    "measured",
    "metric_title",
    "patient_draws",
    "percentile",
    "refuse_unknown",
]

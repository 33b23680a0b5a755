"""A head on stored vectors, by a leak-free split, to a report."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.classes import numeric, order_of
from embedstore.errors import DataError, UsageError
from embedstore.metrics import (
    RESAMPLES,
    confusion,
    floors,
    patient_weights,
    resampled,
    scores,
)
from embedstore.splits import holdout, kfold, linked
from embedstore.types import Embeddings, Floats, Report, Score, Split

Answers = NDArray[np.float64]
"""(n, k) probabilities, each row by a head that did not see the image's patient."""


def labelled(embeddings: Embeddings, label: str) -> tuple[Embeddings, NDArray[np.str_], int]:
    """Leave out the images whose label is unknown; also return the labels and how many left."""
    if label not in embeddings.columns:
        raise UsageError(f"no column {label!r}; there are {', '.join(embeddings.columns)}")
    values = embeddings.columns[label]
    known = values != ""
    if not known.any():
        raise DataError(f"label {label!r} is empty for all {len(values)} images")
    kept = embeddings.take(known)
    if not np.isfinite(kept.vectors).all():
        raise DataError(f"vectors of Spec {embeddings.spec.key} hold NaN or infinity")
    return kept, values[known], int((~known).sum())


def evaluate(
    embeddings: Embeddings,
    label: str,
    make_probe: Callable[[], Any],
    name: str,
    folds: int = 5,
    test_share: float = 0.0,
    repeats: int = 1,
    seed: int = 0,
    order: tuple[str, ...] = (),
) -> Report:
    """Train and test a head, and score it with intervals and floors.

    With k-fold, every image is tested once, by a head that saw no image of its patient; the
    metrics are of all these answers together. With `repeats` they are averaged over fold seeds.
    Vectors are standardised by the training side of each fold.

    Parameters
    ----------
    make_probe
        Returns a fresh head, any scikit-learn classifier with ``predict_proba``.
    test_share
        More than 0: one stratified holdout of that share instead of `folds`.
    order
        The classes in clinical order, for quadratic kappa.

    Raises
    ------
    DataError
        The labels, patients or vectors allow no honest score; the message says why.
    """
    began = time.monotonic()
    kept, labels, left_out = labelled(embeddings, label)
    classes = order_of(labels, order)
    truth = np.array([classes.index(v) for v in labels.tolist()], dtype=np.intp)
    splits = _splits(kept, labels, folds, test_share, repeats, seed)
    runs = [_run(kept, truth, len(classes), split, make_probe) for split in splits]
    groups = linked(kept)
    tested = splits[0].fold >= 0
    probe = make_probe()
    return Report(
        probe=name,
        parameters=probe.get_params() if hasattr(probe, "get_params") else {},
        spec=embeddings.spec,
        label=label,
        classes=classes,
        split=f"{splits[0].method}, {repeats} seeds" if repeats > 1 else splits[0].method,
        split_fingerprint=splits[0].fingerprint,
        metrics=_metrics(truth, groups, splits, runs, seed),
        confusion=_confusion(truth[tested], runs[0][tested]),
        n_train=int(np.mean([len(train) for train, _ in splits[0]])),
        n_test=int(tested.sum()),
        n_patients=len(np.unique(groups[tested])),
        seconds=time.monotonic() - began,
        notes=_notes(kept, left_out, label) + _order_note(classes, order),
    )


def _splits(
    embeddings: Embeddings,
    labels: NDArray[np.str_],
    folds: int,
    test_share: float,
    repeats: int,
    seed: int,
) -> list[Split]:
    if repeats < 1:
        raise UsageError(f"{repeats} repeats; give at least 1")
    seeds = range(seed, seed + repeats)
    if test_share:
        return [holdout(embeddings, labels, test_share, s) for s in seeds]
    return [kfold(embeddings, labels, folds, s) for s in seeds]


def _metrics(
    truth: NDArray[np.intp],
    groups: NDArray[np.intp],
    splits: Sequence[Split],
    runs: Sequence[Answers],
    seed: int,
) -> dict[str, Score]:
    """Score every repeat on the same drawn patients, so that their mean keeps its true spread."""
    ever = np.any([split.fold >= 0 for split in splits], axis=0)
    weights = patient_weights(groups[ever], RESAMPLES, seed)
    draws, lows = [], []
    for split, probabilities in zip(splits, runs, strict=True):
        tested = split.fold >= 0
        draws.append(resampled(truth[tested], probabilities[tested], weights[:, tested[ever]]))
        lows.append(floors(truth[tested], probabilities.shape[1]))
    return scores(draws, {m: float(np.mean([f[m] for f in lows])) for m in lows[0]})


def _confusion(
    truth: NDArray[np.intp], probabilities: NDArray[np.float64]
) -> tuple[tuple[int, ...], ...]:
    every = np.ones((1, len(truth)))
    counts = confusion(truth, probabilities.argmax(axis=1), probabilities.shape[1], every)
    return tuple(tuple(int(v) for v in row) for row in counts[0])


def _run(
    embeddings: Embeddings,
    truth: NDArray[np.intp],
    classes: int,
    split: Split,
    make_probe: Callable[[], Any],
) -> Answers:
    probabilities = np.zeros((len(truth), classes))
    vectors = np.asarray(embeddings.vectors, dtype=np.float32)
    for train, test in split:
        mean, scale = standardisation(vectors[train])
        probe = make_probe()
        with warnings.catch_warnings():
            # a head that stopped early is judged by its score, not by a warning in the table
            warnings.filterwarnings("ignore", message="lbfgs failed to converge")
            probe.fit((vectors[train] - mean) / scale, truth[train])
        answered = probe.predict_proba((vectors[test] - mean) / scale)
        probabilities[np.ix_(test, np.asarray(probe.classes_, dtype=np.intp))] = answered
    return probabilities


def standardisation(train: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each column, (d,) each; 1 where a column is constant."""
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = train.std(axis=0, dtype=np.float64).astype(np.float32)
    # a constant column comes out as rounding noise, not as an exact zero
    scale[scale <= 1e-6 * np.abs(mean)] = 1
    scale[scale == 0] = 1
    return mean, scale


def _notes(embeddings: Embeddings, left_out: int, label: str) -> tuple[str, ...]:
    notes = []
    if left_out:
        notes.append(f"{left_out} images without {label} left out")
    if unknown := int((embeddings.groups == "").sum()):
        notes.append(f"patients unknown for {unknown} images: each counts as a patient of its own")
    return tuple(notes)


def _order_note(classes: tuple[str, ...], order: tuple[str, ...]) -> tuple[str, ...]:
    if order or len(classes) < 3 or numeric(classes):
        return ()
    return (
        f"quadratic kappa takes the classes in alphabetical order: {', '.join(classes)}; "
        f"give the clinical order with --order",
    )

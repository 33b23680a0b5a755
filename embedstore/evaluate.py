"""A head on stored vectors, by a leak-free split, to a report."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import DataError
from embedstore.metrics import RESAMPLES, floors, patient_weights, resampled, scores
from embedstore.splits import holdout, kfold, linked
from embedstore.types import Embeddings, Floats, Report, Split


def labelled(embeddings: Embeddings, label: str) -> tuple[Embeddings, NDArray[np.str_], int]:
    """Leave out the images whose label is unknown; also return the labels and how many left."""
    values = embeddings.columns[label]
    known = values != ""
    if not known.any():
        raise DataError(f"label {label!r} is empty for all {len(values)} images")
    kept = embeddings.take(known)
    if not np.isfinite(kept.vectors).all():
        raise DataError(f"vectors of Spec {embeddings.spec.key} hold NaN or infinity")
    return kept, values[known], int((~known).sum())


def order_of(labels: NDArray[np.str_], order: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the classes in the order quadratic kappa takes them: as given, else sorted.

    Numbers sort as numbers.

    Raises
    ------
    DataError
        `order` leaves a class out.
    """
    found = {str(v) for v in np.unique(labels)}
    if order:
        if missing := found - set(order):
            raise DataError(f"the class order leaves out {', '.join(sorted(missing))}")
        return tuple(c for c in order if c in found)
    try:
        return tuple(sorted(found, key=float))
    except ValueError:
        return tuple(sorted(found))


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
    splits = [
        holdout(kept, labels, test_share, seed + r)
        if test_share
        else kfold(kept, labels, folds, seed + r)
        for r in range(repeats)
    ]
    groups = linked(kept)
    runs = [_run(kept, truth, len(classes), split, make_probe) for split in splits]
    draws, lows = [], []
    for split, (probabilities, majority) in zip(splits, runs, strict=True):
        tested = split.fold >= 0
        # one seed: with k-fold every repeat tests all images, and so draws the same patients
        weights = patient_weights(groups[tested], RESAMPLES, seed)
        draws.append(resampled(truth[tested], probabilities[tested], weights))
        lows.append(floors(truth[tested], majority[tested], len(classes)))
    tested = splits[0].fold >= 0
    answers = runs[0][0].argmax(axis=1)
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (truth[tested], answers[tested]), 1)
    probe = make_probe()
    return Report(
        probe=name,
        parameters=probe.get_params() if hasattr(probe, "get_params") else {},
        spec=embeddings.spec,
        label=label,
        classes=classes,
        split=f"{splits[0].method}, {repeats} seeds" if repeats > 1 else splits[0].method,
        split_fingerprint=splits[0].fingerprint,
        metrics=scores(draws, {m: float(np.mean([f[m] for f in lows])) for m in lows[0]}),
        confusion=tuple(tuple(int(v) for v in row) for row in counts),
        n_train=int(np.mean([len(train) for train, _ in splits[0]])),
        n_test=int(tested.sum()),
        n_patients=len(np.unique(groups[tested])),
        seconds=time.monotonic() - began,
        notes=_notes(kept, left_out, label),
    )


def _run(
    embeddings: Embeddings,
    truth: NDArray[np.intp],
    classes: int,
    split: Split,
    make_probe: Callable[[], Any],
) -> tuple[Floats, NDArray[np.intp]]:
    """Return (n, k) probabilities from the fold that tested each image, and the majority there."""
    probabilities = np.zeros((len(truth), classes), dtype=np.float32)
    majority = np.zeros(len(truth), dtype=np.intp)
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
        majority[test] = np.bincount(truth[train], minlength=classes).argmax()
    return probabilities, majority


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

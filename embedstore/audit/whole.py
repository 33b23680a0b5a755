"""All sections of an audit, one after the other."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.audit.findings import Audit, Finding, Section
from embedstore.audit.labels import labels
from embedstore.audit.leak import leak
from embedstore.audit.neighbours import near_identical, nearest
from embedstore.audit.shortcuts import columns_of, shortcut
from embedstore.audit.strays import strays
from embedstore.audit.trials import Question
from embedstore.audit.worth import worth
from embedstore.protocol import labelled
from embedstore.split_columns import from_column
from embedstore.split_files import SavedSplit
from embedstore.store import Store
from embedstore.types import Embeddings, Spec, Split

_SECTIONS = 5


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked of a store.

    Attributes
    ----------
    split
        A saved one, or the column that says who is where; none: what probe would do.
    shortcuts
        Columns the label must not be read by; none: every column with 2 to 20 values.
    """

    label: str
    split: SavedSplit | str | None = None
    shortcuts: tuple[str, ...] = ()


def audit(
    store: Store,
    spec: Spec,
    asked: Questions,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Look for what makes scores of these vectors untrue.

    Parameters
    ----------
    show
        Told how many steps are done, and of how many.

    Raises
    ------
    DataError
        The label or the patients allow no score at all.
    UsageError
        A column is not there.
    """
    began = time.monotonic()
    images, values, left_out = labelled(store.read(spec), asked.label)
    splits, notes = _splits(images, values, asked.split)
    columns = columns_of(images, asked.label, asked.shortcuts)
    question = Question.of(images, values)
    steps = itertools.count(1)
    total = _SECTIONS + len(columns)

    def step() -> None:
        show(next(steps), total)

    sections = []
    for section in _sections(store, question, splits, columns, asked.shortcuts, step):
        sections.append(section)
        step()
    if unknown := int((images.groups == "").sum()):
        notes = (f"patients unknown for {unknown} images: each counts as one of its own", *notes)
    if left_out:
        notes = (f"{left_out} images without {asked.label} left out", *notes)
    return Audit(
        str(store.path),
        spec,
        asked.label,
        splits[0].method if splits else "",
        len(images),
        len(np.unique(question.groups)),
        tuple(sections),
        (*notes, *store.notes(spec)),
        time.monotonic() - began,
    )


def _sections(
    store: Store,
    question: Question,
    splits: Sequence[Split],
    columns: Sequence[str],
    asked: Sequence[str],
    step: Callable[[], None],
) -> Iterator[Section]:
    images, spec = question.images, question.images.spec
    near = nearest(np.asarray(images.vectors, dtype=np.float32), question.groups)
    pairs = near_identical(near) if near else []
    yield leak(images, splits, near, pairs)
    runs = question.tell(question.splits)
    by_patient = question.measured(runs)
    yield worth(question, by_patient)
    yield labels(question, np.mean(runs, axis=0), pairs)
    found = []
    for name in columns:
        found.append(shortcut(question, by_patient, name, name in asked, spec.recipe))
        step()
    none = Finding("fine", "no column with 2 to 20 values besides the label")
    yield Section("Shortcuts", tuple(found) or (none,))
    failures = [f for f in store.failures() if f.spec == spec.key]
    yield strays(images, near, store.kept(spec.recipe), failures)


def _splits(
    images: Embeddings, values: NDArray[np.str_], asked: SavedSplit | str | None
) -> tuple[list[Split], tuple[str, ...]]:
    if asked is None:
        return [], ()
    if isinstance(asked, str):
        return [from_column(images, values, asked)], ()
    return asked.on(images)

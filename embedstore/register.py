"""The samples of a manifest beside those of a store: known, new, or contradicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import ManifestError
from embedstore.store import Store
from embedstore.types import Sample
from embedstore.writer import Writer

_COLUMNS = ("exam", "view", "laterality", "split")


def register(writer: Writer, samples: Sequence[Sample]) -> NDArray[np.int64]:
    """Add the samples the store does not know, and labels it does not have.

    Returns
    -------
    ndarray
        (n,) the store's raw row of each sample.

    Raises
    ------
    ManifestError
        The manifest and the store say different things of a sample.
    """
    store = writer.store()
    known = rows_of(store)
    fresh = [s for s in samples if s.id not in known]
    old = [s for s in samples if s.id in known]
    _refuse_others(store, old, known)
    _add_labels(writer, store, old, known)
    _fill_columns(writer, store, old, known)
    if fresh:
        writer.add_samples(fresh)
        known |= {s.id: store.rows("samples/id") + i for i, s in enumerate(fresh)}
    return np.array([known[s.id] for s in samples], dtype=np.int64)


def rows_of(store: Store) -> dict[str, int]:
    """Map each sample's id to its raw row."""
    rows = store.visible
    ids: list[str] = store.array("samples/id", rows).tolist()
    return dict(zip(ids, rows.tolist(), strict=True))


def _add_labels(
    writer: Writer, store: Store, samples: Sequence[Sample], known: Mapping[str, int]
) -> None:
    """Add label columns that are new, and fill in what was blank."""
    for name in dict.fromkeys(n for s in samples for n in s.labels):
        given = {known[s.id]: s.labels.get(name, "") for s in samples}
        if name not in store.labels:
            rows = range(store.rows("samples/id"))
            writer.add_label(name, [given.get(row, "") for row in rows])
            continue
        there = store.array(f"samples/labels/{name}").tolist()
        values = [value or given.get(row, "") for row, value in enumerate(there)]
        if values != there:
            writer.fill_label(name, values)


def _fill_columns(
    writer: Writer, store: Store, samples: Sequence[Sample], known: Mapping[str, int]
) -> None:
    """Fill in what was blank of the other columns."""
    for name in _COLUMNS:
        given = {known[s.id]: getattr(s, name) for s in samples}
        there = store.array(f"samples/{name}").tolist()
        values = [value or given.get(row, "") for row, value in enumerate(there)]
        if values != there:
            writer.rewrite(f"samples/{name}", [values])


def _refuse_others(store: Store, samples: Sequence[Sample], known: Mapping[str, int]) -> None:
    """Stop where the manifest contradicts the store: silently keeping either would be wrong.

    What one of them leaves blank, but for the patient, is no contradiction.
    """
    columns = {f"label {n!r}": store.array(f"samples/labels/{n}") for n in store.labels}
    columns |= {n: store.array(f"samples/{n}") for n in _COLUMNS}
    columns["patient"] = store.array("samples/group")
    for sample in samples:
        row = known[sample.id]
        given = {f"label {n!r}": v for n, v in sample.labels.items()}
        given |= {n: getattr(sample, n) for n in _COLUMNS} | {"patient": sample.group}
        for name, value in given.items():
            there = str(columns[name][row]) if name in columns else ""
            if there != value and (name == "patient" or (there and value)):
                raise ManifestError(
                    f"sample {sample.id!r}: {name} is {value!r} in the manifest and {there!r} in "
                    f"the store; change the store by `embedstore update`, or give changed images "
                    f"new ids"
                )

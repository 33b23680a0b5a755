"""What a split must know of a store's images: patients, exams, files and labels; no vectors."""

from __future__ import annotations

import numpy as np

from embedstore.errors import DataError
from embedstore.store import SAMPLE_COLUMNS, Store
from embedstore.types import Embeddings, Recipe, Spec

_NONE = Spec("none", "", Recipe(), "", 1)


def samples_of(store: Store) -> Embeddings:
    """Return every image that has a vector of some backbone, with a zero in place of the vector.

    Raises
    ------
    DataError
        There is none.
    """
    digests = np.zeros((store.rows("samples/id"), 16), dtype=np.uint8)
    there = np.zeros(len(digests), dtype=bool)
    for spec in store.specs.values():
        rows, places = store.aligned(spec)
        digests[rows] = store.array(f"embeddings/{spec.key}/digests", places)
        there[rows] = True
    rows = np.flatnonzero(there)
    if not len(rows):
        raise DataError(f"{store.path}: holds no vectors yet; run `embedstore extract`")
    names = (*SAMPLE_COLUMNS, *store.labels)
    columns = {name: store.array(store.column_array(name), rows) for name in names}
    ids, groups = columns.pop("id"), columns.pop("group")
    vectors = np.zeros((len(rows), 1), dtype=np.float32)
    return Embeddings(_NONE, ids, vectors, groups, digests[rows], columns)

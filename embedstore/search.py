"""Cases like this one, from other patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedstore.errors import UsageError
from embedstore.index import ExactIndex
from embedstore.splits import linked
from embedstore.types import Embeddings


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One found image; `cosine` is between -1 and 1, `columns` is what the store knows of it."""

    rank: int
    id: str
    cosine: float
    group: str
    columns: dict[str, str]


def neighbours(
    embeddings: Embeddings, sample_id: str, k: int = 5, same_patient: bool = False
) -> list[Neighbour]:
    """Return the `k` images most like `sample_id`, most alike first.

    The image itself never counts, nor, unless `same_patient`, any image that a split would keep
    with it: of its patient, of its exam or with the same bytes, and so on in chains.

    Raises
    ------
    UsageError
        There is no such id.
    DataError
        Fewer than `k` images are left to choose from.
    """
    found = np.flatnonzero(embeddings.ids == sample_id)
    if len(found) == 0:
        raise UsageError(
            f"no image {sample_id!r} among the {len(embeddings)} embedded by "
            f"{embeddings.spec.backbone}; the ids look like {str(embeddings.ids[0])!r}"
        )
    query = int(found[0])
    unit = embeddings.unit()
    sets = np.arange(len(embeddings)) if same_patient else linked(embeddings)
    out = np.flatnonzero(sets == sets[query])
    cosines, rows = ExactIndex(unit).search(unit[query : query + 1], k, without=out)
    return [
        _neighbour(embeddings, rank, int(row), float(cosine))
        for rank, (row, cosine) in enumerate(zip(rows[0], cosines[0], strict=True), 1)
    ]


def _neighbour(embeddings: Embeddings, rank: int, row: int, cosine: float) -> Neighbour:
    columns = {name: str(values[row]) for name, values in embeddings.columns.items()}
    return Neighbour(rank, str(embeddings.ids[row]), cosine, str(embeddings.groups[row]), columns)

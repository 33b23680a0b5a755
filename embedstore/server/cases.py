"""Samples as the page shows them: what the table says, but never where their files lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedstore.server.pictures import Pictures
from embedstore.server.schemas import Case
from embedstore.server.snapshot import Snapshot
from embedstore.types import Spec

_SHOWN = {
    "id": "id",
    "patient": "group",
    "exam": "exam",
    "view": "view",
    "laterality": "laterality",
}


def cases(
    snapshot: Snapshot,
    spec: Spec,
    pictures: Pictures,
    rows: Sequence[int],
    similarities: Sequence[float] = (),
    label: str = "",
    wanted: str = "",
) -> list[Case]:
    """Describe samples.

    Parameters
    ----------
    rows
        Raw rows.
    label, wanted
        The label that is marked, and the value to agree with, "" where it is not known.
    """
    store, at = snapshot.store, np.asarray(rows, dtype=np.intp)
    texts = {k: store.array(store.column_array(c), at).tolist() for k, c in _SHOWN.items()}
    labels = {n: store.array(store.column_array(n), at).tolist() for n in store.labels}
    reasons = pictures.why_none(snapshot, spec, rows)
    found = []
    for i, reason in enumerate(reasons):
        mine = {name: values[i] for name, values in labels.items()}
        value = mine.get(label, "")
        found.append(
            Case(
                **{name: values[i] for name, values in texts.items()},
                labels=mine,
                picture=reason,
                similarity=round(float(similarities[i]), 6) if len(similarities) else None,
                agrees=value == wanted if value and wanted else None,
            )
        )
    return found

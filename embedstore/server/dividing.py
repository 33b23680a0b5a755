"""Two sentences, and which of them each image of the store is nearer to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedstore.search import Searcher
from embedstore.server import schemas
from embedstore.server.cases import cases
from embedstore.server.pictures import Pictures
from embedstore.server.snapshot import Snapshot
from embedstore.types import Floats, Spec

BARS, EXTREMES, VALUES = 40, 6, 12
"""Bars of the histogram, cases at each end, and values of a label that are counted apart."""

_BLOCK = 1 << 15


def margins(searcher: Searcher, places: NDArray[np.intp], pair: Floats) -> Floats:
    """(m,) cosine to the first of two (2, d) unit vectors less that to the second."""
    direction = (pair[0] - pair[1]).astype(np.float32)
    found = np.empty(len(places), dtype=np.float32)
    for start in range(0, len(places), _BLOCK):
        some = places[start : start + _BLOCK]
        found[start : start + _BLOCK] = searcher.vectors[some].astype(np.float32) @ direction
    found *= searcher.tables.inverse[places]
    return found


def divide(
    snapshot: Snapshot, spec: Spec, pictures: Pictures, asked: schemas.Divide, pair: Floats
) -> schemas.Division:
    """Divide the images that pass the filter.

    Parameters
    ----------
    pair
        (2, d) unit vectors of the two sentences.

    Raises
    ------
    UsageError
        The filter or the label is none.
    DataError
        No image passes.
    """
    searcher = snapshot.searcher(spec)
    places = searcher.passing(asked.where.strip())
    margin = margins(searcher, places, pair)
    most = float(np.abs(margin).max()) or 1.0
    edges = np.linspace(-most, most, BARS + 1)
    rows = searcher.rows[places]
    ends = _ends(margin)
    shown = [
        cases(snapshot, spec, pictures, rows[at].tolist(), margin[at].tolist(), asked.label)
        for at in ends
    ]
    return schemas.Division(
        commit=snapshot.store.commit,
        backbone=spec.key,
        a=int((margin > 0).sum()),
        b=int((margin <= 0).sum()),
        edges=edges.round(6).tolist(),
        shares=_shares(snapshot, spec, asked.label, places, margin, edges),
        most_a=shown[0],
        undecided=shown[1],
        most_b=shown[2],
        notes=list(snapshot.notes(spec)),
    )


def _ends(margin: Floats) -> tuple[NDArray[np.intp], ...]:
    """Return the places of the most decided for the first, the least, and for the second."""
    order = np.argsort(-margin, kind="stable")
    least = np.argsort(np.abs(margin), kind="stable")
    return order[:EXTREMES], least[:EXTREMES], order[::-1][:EXTREMES]


def _shares(
    snapshot: Snapshot,
    spec: Spec,
    label: str,
    places: NDArray[np.intp],
    margin: Floats,
    edges: NDArray[np.float64],
) -> list[schemas.Share]:
    """Count the sides and the bars for each value of the label, or for all as one."""
    if not label:
        return [_share("", margin, edges)]
    codes = snapshot.codes(spec, label)
    code = codes.code[places]
    common = np.sort(np.argsort(-codes.counts, kind="stable")[:VALUES])
    found = [_share(codes.values[c], margin[code == c], edges) for c in common.tolist()]
    rest = margin[~np.isin(code, common)]
    return [*found, *([_share("", rest, edges)] if len(rest) else [])]


def _share(value: str, margin: Floats, edges: NDArray[np.float64]) -> schemas.Share:
    bars, _ = np.histogram(margin, edges)
    first = int((margin > 0).sum())
    return schemas.Share(value=value, a=first, b=len(margin) - first, bars=bars.tolist())

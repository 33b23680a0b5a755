"""Queries made of samples: one, several as one, like these and not like those."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import UsageError
from embedstore.links import joined
from embedstore.privacy import alias_of
from embedstore.search import Asked, Searcher
from embedstore.types import Floats, unit_rows


def asked(
    searcher: Searcher,
    ids: str | Sequence[str | Sequence[str]] | None = None,
    vectors: NDArray[np.floating[Any]] | None = None,
    unlike: Sequence[str] = (),
) -> Asked:
    """Make queries of samples, several of which may make one, or of (m, d) vectors.

    Raises
    ------
    UsageError
        There is no such sample, or nothing, or both, is given.
    """
    if (ids is None) == (vectors is None):
        raise UsageError("give ids or vectors to search for")
    ids = [ids] if isinstance(ids, str) else ids  # which is a sequence, too: of letters
    no = searcher.places_of(unlike)
    against = searcher.vectors[no]
    if vectors is not None:
        likes, own = [v[None] for v in np.asarray(vectors)], [no] * len(vectors)
    else:
        several = [[i] if isinstance(i, str) else list(i) for i in (() if ids is None else ids)]
        if not several or not all(several):
            raise UsageError("a query names no image" if several else "nothing to search for")
        flat = searcher.places_of([i for names in several for i in names])
        places = np.split(flat, np.cumsum([len(names) for names in several])[:-1])
        likes = [searcher.vectors[p] for p in places]
        own = [np.concatenate([p, no]) for p in places]
    if not likes:
        raise UsageError("nothing to search for")
    return Asked(np.stack([like_and_unlike(like, against) for like in likes]), own)


def places_of_files(searcher: Searcher, digests: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return where there are images with the same bytes as files of these (m, 16) digests."""
    kept = searcher.store.array(f"embeddings/{searcher.spec.key}/digests")
    return np.flatnonzero(np.isin(joined(kept), joined(digests)) & searcher.there)


def places_of_patients(searcher: Searcher, names: Iterable[str]) -> NDArray[np.intp]:
    """Return where there are images of patients, as a hospital or the store names them."""
    known = set(names) - {""}
    if not known:
        return searcher.rows[:0]
    groups = searcher.store.array("samples/group", searcher.rows)
    alias = alias_of(searcher.store.path, groups.tolist())
    return np.flatnonzero(np.isin(groups, [alias(name) for name in known]) & searcher.there)


def like_and_unlike(like: NDArray[np.floating[Any]], unlike: NDArray[np.floating[Any]]) -> Floats:
    """Make one (d,) query of (p, d) vectors to be like and (q, d) not to be like.

    The mean of their unit vectors; with some to be unlike, twice that less the mean of theirs, so
    that what both have in common stays: Rocchio's (1971) with the weights of Qdrant's
    recommendation by average vector.
    """
    query: Floats = unit_rows(like).mean(axis=0)
    if len(unlike):
        query = 2 * query - unit_rows(unlike).mean(axis=0)
    return query

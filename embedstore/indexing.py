"""Making the index of a store's vectors: which kind, from scratch or extended, and how good."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace

import numpy as np

from embedstore.blocks import free_memory
from embedstore.errors import DataError
from embedstore.exact import Rows
from embedstore.index import EXACT, Index, choose
from embedstore.saved_index import (
    Loaded,
    Made,
    Progress,
    folder_of,
    grow,
    learnt,
    load,
    making,
    rewrites_of,
    save,
)
from embedstore.search import Asked, Searcher
from embedstore.search_tables import Stored, Tables, tables_of
from embedstore.types import Spec

AUTO = "auto"
NEIGHBOURS, QUERIES = 10, 500
"""Neighbours and queries that the recall is measured with."""

_OUTGROWN = 2  # times as many vectors as the lists were learnt from


def make_index(
    store: Stored,
    spec: Spec,
    kind: str = AUTO,
    wanted: float = 0.99,
    rebuild: bool = False,
    on_disk: bool | None = None,
    seed: int = 0,
    on_progress: Progress = lambda done, total: None,
) -> tuple[Made, str]:
    """Make, extend or renew the index of one Spec's vectors, and save it in the store's folder.

    Parameters
    ----------
    kind
        "auto", "exact", or a FAISS factory string such as ``HNSW32,SQfp16``.
    wanted
        Share of the true 10 nearest to find; how hard a search tries is chosen for it.
    rebuild
        Do not look at what is there.
    on_disk
        Whether inverted lists shall lie on the disk; None is as it was, else by size and memory
        where the kind is "auto".

    Returns
    -------
    tuple
        What was made, and "built", "extended" or "as it was".

    Raises
    ------
    UsageError
        FAISS cannot make one of this kind.
    DataError
        There are no vectors, or an index would not fit in memory.
    StoreError
        The index that is there is damaged, or cannot be written.
    """
    there = len(store.places(f"embeddings/{spec.key}"))
    if not there:
        raise DataError(f"{store.path}: holds no vectors of {spec.backbone} yet")
    earlier = None if rebuild else load(store, spec, mapped=False)
    fit = earlier if earlier and there <= _OUTGROWN * earlier.made.learnt else None
    kind, on_disk = _chosen(kind, on_disk, fit, there, spec.dim)
    fit = fit if fit and (fit.made.kind, fit.made.on_disk) == (kind, on_disk) else None
    if fit and fit.made.wanted == wanted and _is_current(store, spec, fit.made):
        return fit.made, "as it was"
    began = time.monotonic()
    with making(store, spec) as folder:
        index, done, number = fit.index if fit else None, "built", there
        if index is not None and fit is not None:
            done, number = "extended", fit.made.learnt
        elif kind != EXACT:
            index = learnt(store, spec, kind, seed)
        if index is not None:
            grow(store, spec, index, folder if on_disk else None, on_progress)
        lengths = earlier.tables.inverse if earlier and earlier.tables else None
        tables = tables_of(store, spec, lengths)
        made = _described(store, spec, kind, on_disk, number, wanted)
        if index is not None:
            made = _tuned(store, spec, index, tables, made, seed)
        made = replace(made, seconds=time.monotonic() - began)
        return save(folder, index, tables, made), done


def _chosen(
    kind: str, on_disk: bool | None, fit: Loaded | None, n: int, d: int
) -> tuple[str, bool]:
    """Return the kind, and whether its lists lie on the disk, where they are left to choose."""
    if kind != AUTO:
        was = fit.made.on_disk if fit and fit.made.kind == kind else False
        return kind, kind != EXACT and (was if on_disk is None else on_disk)
    if fit and on_disk in (None, fit.made.on_disk):
        return fit.made.kind, fit.made.on_disk
    return choose(n, d, free_memory(), on_disk)


def _described(
    store: Stored, spec: Spec, kind: str, on_disk: bool, learnt: int, wanted: float
) -> Made:
    return Made(
        spec.key,
        kind,
        store.rows(f"embeddings/{spec.key}/vectors"),
        store.rows("samples/id"),
        rewrites_of(store, spec),
        {},
        learnt,
        wanted=wanted,
        on_disk=on_disk,
    )


def _is_current(store: Stored, spec: Spec, made: Made) -> bool:
    return (
        made.rows == store.rows(f"embeddings/{spec.key}/vectors")
        and made.samples == store.rows("samples/id")
        and made.rewrites == rewrites_of(store, spec)
    )


def _tuned(store: Stored, spec: Spec, index: Index, tables: Tables, made: Made, seed: int) -> Made:
    """Choose how hard to try, by vectors of the store whose true neighbours are found."""
    searcher = Searcher(store, spec, Loaded(made, index, tables))
    there = np.flatnonzero(searcher.there & (tables.inverse > 0))
    k = min(NEIGHBOURS, len(there) - 1)
    if k < 1:
        return made
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(there, min(QUERIES, len(there)), replace=False))
    asked = Asked(searcher.vectors[chosen], list(chosen[:, None]))

    def ask(exact: bool) -> Rows:
        return searcher.find(asked, k, include_same_patient=True, exact=exact)[1]

    truth = ask(exact=True)
    found = index.tune(lambda: ask(exact=False), truth, made.wanted)
    effort = index.effort
    return replace(
        made, probes=effort.probes, widen=effort.widen, recall=found, queries=len(chosen)
    )


def drop_index(store: Stored, spec: Spec) -> bool:
    """Remove the index of a Spec; say whether there was one."""
    folder = folder_of(store, spec)
    if not folder.exists():
        return False
    shutil.rmtree(folder)
    return True

"""What a store lacks of the images of a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.store import Store
from embedstore.types import Backbone, Recipe


@dataclass(frozen=True, slots=True)
class Job:
    """Rows that miss the same: vectors of these backbones, kept pixels of these recipes.

    `rows` index the store, `places` the manifest; recipes go by their pixel key.
    """

    backbones: list[Backbone]
    keep: list[str]
    recipes: Mapping[str, Recipe]
    rows: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Backlog:
    """The jobs, and by each Spec's key how many rows are done or failed before."""

    jobs: list[Job]
    already: dict[str, int]
    failed_before: dict[str, int]


def backlog(
    store: Store,
    rows: NDArray[np.int64],
    backbones: Sequence[Backbone],
    retry: bool,
    keep_pixels: bool,
    stale: NDArray[np.int64],
) -> Backlog:
    """Group the rows by what they miss, so that each image is decoded once for all of it.

    Rows that failed before are left out unless `retry`; what there is of `stale` rows does not
    count.
    """
    ids = store.array("samples/id", rows.astype(np.intp))
    recipes = {b.spec.recipe.pixel_key: b.spec.recipe for b in backbones}
    pixels = {b.spec.key: b.spec.recipe.pixel_key for b in backbones}
    past = [] if retry else store.failures()
    # what gave no vector has no picture to keep either
    failed = {(f.id, key) for f in past for key in (f.spec, pixels.get(f.spec, ""))}
    have = {b.spec.key: store.embedded(b.spec) for b in backbones}
    if keep_pixels:
        have |= {key: store.kept(recipe).rows for key, recipe in recipes.items()}
    done = {key: np.isin(rows, np.setdiff1d(there, stale)) for key, there in have.items()}
    lost = {key: np.array([(str(i), key) in failed for i in ids], dtype=bool) for key in have}
    wanted = np.array([~done[key] & ~lost[key] for key in have]).T
    return Backlog(
        _jobs(wanted, list(have), rows, backbones, recipes),
        {key: int(done[key].sum()) for key in pixels},
        {key: int((lost[key] & ~done[key]).sum()) for key in pixels},
    )


def _jobs(
    wanted: NDArray[np.bool_],
    keys: list[str],
    rows: NDArray[np.int64],
    backbones: Sequence[Backbone],
    recipes: Mapping[str, Recipe],
) -> list[Job]:
    """Make a job of all rows that want the same; `wanted` is (rows, keys)."""
    patterns, which = np.unique(wanted, axis=0, return_inverse=True)
    jobs = []
    for n, pattern in enumerate(patterns):
        places = np.flatnonzero(which == n).astype(np.int64)
        missing = [b for b, misses in zip(backbones, pattern, strict=False) if misses]
        keep = [k for k, misses in zip(keys, pattern, strict=True) if misses and k in recipes]
        used = {b.spec.recipe.pixel_key for b in missing} | set(keep)
        needed = {k: r for k, r in recipes.items() if k in used}
        jobs.append(Job(missing, keep, needed, rows[places], places))
    return sorted((j for j in jobs if j.recipes), key=lambda j: int(j.places[0]))

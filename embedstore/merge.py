"""Merging stores of the same Specs into a new one; vectors are copied, not computed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.arrays import is_tombstones
from embedstore.chunks import Layout
from embedstore.commit import layout_of
from embedstore.errors import StoreError, UsageError
from embedstore.kept_texts import layouts
from embedstore.matching import Matching, prefixes
from embedstore.places import place
from embedstore.privacy import adopt, key_file, same_patients
from embedstore.store import Failure, Store
from embedstore.types import Spec
from embedstore.writer import Writer

Progress = Callable[[int, int], None]
_SHOWN = 3


@dataclass(slots=True)
class Merged:
    """What merging did.

    Attributes
    ----------
    samples
        Samples of the new store.
    twice
        (store, its id, the id it goes by) of images that another store has under another id.
    shared
        Samples that several stores have under one id.
    keyless
        The ids are hashed with several keys, so that the new store has none.
    """

    samples: int = 0
    twice: list[tuple[Path, str, str]] = field(default_factory=list)
    shared: int = 0
    keyless: bool = False


def merge(
    sources: Sequence[Path | str],
    target: Path | str,
    different_patients: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Merged:
    """Make one store of several; nothing is written unless all of them agree.

    An image that several stores have, by the bytes of its file, is taken once, and what one store
    leaves blank of it another fills in. A Spec that only some stores have stays a Spec of their
    samples. Every chunk is checked as it is read; memory holds the tables of samples.

    Parameters
    ----------
    target
        A new store.
    different_patients
        No patient is in two of the stores, although their ids are hashed with different keys.

    Raises
    ------
    UsageError
        There are fewer than two stores, or `target` is one that has something in it.
    StoreError
        The stores contradict each other, or their patients cannot be told apart; one is damaged;
        or `target` cannot be written.
    """
    paths, target = [place(p) for p in sources], place(target)
    _refuse_places(paths, target)
    stores = [Store.open(path, verify=True) for path in paths]
    _refuse_precisions(stores)
    ids = {s.path: {*s.column("group"), *s.column("exam")} for s in stores}
    one_key = same_patients(ids)
    if not (one_key or different_patients):
        raise StoreError(
            f"{paths[0]} and the others have their patients hashed with different keys, or a key "
            f"is not beside its store, so that a patient of two of them would become two patients; "
            f"extract them with one key, or say --different-patients if no patient is in two"
        )
    plan = Matching(stores)
    plan.match()
    columns = plan.columns()
    for pair in plan.parted:
        if not same_patients({path: ids[path] for path in pair}):
            raise StoreError(_two_keys(*pair))
    if plan.problems:
        more = f" (and {len(plan.problems) - _SHOWN} more)" if len(plan.problems) > _SHOWN else ""
        raise StoreError(f"nothing is merged: {'; '.join(plan.problems[:_SHOWN])}{more}")
    adopt(paths, target, set(columns["id"]), one_key)
    with Writer(target) as writer:
        for name, values in columns.items():
            writer.extend(Layout(f"samples/{name}", "string"), [values])
        _copy(writer, plan, on_progress)
        writer.commit()
    return Merged(len(columns["id"]), plan.twice, plan.shared, not one_key)


def _refuse_places(sources: Sequence[Path], target: Path) -> None:
    if len({p.resolve() for p in sources}) < max(2, len(sources)):
        raise UsageError("give two or more stores to merge, each once")
    if target.resolve() in {p.resolve() for p in sources}:
        raise UsageError(f"{target}: is one of the stores to merge; give a new --store")
    if (target / "zarr.json").exists():
        there = Store.open(target)  # what a merge that was stopped leaves is empty
        if there.rows("samples/id") or there.specs:
            raise UsageError(f"{target}: is a store already; give a new --store")


def _two_keys(one: Path, other: Path) -> str:
    hashed = all(key_file(path).exists() for path in (one, other))
    how = "are hashed with different keys" if hashed else "are not known to be hashed with one key"
    return (
        f"nothing is merged: the patients of {one} and {other} {how}, so that an image that both "
        f"have cannot be told to be of the same patient; extract one of them again with the "
        f"other's key beside it ({key_file(one).name}, {key_file(other).name}), or both with "
        f"--patient-ids keep"
    )


def _refuse_precisions(stores: Sequence[Store]) -> None:
    """Stop before vectors of two precisions stand under one key."""
    made: dict[str, tuple[str, Path]] = {}
    for store in stores:
        for key, spec in store.specs.items():
            if not store.count(spec):
                continue
            precision = str(store.provenance[key].get("precision", ""))
            first, path = made.setdefault(key, (precision, store.path))
            if first != precision:
                raise StoreError(
                    f"{store.path}: the vectors of {spec.backbone} ({key}) were made in "
                    f"{precision}, those of {path} in {first}; extract one of them anew"
                )


def _copy(writer: Writer, plan: Matching, on_progress: Progress) -> None:
    """Append the sets of every store, and what failed in them."""
    have: dict[str, NDArray[np.bool_]] = {}
    jobs = [
        (store, places, prefix)
        for store, places in zip(plan.stores, plan.places, strict=True)
        for prefix in prefixes(store)
    ]
    for spec, made in _made(plan.stores):
        writer.add_spec(spec, made[0] | ({"merged": made[1:]} if made[1:] else {}))
    for done, (store, places, prefix) in enumerate(jobs, 1):
        of = "/".join(prefix.split("/")[:2])  # pictures of two kinds are of one recipe
        there = have.setdefault(of, np.zeros(plan.count, dtype=bool))
        _copy_set(writer, store, prefix, places, there)
        on_progress(done, len(jobs))
    _copy_texts(writer, plan.stores)
    for store, places in zip(plan.stores, plan.places, strict=True):
        writer.add_failures(_failures(store, places, plan.names))


def _made(stores: Sequence[Store]) -> list[tuple[Spec, list[dict[str, Any]]]]:
    """Return each Spec, and what made its vectors in one store after the other."""
    found: dict[str, tuple[Spec, list[dict[str, Any]]]] = {}
    for store in stores:
        for key, spec in store.specs.items():
            made = found.setdefault(key, (spec, []))[1]
            if store.count(spec) or not made:
                made.append(dict(store.provenance[key]))
    return list(found.values())


def _copy_set(
    writer: Writer,
    store: Store,
    prefix: str,
    places: NDArray[np.int64],
    have: NDArray[np.bool_],
) -> None:
    """Append what the new store has not got of a set, and add these samples to `have`."""
    rows, shown = store.array(f"{prefix}/rows"), store.places(prefix)
    at = places[rows[shown]]
    _, first = np.unique(at, return_index=True)  # two copies in one store may be one now
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[shown[first]] = ~have[at[first]]
    for name in [n for n in store.arrays if n.startswith(f"{prefix}/") and not is_tombstones(n)]:
        blocks = store.blocks(name, chosen)
        if name == f"{prefix}/rows":
            blocks = (places[block] for block in blocks)
        writer.extend(layout_of(name, store.arrays[name]), blocks)
    have[places[rows[chosen]]] = True


def _copy_texts(writer: Writer, stores: Sequence[Store]) -> None:
    """Append the sentences that each store keeps, those of several once."""
    have: dict[str, set[str]] = {}
    for store in stores:
        for key, spec in store.specs.items():
            kept, there = store.texts(spec), have.setdefault(key, set())
            fresh = [s for s in kept.sentences if s not in there]
            if fresh:
                sentence, vectors = layouts(spec)
                writer.extend(sentence, [np.array(fresh, dtype=object)])
                writer.extend(vectors, [kept.vectors[list(kept.places(fresh))]])
                there.update(fresh)


def _failures(store: Store, places: NDArray[np.int64], names: Sequence[str]) -> list[Failure]:
    """Return what failed, by the ids of the new store."""
    rows = dict(zip(store.column("id").tolist(), store.visible.tolist(), strict=True))
    return [
        Failure(names[int(places[rows[f.id]])], f.path, f.stage, f.reason, f.spec)
        for f in store.failures()
        if f.id in rows
    ]

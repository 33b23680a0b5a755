"""Reader -> backbone -> store: embed what a store has not got yet.

Each image is read and decoded once for all backbones that still need it. Rows are written in the
manifest's order whatever the number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedstore.errors import ImageError, ManifestError, StoreError, UsageError
from embedstore.images.prepare import Prepared, prepare
from embedstore.images.recipe import tensors
from embedstore.plan import Plan, provenance
from embedstore.readers import read_each
from embedstore.store import Failure, Kept, KeptPixels, Store
from embedstore.types import Backbone, Recipe, Sample
from embedstore.writer import Writer

COMMIT_SECONDS = 10.0


@dataclass(slots=True)
class Summary:
    """What an extraction did; `failures` are of this run only."""

    samples: int = 0
    written: dict[str, int] = field(default_factory=dict)
    already: dict[str, int] = field(default_factory=dict)
    failed_before: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0


def recorded_precision(store: Path, backbones: Sequence[Backbone]) -> str:
    """Return what "auto" should mean for a store: the precision its vectors were made in."""
    if not (store / "zarr.json").exists():
        return "auto"
    made = list(_precisions(Store.open(store), backbones).values())
    return made[0] if made else "auto"


def _precisions(store: Store, backbones: Sequence[Backbone]) -> dict[str, str]:
    """Map the backbones that have vectors in a store to the precision these were made in."""
    there = [b.spec for b in backbones if store.rows(f"embeddings/{b.spec.key}/rows")]
    return {s.backbone: str(store.provenance[s.key]["precision"]) for s in there}


def extract(
    samples: Sequence[Sample],
    store: Path,
    backbones: Sequence[Backbone],
    plan: Plan,
    strict: bool = False,
    retry: bool = False,
    keep_pixels: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Embed the samples a store has no vectors of, and commit every few seconds.

    Parameters
    ----------
    samples
        In the order they should have in the store; known ids are not added again.
    strict
        Stop at the first image that cannot be used, instead of recording it.
    retry
        Try images again that failed before.
    keep_pixels
        Keep the pictures that the backbones are shown, for other backbones of the same recipe.
    on_progress
        Called with images done and images to do, after every batch.

    Raises
    ------
    StoreError
        The store cannot be written; everything up to its last commit is kept.
    ImageError
        With `strict` only.
    """
    began = time.monotonic()
    summary = Summary()
    private = any(s.private for s in samples)
    with Writer(store) as writer:
        _refuse_other_precision(writer.store(), backbones, plan)
        rows = _register(writer, samples, summary)
        for backbone in backbones:
            note = {"note": getattr(backbone, "note", "")}
            writer.add_spec(backbone.spec, provenance(plan, private) | note)
        writer.commit()
        jobs = _missing(writer.store(), rows, backbones, retry, keep_pixels, summary)
        total, done = sum(len(job.rows) for job in jobs), 0
        for job in jobs:
            for count in _Run(job, samples, writer, plan, strict, summary).batches():
                done += count
                on_progress(done, total)
    summary.seconds = time.monotonic() - began
    return summary


@dataclass(frozen=True, slots=True)
class _Job:
    """Rows that miss the same: vectors of these backbones, kept pixels of these recipes.

    `rows` index the store, `places` the manifest; recipes go by their pixel key.
    """

    backbones: list[Backbone]
    keep: list[str]
    recipes: Mapping[str, Recipe]
    rows: NDArray[np.int64]
    places: NDArray[np.int64]


def _register(writer: Writer, samples: Sequence[Sample], summary: Summary) -> NDArray[np.int64]:
    """Add the samples the store does not know; return the store row of each sample."""
    store = writer.store()
    known = {i: row for row, i in enumerate(store.column("id").tolist())}
    fresh = [s for s in samples if s.id not in known]
    old = [s for s in samples if s.id in known]
    _refuse_other_labels(store, old, known)
    for name in dict.fromkeys(n for s in old for n in s.labels):
        given = {known[s.id]: s.labels.get(name, "") for s in old}
        if name not in store.labels:
            writer.add_label(name, [given.get(row, "") for row in range(len(store))])
            continue
        there = store.column(name).tolist()
        values = [value or given.get(row, "") for row, value in enumerate(there)]
        if values != there:
            writer.fill_label(name, values)
    if fresh:
        writer.add_samples(fresh)
        known |= {s.id: len(store) + i for i, s in enumerate(fresh)}
    summary.samples = len(samples)
    return np.array([known[s.id] for s in samples], dtype=np.int64)


def _refuse_other_labels(store: Store, samples: Sequence[Sample], known: dict[str, int]) -> None:
    """Stop where the manifest contradicts the store: silently keeping either would be wrong.

    A label that one of them leaves blank is no contradiction.
    """
    columns = {f"label {n!r}": store.column(n) for n in store.labels}
    columns["patient"] = store.column("group")
    for sample in samples:
        row = known[sample.id]
        given = {f"label {n!r}": v for n, v in sample.labels.items() if v}
        for name, value in (given | {"patient": sample.group}).items():
            blank = name != "patient" and name in columns and not columns[name][row]
            if name in columns and columns[name][row] != value and not blank:
                raise ManifestError(
                    f"sample {sample.id!r}: {name} is {value!r} in the manifest and "
                    f"{str(columns[name][row])!r} in the store; extract into a new store, or give "
                    f"changed images new ids"
                )


def _refuse_other_precision(store: Store, backbones: Sequence[Backbone], plan: Plan) -> None:
    """Stop before vectors of two precisions stand under one key."""
    for name, made in _precisions(store, backbones).items():
        if made != plan.precision:
            raise UsageError(
                f"{store.path}: the vectors of {name} were made in {made}, not {plan.precision}; "
                f"give --precision {made}, or another store"
            )


def _missing(
    store: Store,
    rows: NDArray[np.int64],
    backbones: Sequence[Backbone],
    retry: bool,
    keep_pixels: bool,
    summary: Summary,
) -> list[_Job]:
    """Group the rows by what they miss, so that each image is decoded once for all of it."""
    ids = store.column("id")[rows]
    recipes = {b.spec.recipe.pixel_key: b.spec.recipe for b in backbones}
    pixels = {b.spec.key: b.spec.recipe.pixel_key for b in backbones}
    past = [] if retry else store.failures()
    # what gave no vector has no picture to keep either
    failed = {(f.id, key) for f in past for key in (f.spec, pixels.get(f.spec, ""))}
    keys = [b.spec.key for b in backbones]
    have = [store.array(f"embeddings/{key}/rows") for key in keys]
    for key, there in zip(keys, have, strict=True):
        summary.already[key], summary.written[key] = int(np.isin(rows, there).sum()), 0
        summary.failed_before[key] = sum((str(i), key) in failed for i in ids)
    if keep_pixels:
        keys += recipes
        have += [store.kept(recipe).rows for recipe in recipes.values()]
    wanted = [
        ~np.isin(rows, there) & np.array([(str(i), key) not in failed for i in ids], dtype=bool)
        for key, there in zip(keys, have, strict=True)
    ]
    patterns, which = np.unique(np.array(wanted).T, axis=0, return_inverse=True)
    jobs = []
    for n, pattern in enumerate(patterns):
        places = np.flatnonzero(which == n).astype(np.int64)
        missing = [b for b, misses in zip(backbones, pattern, strict=False) if misses]
        keep = [k for k, misses in zip(keys, pattern, strict=True) if misses and k in recipes]
        used = {b.spec.recipe.pixel_key for b in missing} | set(keep)
        needed = {k: r for k, r in recipes.items() if k in used}
        jobs.append(_Job(missing, keep, needed, rows[places], places))
    return sorted((j for j in jobs if j.recipes), key=lambda j: int(j.places[0]))


@dataclass(slots=True)
class _Run:
    """One job at work."""

    job: _Job
    samples: Sequence[Sample]
    writer: Writer
    plan: Plan
    strict: bool
    summary: Summary

    def batches(self) -> Iterator[int]:
        """Embed batch by batch, yielding the images each took; commit also when stopped."""
        committed = time.monotonic()
        try:
            with closing(self._images()) as images:
                while batch := list(islice(images, self.plan.batch_size)):
                    self._take(batch)
                    if time.monotonic() - committed > COMMIT_SECONDS:
                        self.writer.commit()
                        committed = time.monotonic()
                    yield len(batch)
        except BaseException:
            with suppress(StoreError):  # the first error is the one to tell
                self.writer.commit()
            raise
        self.writer.commit()

    def _images(self) -> Generator[tuple[int, Prepared | ImageError]]:
        """Yield each image of the job by its number, out of the store where that has kept it."""
        store, recipes = self.writer.store(), list(self.job.recipes.values())
        kept = [store.kept(recipe) for recipe in recipes]
        there = np.logical_and.reduce([np.isin(self.job.rows, k.rows) for k in kept])
        files = [self._sample(int(n)) for n in np.flatnonzero(~there)]
        jobs = [(s.path, s.frame, recipes) for s in files]
        with closing(read_each(prepare, jobs, self.plan.workers, self.plan.seconds)) as read:
            for number, row in enumerate(self.job.rows):
                yield number, _from_store(kept, int(row)) if there[number] else next(read)

    def _take(self, items: list[tuple[int, Prepared | ImageError]]) -> None:
        failures = [
            failure
            for number, found in items
            if isinstance(found, ImageError)
            for failure in self._failed(number, found)
        ]
        if self.strict and failures:
            first = failures[0]
            raise ImageError(first.stage, f"{first.path or first.id}: {first.reason}")
        good = [(number, found) for number, found in items if isinstance(found, Prepared)]
        for backbone in self.job.backbones if good else ():
            failures += self._embed(backbone, good)
        self._keep(good)
        self.writer.add_failures(failures)
        self.summary.failures += failures

    def _embed(self, backbone: Backbone, items: list[tuple[int, Prepared]]) -> list[Failure]:
        """Encode one batch and append it; vectors that are not finite become failures."""
        spec = backbone.spec
        which = list(self.job.recipes).index(spec.recipe.pixel_key)
        batch = torch.from_numpy(tensors(spec.recipe, [p.pictures[which] for _, p in items]))
        with torch.inference_mode(), _autocast(self.plan):
            vectors = backbone.encode_image(batch).float().cpu().numpy()
        finite = np.isfinite(vectors.astype(spec.dtype)).all(axis=1)
        numbers = np.array([number for number, _ in items])
        digests = _digests([p for _, p in items])[finite]
        cut = np.array([p.cut[which] for _, p in items], dtype=np.float32)[finite]
        self.writer.append(spec, self.job.rows[numbers[finite]], vectors[finite], digests, cut)
        self.summary.written[spec.key] += int(finite.sum())
        reason = "the vector is not finite"
        return [_failure(self._sample(n), spec.key, "encode", reason) for n in numbers[~finite]]

    def _keep(self, items: list[tuple[int, Prepared]]) -> None:
        for which, (key, recipe) in enumerate(self.job.recipes.items()):
            if key in self.job.keep and items:
                rows = self.job.rows[[number for number, _ in items]]
                kept = [Kept(p.digest, p.pictures[which], p.cut[which]) for _, p in items]
                self.writer.keep(recipe, rows, kept)
                self.summary.kept += len(items)

    def _failed(self, number: int, error: ImageError) -> list[Failure]:
        keys = [b.spec.key for b in self.job.backbones] or self.job.keep
        return [_failure(self._sample(number), k, error.stage, error.reason) for k in keys]

    def _sample(self, number: int) -> Sample:
        return self.samples[int(self.job.places[number])]


def _from_store(kept: Sequence[KeptPixels], row: int) -> Prepared:
    found = [pixels.read(row) for pixels in kept]
    return Prepared(found[0].digest, tuple(f.picture for f in found), tuple(f.cut for f in found))


def _digests(items: Sequence[Prepared]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(p.digest for p in items), np.uint8).reshape(-1, 16)


def _autocast(plan: Plan) -> AbstractContextManager[Any]:
    if plan.precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(plan.device).type, dtype=torch.bfloat16)


def _failure(sample: Sample, key: str, stage: str, reason: str) -> Failure:
    return Failure(sample.id, sample.shown_path, stage, reason, key)

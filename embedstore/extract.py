"""Reader -> backbone -> store: embed what a store has not got yet.

Each image is read and decoded once for all backbones that still need it. Rows are written in the
manifest's order whatever the number of workers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.backlog import Job, backlog
from embedstore.changes import changed
from embedstore.encode import Encoders, Vectors, find_batch_size
from embedstore.errors import ImageError, StoreError, UsageError
from embedstore.feed import Batch, Feed
from embedstore.heap import keep_memory
from embedstore.images.prepare import Prepared
from embedstore.kept import Kept
from embedstore.plan import Plan, provenance
from embedstore.register import register
from embedstore.store import Failure, Store
from embedstore.types import Backbone, Floats, Sample, Spec
from embedstore.writer import Writer

COMMIT_SECONDS = 10.0
_BEHIND = 2  # batches that wait to be written


class Encoding(Protocol):
    """What turns images into vectors: the devices of this machine, or the nodes of a cluster.

    `limit` and `made` are as of `Encoders`.
    """

    @property
    def limit(self) -> int:
        """The most images one call of a backbone takes."""

    @property
    def made(self) -> dict[str, Any]:
        """What the provenance of the vectors says of it, besides the plan."""

    def encoded(self, feed: Feed, job: Job) -> Generator[tuple[Batch, Vectors]]:
        """Yield the batches of a feed, as its plan has them, with their vectors, in order."""


class Cluster(Protocol):
    """Machines that embed together."""

    def find_batch_size(self, plan: Plan, images: int) -> int:
        """Find by trying how many images at a time one of them encodes fastest."""

    def encoders(self, plan: Plan) -> AbstractContextManager[Encoding]:
        """Return what works by this plan."""


@dataclass(slots=True)
class Summary:
    """What an extraction did; `failures` are of this run only.

    `deleted` samples of the manifest were once deleted from the store, and stay so; `changed` ones
    were embedded anew, since their files held other bytes than before.
    """

    samples: int = 0
    batch_size: int = 0
    deleted: int = 0
    changed: int = 0
    written: dict[str, int] = field(default_factory=dict)
    already: dict[str, int] = field(default_factory=dict)
    failed_before: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
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
    copies: Sequence[Sequence[Backbone]] = (),
    cluster: Cluster | None = None,
) -> Summary:
    """Embed the samples a store has no vectors of, and commit every few seconds.

    Images whose bytes have changed since they were embedded are embedded anew, and lose what the
    store had of them. Samples that were deleted from the store are left out.

    Parameters
    ----------
    samples
        In the order they should have in the store; known ids are not added again.
    backbones
        On the first device of the plan.
    strict
        Stop at the first image that cannot be used, instead of recording it.
    retry
        Try images again that failed before.
    keep_pixels
        Keep the pictures that the backbones are shown, for other backbones of the same recipe.
    on_progress
        Called with images done and images to do, after every batch.
    copies
        The same backbones on each further device of the plan.
    cluster
        What embeds in place of the devices of this machine; `plan` then says how each of its
        workers runs.

    Raises
    ------
    StoreError
        The store cannot be written; everything up to its last commit is kept.
    ImageError
        With `strict` only.
    """
    began = time.monotonic()
    every = [backbones, *copies]
    if plan.device.startswith("cpu"):
        keep_memory()
    find = cluster.find_batch_size if cluster else partial(find_batch_size, every)
    encoders_of = cluster.encoders if cluster else partial(Encoders, every)
    plan = _sized(plan, store, backbones, find, len(samples))
    summary = Summary(samples=len(samples), batch_size=plan.batch_size)
    with Writer(store) as writer, encoders_of(plan) as encoders:
        _refuse_other_precision(writer.store(), backbones, plan)
        deleted = writer.store().deleted
        samples = [s for s in samples if s.id not in deleted]
        summary.deleted = summary.samples - len(samples)
        rows = register(writer, samples)
        made = provenance(plan, any(s.private for s in samples)) | encoders.made
        for backbone in backbones:
            writer.add_spec(backbone.spec, made | {"note": getattr(backbone, "note", "")})
        stale = changed(writer, samples, rows, plan)
        writer.commit()
        todo = backlog(writer.store(), rows, backbones, retry, keep_pixels, stale)
        summary.already, summary.failed_before = todo.already, todo.failed_before
        summary.written = dict.fromkeys(todo.already, 0)
        total, done = sum(len(job.rows) for job in todo.jobs), 0
        for job in todo.jobs:
            run = _Run(job, samples, stale, writer, plan, encoders, strict, summary, made)
            for count in run.batches():
                done += count
                on_progress(done, total)
        summary.notes = _notes(summary, plan, encoders.limit, len(stale))
        summary.batch_size = encoders.limit
    summary.seconds = time.monotonic() - began
    return summary


def _sized(
    plan: Plan,
    store: Path,
    backbones: Sequence[Backbone],
    find: Callable[[Plan, int], int],
    images: int,
) -> Plan:
    """Choose the batch size the store was begun with, else by trying."""
    if plan.batch_size:
        return plan
    there = Store.open(store) if (store / "zarr.json").exists() else None
    specs = [b.spec for b in backbones if there and b.spec.key in there.specs]
    used = [there.provenance[s.key] for s in specs if there and there.count(s)]
    kind = plan.device.partition(":")[0]
    sizes = [p["batch_size"] for p in used if p["device"].startswith(kind)]
    return replace(plan, batch_size=min(sizes) if sizes else find(plan, images))


def _notes(summary: Summary, plan: Plan, limit: int, stale: int) -> list[str]:
    notes = []
    if summary.deleted:
        notes.append(
            f"{summary.deleted} images of the manifest were deleted from the store and stay so; "
            f"`embedstore compact` forgets them"
        )
    if summary.changed:
        notes.append(
            f"{summary.changed} files had changed: embedded anew; what other backbones had made "
            f"of them is dropped"
        )
    if stale > summary.changed:
        notes.append(
            f"{stale - summary.changed} files have changed and cannot be used now; their earlier "
            f"vectors stay"
        )
    if limit < plan.batch_size:
        notes.append(f"not enough memory for batches of {plan.batch_size}: went on with {limit}")
    return notes


def _refuse_other_precision(store: Store, backbones: Sequence[Backbone], plan: Plan) -> None:
    """Stop before vectors of two precisions stand under one key."""
    for name, made in _precisions(store, backbones).items():
        if made != plan.precision:
            raise UsageError(
                f"{store.path}: the vectors of {name} were made in {made}, not {plan.precision}; "
                f"give --precision {made}, or another store"
            )


@dataclass(slots=True)
class _Run:
    """One job at work: pictures ahead, vectors on the devices, rows written behind."""

    job: Job
    samples: Sequence[Sample]
    stale: NDArray[np.int64]
    writer: Writer
    plan: Plan
    encoders: Encoding
    strict: bool
    summary: Summary
    made: dict[str, Any]
    _began: float = field(default_factory=time.monotonic)
    _committed: float = field(default_factory=time.monotonic)
    _images: int = 0

    def batches(self) -> Iterator[int]:
        """Embed batch by batch, yielding the images each took; commit also when stopped."""
        behind = ThreadPoolExecutor(1)
        written: deque[Future[None]] = deque()
        try:
            with closing(self.encoders.encoded(self._feed(), self.job)) as encoded:
                for batch, vectors in encoded:
                    self._refuse_failed(batch)
                    while len(written) > _BEHIND:
                        written.popleft().result()
                    written.append(behind.submit(self._take, batch, vectors))
                    yield len(batch)
            for future in written:
                future.result()
        except BaseException:
            behind.shutdown()
            with suppress(StoreError):  # the first error is the one to tell
                self._commit()
            raise
        behind.shutdown()
        self._commit()

    def _feed(self) -> Feed:
        """Return the images of the job, out of the store where it has kept all their pictures."""
        store, rows, recipes = self.writer.store(), self.job.rows, self.job.recipes
        samples = [self._sample(n) for n in range(len(rows))]
        kept = [store.kept(recipe) for recipe in recipes.values()]
        usable = [np.isin(rows, np.setdiff1d(k.rows, self.stale)) for k in kept]
        return Feed(samples, rows, recipes, kept, np.logical_and.reduce(usable), self.plan)

    def _refuse_failed(self, batch: Batch) -> None:
        if self.strict and batch.failed:
            number, error = batch.failed[0]
            sample = self._sample(number)
            raise ImageError(error.stage, f"{sample.shown_path or sample.id}: {error.reason}")

    def _take(self, batch: Batch, vectors: Vectors) -> None:
        """Append what a batch gave; runs behind, one batch after the other."""
        failures = [f for number, error in batch.failed for f in self._failed(number, error)]
        rows = self.job.rows[[number for number, _ in batch.items]]
        if len(stale := np.intersect1d(rows, self.stale)):
            self.writer.drop(stale)
            self.summary.changed += len(stale)
        for backbone in self.job.backbones if batch.items else ():
            failures += self._append(backbone.spec, batch.items, vectors[backbone.spec.key])
        self._keep(batch.items)
        self.writer.add_failures(failures)
        self.summary.failures += failures
        self._images += len(batch)
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self._commit()

    def _commit(self) -> None:
        seconds = time.monotonic() - self._began
        for backbone in self.job.backbones if self._images else ():
            self.writer.note_run(
                backbone.spec,
                self.made
                | self.encoders.made
                | {
                    "batch_size": self.encoders.limit,
                    "images": self._images,
                    "seconds": round(seconds, 3),
                    "images_per_second": round(self._images / seconds, 3),
                },
            )
        self.writer.commit()
        self._committed = time.monotonic()

    def _append(
        self, spec: Spec, items: list[tuple[int, Prepared]], vectors: Floats
    ) -> list[Failure]:
        """Append the vectors of a batch; those that are not finite become failures."""
        which = list(self.job.recipes).index(spec.recipe.pixel_key)
        finite = np.isfinite(vectors.astype(spec.dtype)).all(axis=1)
        numbers = np.array([number for number, _ in items])
        good = [p for (_, p), is_finite in zip(items, finite, strict=True) if is_finite]
        digests = np.frombuffer(b"".join(p.digest for p in good), np.uint8).reshape(-1, 16)
        cut = np.array([p.cut[which] for p in good], dtype=np.float32)
        stat = np.array([p.stat for p in good], dtype=np.int64).reshape(-1, 2)
        rows = self.job.rows[numbers[finite]]
        self.writer.append(spec, rows, vectors[finite], digests, cut, stat)
        self.summary.written[spec.key] += len(good)
        reason = "the vector is not finite"
        return [_failure(self._sample(n), spec.key, "encode", reason) for n in numbers[~finite]]

    def _keep(self, items: list[tuple[int, Prepared]]) -> None:
        for which, (key, recipe) in enumerate(self.job.recipes.items()):
            if key in self.job.keep and items:
                rows = self.job.rows[[number for number, _ in items]]
                kept = [Kept(p.digest, p.pictures[which], p.cut[which], p.stat) for _, p in items]
                self.writer.keep(recipe, rows, kept)
                self.summary.kept += len(items)

    def _failed(self, number: int, error: ImageError) -> list[Failure]:
        keys = [b.spec.key for b in self.job.backbones] or self.job.keep
        return [_failure(self._sample(number), k, error.stage, error.reason) for k in keys]

    def _sample(self, number: int) -> Sample:
        return self.samples[int(self.job.places[number])]


def _failure(sample: Sample, key: str, stage: str, reason: str) -> Failure:
    return Failure(sample.id, sample.shown_path, stage, reason, key)

"""Reader -> backbone -> store: embed what a store has not got yet.

Each image is read and decoded once for all backbones that still need it. Rows are written in the
manifest's order whatever the number of workers.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from embedstore.errors import ImageError, ManifestError, StoreError, UsageError
from embedstore.images.decode import read
from embedstore.images.recipe import apply
from embedstore.store import Failure, Store
from embedstore.types import Backbone, Floats, Recipe, Sample, Spec
from embedstore.writer import Writer

Precision = Literal["float32", "bfloat16"]
COMMIT_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1  # prctl(2)
FEW = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """How an extraction runs; `choose` fills in what suits the machine."""

    device: str
    precision: Precision
    batch_size: int
    workers: int

    def __str__(self) -> str:
        """One line for the user."""
        return (
            f"{self.device}, {self.precision}, batches of {self.batch_size}, "
            f"{self.workers} reader process{'es' * (self.workers != 1)}"
        )


@dataclass(slots=True)
class Summary:
    """What an extraction did; `failures` are of this run only."""

    samples: int = 0
    written: dict[str, int] = field(default_factory=dict)
    already: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0


def choose_device(device: str = "auto") -> str:
    """Return the device to use: as given, else a GPU where there is one."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose(device: str, precision: str, batch_size: int, workers: int, images: int) -> Plan:
    """Fill in "auto", 0 and -1: what this machine does well.

    bfloat16 where the processor or GPU computes in it (about twice as fast, cosine to float32
    above 0.999), float32 otherwise.
    """
    if precision == "auto":
        precision = "bfloat16" if _has_bfloat16(device) else "float32"
    if workers < 0:
        workers = min(os.cpu_count() or 1, 8) if images >= FEW else 0
    chosen: Precision = "bfloat16" if precision == "bfloat16" else "float32"
    return Plan(device, chosen, batch_size or (32 if device == "cpu" else 256), workers)


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


def _has_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def extract(
    samples: Sequence[Sample],
    store: Path,
    backbones: Sequence[Backbone],
    plan: Plan,
    strict: bool = False,
    retry: bool = False,
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
    with Writer(store) as writer:
        _refuse_other_precision(writer.store(), backbones, plan)
        rows = _register(writer, samples, summary)
        for backbone in backbones:
            note = {"note": getattr(backbone, "note", "")}
            writer.add_spec(backbone.spec, provenance(plan) | note)
        writer.commit()
        work = _missing(writer.store(), rows, backbones, retry, summary)
        total, done = sum(len(job.rows) for job in work), 0
        for job in work:
            for count in _Run(job, samples, writer, plan, strict, summary).batches():
                done += count
                on_progress(done, total)
    summary.seconds = time.monotonic() - began
    return summary


def provenance(plan: Plan) -> dict[str, Any]:
    """Return what made the vectors, besides the Spec: versions, machine, command, time (UTC)."""
    packages = ("embedstore", "torch", "timm", "open_clip_torch", "numpy", "pillow")
    return {
        "versions": {name: version(name) for name in packages} | {"python": sys.version.split()[0]},
        "platform": platform.platform(),
        "device": plan.device,
        "precision": plan.precision,
        "batch_size": plan.batch_size,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True, slots=True)
class _Job:
    """Backbones that miss the same rows; `rows` index the store, `places` the manifest."""

    backbones: list[Backbone]
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
        if name not in store.labels:
            values = {known[s.id]: s.labels.get(name, "") for s in old}
            writer.add_label(name, [values.get(row, "") for row in range(len(store))])
    if fresh:
        writer.add_samples(fresh)
        known |= {s.id: len(store) + i for i, s in enumerate(fresh)}
    summary.samples = len(samples)
    return np.array([known[s.id] for s in samples], dtype=np.int64)


def _refuse_other_labels(store: Store, samples: Sequence[Sample], known: dict[str, int]) -> None:
    """Stop where the manifest contradicts the store: silently keeping either would be wrong."""
    columns = {f"label {n!r}": store.column(n) for n in store.labels}
    columns["patient"] = store.column("group")
    for sample in samples:
        row = known[sample.id]
        given = {f"label {n!r}": v for n, v in sample.labels.items()} | {"patient": sample.group}
        for name, value in given.items():
            if name in columns and columns[name][row] != value:
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
    summary: Summary,
) -> list[_Job]:
    ids = store.column("id")
    failed = {(f.id, f.spec) for f in store.failures()} if not retry else set()
    jobs: dict[bytes, _Job] = {}
    for backbone in backbones:
        key = backbone.spec.key
        have = np.zeros(len(store), dtype=bool)
        have[store.array(f"embeddings/{key}/rows")] = True
        summary.already[key] = int(have[rows].sum())
        summary.written[key] = 0
        bad = np.array([(str(ids[r]), key) in failed for r in rows], dtype=bool)
        places = np.flatnonzero(~have[rows] & ~bad).astype(np.int64)
        job = jobs.setdefault(places.tobytes(), _Job([], rows[places], places))
        job.backbones.append(backbone)
    return [job for job in jobs.values() if len(job.rows)]


@dataclass(frozen=True, slots=True)
class _Item:
    """One image as the workers hand it over: a tensor per recipe, or why there is none."""

    number: int
    digest: bytes = b""
    tensors: tuple[Floats, ...] = ()
    error: ImageError | None = None


class _Images(Dataset[_Item]):
    """Reads, decodes and preprocesses; runs in the reader processes."""

    def __init__(self, paths: list[Path], recipes: list[Recipe]) -> None:
        self.paths = paths
        self.recipes = recipes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> _Item:
        try:
            digest, pixels = read(self.paths[number])
            tensors = tuple(apply(recipe, pixels) for recipe in self.recipes)
            return _Item(number, digest, tensors)
        except ImageError as error:
            return _Item(number, error=error)
        except (ValueError, IndexError, MemoryError) as error:
            # one odd image must not stop the run
            reason = f"{type(error).__name__}: {error}"
            return _Item(number, error=ImageError("preprocess", reason))


def _as_list(items: list[_Item]) -> list[_Item]:
    return items


def _prepare_worker(_worker: int) -> None:
    # Ctrl-C reaches the whole process group; the main process decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":  # or a reader outlives a main process that was killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(1)


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
        recipes = list(dict.fromkeys(b.spec.recipe for b in self.job.backbones))
        loader = DataLoader(
            _Images([self.samples[p].path for p in self.job.places], recipes),
            batch_size=self.plan.batch_size,
            num_workers=self.plan.workers,
            collate_fn=_as_list,
            worker_init_fn=_prepare_worker,
        )
        committed = time.monotonic()
        try:
            for items in loader:
                self._take(items, recipes)
                if time.monotonic() - committed > COMMIT_SECONDS:
                    self.writer.commit()
                    committed = time.monotonic()
                yield len(items)
        except BaseException:
            with suppress(StoreError):  # the first error is the one to tell
                self.writer.commit()
            raise
        self.writer.commit()

    def _take(self, items: list[_Item], recipes: list[Recipe]) -> None:
        failures = [f for item in items if item.error for f in self._failed(item, item.error)]
        if self.strict and failures:
            raise ImageError(failures[0].stage, f"{failures[0].path}: {failures[0].reason}")
        good = [item for item in items if item.error is None]
        for backbone in self.job.backbones if good else ():
            failures += self._embed(backbone, good, recipes.index(backbone.spec.recipe))
        self.writer.add_failures(failures)
        self.summary.failures += failures

    def _embed(self, backbone: Backbone, items: list[_Item], which: int) -> list[Failure]:
        """Encode one batch and append it; vectors that are not finite become failures."""
        spec = backbone.spec
        batch = torch.from_numpy(np.stack([item.tensors[which] for item in items]))
        with torch.inference_mode(), _autocast(self.plan):
            vectors = backbone.encode_image(batch).float().cpu().numpy()
        finite = np.isfinite(vectors.astype(spec.dtype)).all(axis=1)
        numbers = np.array([item.number for item in items])
        digests = np.frombuffer(b"".join(item.digest for item in items), np.uint8).reshape(-1, 16)
        self.writer.append(spec, self.job.rows[numbers[finite]], vectors[finite], digests[finite])
        self.summary.written[spec.key] += int(finite.sum())
        reason = "the vector is not finite"
        return [_failure(self._sample(n), spec, "encode", reason) for n in numbers[~finite]]

    def _failed(self, item: _Item, error: ImageError) -> list[Failure]:
        sample = self._sample(item.number)
        return [_failure(sample, b.spec, error.stage, error.reason) for b in self.job.backbones]

    def _sample(self, number: int) -> Sample:
        return self.samples[int(self.job.places[number])]


def _autocast(plan: Plan) -> AbstractContextManager[Any]:
    if plan.precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(plan.device).type, dtype=torch.bfloat16)


def _failure(sample: Sample, spec: Spec, stage: str, reason: str) -> Failure:
    return Failure(sample.id, str(sample.path), stage, reason, spec.key)

"""``embedstore extract``: from a table, a folder or a DICOM archive to a store."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from embedstore import cli_options as given
from embedstore.cli_console import err, one_of, out, pairs, say, tell_failures
from embedstore.errors import DataError, ManifestError, StoreError, UsageError
from embedstore.places import is_remote

if TYPE_CHECKING:
    from embedstore.cluster.fleet import Fleet
    from embedstore.extract import Summary
    from embedstore.manifest import Manifest
    from embedstore.types import Backbone, Recipe, Sample

_ADDRESS = re.compile(r"local|auto|(ray://)?[^/\s]+:\d+")


class Command(TyperCommand):
    """``embedstore extract``, whose --ray may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Fill in the address where what follows --ray is none."""
        pairs = zip(args, [*args, ""][1:], strict=True)
        alone = (a == "--ray" and not _ADDRESS.fullmatch(following) for a, following in pairs)
        whole = ["--ray=local" if a else arg for arg, a in zip(args, alone, strict=True)]
        return super().parse_args(ctx, whole)


def extract(
    manifest: given.Manifest,
    store: given.StoreOption = Path("embeddings.zarr"),
    backbone: given.Backbone = None,
    recipe: given.Recipe = "mammography",
    resize: given.Resize = "",
    exact: given.Exact = False,
    window: given.Window = 0,
    frames: given.Frames = "first",
    pooling: given.Pooling = "",
    column: given.Column = None,
    label: given.Label = None,
    root: given.Root = None,
    join: given.Join = None,
    on: given.On = "",
    patient_ids: given.PatientIds = "hash",
    device: given.Device = "auto",
    precision: given.Precision = "auto",
    batch_size: given.BatchSize = 0,
    compile_: given.Compile = False,
    workers: given.Workers = -1,
    file_timeout: given.FileTimeout = 60.0,
    keep_pixels: given.KeepPixels = False,
    strict: given.Strict = False,
    retry_failures: given.RetryFailures = False,
    ray: given.Ray = "",
) -> None:
    """Embed images into a store; running it again does only what is missing."""
    from functools import partial

    one_of("--precision", precision, ("auto", "float32", "bfloat16"))
    _check_backbones(backbone or [])
    _check_store(store, patient_ids)
    archived = _is_archive(manifest)
    table = None
    if archived:
        _refuse("a DICOM archive", {"--column": column, "--root": root})
        _check_archive(join, on, label, frames)
    else:
        _refuse("anything but a DICOM archive", {"--join": join, "--on": on})
        table = _table(manifest, column, label, root, frames)

    # torch takes seconds: what can be refused without it has been
    from embedstore import extract as extraction
    from embedstore.images.recipe import named
    from embedstore.plan import choose
    from embedstore.report.progress import progress

    chosen = named(recipe, resize, exact, window)
    devices = ["cpu"] if ray else _devices(device)  # the cluster has its own
    load = partial(_load, list(dict.fromkeys(backbone or [])), chosen, pooling)
    copies = [load(d) for d in devices]
    loaded = copies[0]
    if table is None:
        table = archived_images(manifest, join, on, label, frames, workers, file_timeout)
    _tell_manifest(table, loaded)
    samples = _hide(table.samples, store, archived) if patient_ids == "hash" else table.samples
    made = extraction.recorded_precision(store, loaded) if precision == "auto" else precision
    with _cluster(ray, load, loaded, device, workers) as cluster:
        if cluster:
            first, devices = cluster.about, [cluster.device]
            workers = first.readers
            if made == "auto":
                made = "bfloat16" if first.bfloat16 else "float32"
        plan = choose(
            ",".join(devices), made, batch_size, workers, len(samples), file_timeout, compile_
        )
        say(err, f"running on {f'{cluster}, each ' if cluster else ''}{plan}")
        how = strict, retry_failures, keep_pixels
        with progress(err, "extracting") as show:
            summary = extraction.extract(
                samples, store, loaded, plan, *how, show, copies[1:], cluster
            )
    _tell_summary(store, loaded, summary)


def _check_backbones(names: Sequence[str]) -> None:
    """Refuse a name that is no backbone's, before torch is there."""
    from embedstore import registry
    from embedstore.backbones import parse

    if not names:
        raise UsageError("give at least one --backbone: statistics, biomedclip, convnext_tiny, …")
    for name in names:
        registry.known(registry.BACKBONES, parse(name)[0])


def _load(names: Sequence[str], recipe: Recipe, pooling: str, device: str) -> list[Backbone]:
    from embedstore.backbones import load_backbone

    return [load_backbone(name, recipe, pooling, device) for name in names]


@contextmanager
def _cluster(
    address: str,
    load: Callable[[str], Sequence[Backbone]],
    loaded: Sequence[Backbone],
    device: str,
    workers: int,
) -> Iterator[Fleet | None]:
    """Join a Ray cluster, with a worker on each node or GPU; None without an address."""
    if not address:
        yield None
        return
    from embedstore.cluster.connect import joined

    one_of("--device, with --ray,", device, ("auto", "cpu", "cuda"))
    with joined(address):
        from embedstore.cluster.fleet import Fleet

        with Fleet(load, [b.spec for b in loaded], device, workers) as fleet:
            say(err, f"{fleet}: starting")
            yield fleet
            if died := fleet.died:
                say(err, f"note: {died} worker{'s' * (died != 1)} died; others did what they had")


def _refuse(source: str, options: dict[str, object]) -> None:
    for name, value in options.items():
        if value:
            raise UsageError(f"{name} is of no use with {source}")


def _is_archive(source: Path) -> bool:
    from embedstore.archive import holds_dicom

    if not source.exists():
        raise ManifestError(f"{source}: no such file or folder")
    return holds_dicom(source)


def _check_archive(table: Path | None, on: str, labels: list[str] | None, frames: str) -> None:
    """Say what is wrong with the options before the walk, which may take long."""
    from embedstore.frames import expand
    from embedstore.join import check

    expand([], frames)
    if table:
        check(table, labels or (), on)
    elif on:
        raise UsageError("--on says what --join TABLE is joined on; give the table")
    elif unknown := set(labels or ()) - {"class"}:
        name = unknown.pop()
        raise UsageError(f"--label {name}: a DICOM archive gets its labels by --join TABLE")


def archived_images(
    folder: Path,
    table: Path | None,
    on: str,
    labels: list[str] | None,
    frames: str,
    workers: int,
    seconds: float,
) -> Manifest:
    """Read a DICOM archive, label it by a table or its folders, and choose frames."""
    from dataclasses import replace

    from embedstore.archive import read_archive
    from embedstore.frames import expand
    from embedstore.join import join
    from embedstore.report.progress import progress
    from embedstore.views import complete

    with progress(err, "reading tags", "files") as show:
        archive = read_archive(folder, show)
    with progress(err, "telling views") as show:
        archive = complete(archive, 2 if workers < 0 else workers, seconds, show)
    if table:
        joined = join(archive, table, labels or (), on)
    else:
        joined = archive.manifest(classes=bool(labels))
    return replace(joined, samples=tuple(expand(joined.samples, frames, archive.frames)))


def _table(
    path: Path,
    column: list[str] | None,
    labels: list[str] | None,
    root: Path | None,
    frames: str,
) -> Manifest:
    from dataclasses import replace

    from embedstore.frames import expand
    from embedstore.manifest import read_manifest

    table = read_manifest(path, pairs(column or []), labels or None, root)
    return replace(table, samples=tuple(expand(table.samples, frames)))


def _check_store(store: Path, patient_ids: str) -> None:
    """Refuse a path that is something else, cannot be made, or whose ids are kept otherwise."""
    from embedstore.privacy import key_file
    from embedstore.store import Store
    from embedstore.writer import refuse_foreign

    one_of("--patient-ids", patient_ids, ("hash", "keep"))
    if store.name in {"", ".."}:
        raise UsageError(f"--store is the path of a store, such as embeddings.zarr; not '{store}'")
    refuse_foreign(store)
    if not is_remote(store):
        _check_folder(store)
    if not (store / "zarr.json").exists():
        return
    if len(Store.open(store)) and patient_ids == "keep" and key_file(store).exists():
        raise UsageError(
            f"{store}: its ids are hashed ({key_file(store).name}): with --patient-ids keep every "
            f"patient would be two; leave it out, or give a new --store"
        )


def _check_folder(store: Path) -> None:
    """Refuse a path that may not be written to."""
    if (store / "zarr.json").exists() and not os.access(store, os.W_OK):
        raise StoreError(f"{store}: cannot be written to; give another, or a copy")
    above = next(p for p in store.absolute().parents if p.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise StoreError(f"{store}: cannot be made: {above} cannot be written to; give another")


def _devices(names: str) -> list[str]:
    """Return the devices to use, each tried; several of one kind with commas."""
    import torch

    from embedstore.plan import choose_device

    devices = [choose_device(name.strip()) for name in names.split(",")]
    for name in devices:
        one_of("--device", name.partition(":")[0], ("auto", "cpu", "cuda", "mps"))
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(f"--device {name} cannot be used here: {reason}") from error
    kinds = [torch.device(name).type for name in devices]
    if len(set(kinds)) > 1:
        raise UsageError(f"--device {names}: several devices must be of one kind")
    return kinds if kinds[0] == "cpu" else devices  # cpu:1 is the same one


def _hide(samples: Sequence[Sample], store: Path, archived: bool) -> list[Sample]:
    """Replace ids by keyed hashes, of an archive all of them, and say what stays readable."""
    from embedstore.privacy import link, pseudonymise

    hidden = pseudonymise(samples, store, ids=archived)
    if archived:
        table = link(samples, hidden, store)
        say(err, f"note: all ids are keyed hashes; {table.name}, beside the store, has the files")
        return hidden
    shown = [s for s in samples if s.group and (s.group in s.id or s.group in s.path.name)]
    if shown:
        say(
            err,
            f"note: the ids or file names of {len(shown)} images hold the patient's id "
            f"({shown[0].id}); only the patient and exam columns are hashed",
        )
    return hidden


def _tell_manifest(table: Manifest, loaded: list[Backbone]) -> None:
    used = ", ".join(f"{role}={name}" for role, name in table.columns.items())
    say(err, f"{len(table.samples)} images; columns {used or 'none: a folder'}")
    say(err, f"labels {', '.join(table.labels) or 'none'}")
    for note in dict.fromkeys((*table.notes, *(getattr(b, "note", "") for b in loaded))):
        if note:
            say(err, f"note: {note}")


def _tell_summary(store: Path, loaded: list[Backbone], summary: Summary) -> None:
    """Say what was done; `DataError` where no image gave a vector."""
    from embedstore.store import Store

    opened = Store.open(store)
    for b in loaded:
        key = b.spec.key
        failed, before = sum(f.spec == key for f in summary.failures), summary.failed_before[key]
        again = f", {before} failed before (--retry-failures tries them again)" if before else ""
        say(
            out,
            f"{b.spec.backbone} ({key}): {summary.written[key]} new, "
            f"{summary.already[key]} already there, {failed} failed{again}",
        )
    if summary.kept:
        say(out, f"pixels: {summary.kept} pictures kept")
    told = {getattr(b, "note", "") for b in loaded}
    for note in dict.fromkeys([*summary.notes, *(n for b in loaded for n in opened.notes(b.spec))]):
        if note not in told:
            say(err, f"note: {note}")
    tell_failures(summary.failures)
    if any(not f.path for f in summary.failures):
        say(err, f"note: {store.name}.linkage.csv has the files of the failed")
    say(out, f"{store}: {len(opened)} samples, {summary.seconds:.1f} s")
    if summary.failures and not any([*summary.written.values(), *summary.already.values()]):
        raise DataError(f"none of the {summary.samples} images could be used")

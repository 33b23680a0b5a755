"""``embedstore update, delete, compact, merge``: stores whose data change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.cli_console import err, out, pairs, say
from embedstore.errors import ManifestError, UsageError
from embedstore.places import place, quoted

if TYPE_CHECKING:
    from embedstore.update import Updated

StorePath = Annotated[
    Path, typer.Argument(metavar="STORE", help="A store made by `extract`.", parser=place)
]
Table = Annotated[
    Path,
    typer.Argument(
        metavar="TABLE",
        help="A .csv, .tsv or .parquet table with the samples' ids.",
        parser=place,
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        help="ROLE=NAME for columns without a usual name; roles: id, patient, exam, view, "
        "laterality, split."
    ),
]
Label = Annotated[
    list[str] | None, typer.Option(help="Label columns to take; by default all small ones.")
]
Erase = Annotated[bool, typer.Option("--erase", help="Let blank cells erase what is known.")]
Id = Annotated[list[str] | None, typer.Option("--id", help="A sample, as the store names it.")]
Patient = Annotated[
    list[str] | None, typer.Option(help="A patient, as the hospital or the store names them.")
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="A table with a column of ids, else of patients; or a .txt with an id a line.",
    ),
]
Stores = Annotated[
    list[Path], typer.Argument(metavar="STORES", help="Two stores or more.", parser=place)
]
Target = Annotated[
    Path, typer.Option("--store", metavar="PATH", help="The new store.", parser=place)
]
Different = Annotated[
    bool,
    typer.Option(
        "--different-patients",
        help="No patient is in two of the stores, though their ids are hashed with several keys.",
    ),
]
SHOWN = 5


def update(
    store: StorePath,
    table: Table,
    column: Column = None,
    label: Label = None,
    erase: Erase = False,
) -> None:
    """Change labels, views, splits, exams or patients of samples by a table; no vector changes."""
    from embedstore.update import update as run

    _tell_update(store, run(store, table, pairs(column or []), label or None, erase))


def _tell_update(store: Path, updated: Updated) -> None:
    for note in updated.notes:
        say(err, f"note: {note}")
    if updated.unknown:
        shown = ", ".join(updated.unknown[:SHOWN]) + ", …" * (len(updated.unknown) > SHOWN)
        say(err, f"note: {len(updated.unknown)} ids of the table are not in the store: {shown}")
    if updated.blank:
        say(
            err,
            f"note: {updated.blank} blank cells leave what is known as it is (--erase erases it)",
        )
    for name, count in updated.changed.items():
        new = " (a new label)" if name in updated.added else ""
        shown = "patient" if name == "group" else name
        say(out, f"{shown}: {count} of {updated.samples} values changed{new}")
    say(out, f"{store}: {sum(updated.changed.values())} values changed")


def delete(
    store: StorePath, sample: Id = None, patient: Patient = None, source: From = None
) -> None:
    """Hide samples from every reader at once; `compact` removes their bytes."""
    from embedstore.delete import delete as run

    ids, patients = list(sample or ()), list(patient or ())
    if source:
        more_ids, more_patients = _listed(source)
        ids, patients = ids + more_ids, patients + more_patients
    if not (ids or patients):
        raise UsageError("say what to delete: --id, --patient or --from FILE")
    deleted = run(store, ids, patients)
    already = f"; {deleted.already} had been before" if deleted.already else ""
    say(
        out,
        f"{store}: {_n(deleted.samples, 'sample')} deleted, of "
        f"{_n(deleted.patients, 'patient')}{already}",
    )
    if deleted.samples or deleted.already:
        say(err, f"note: their bytes are there until `embedstore compact {quoted(store)}`")


def _listed(source: Path) -> tuple[list[str], list[str]]:
    """Read ids, else patients, out of a file."""
    from embedstore.manifest import Findings, load_table, roles_of, stripped, texts

    if source.suffix.lower() == ".txt":
        try:
            lines = source.read_text().splitlines()
        except OSError as error:
            raise ManifestError(f"{source}: cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ManifestError(f"{source}: cannot be read: it is no text in UTF-8") from error
        found = {"id": [line.strip() for line in lines]}
    else:
        table = stripped(load_table(source))
        roles = roles_of(table.columns, {}, Findings())
        found = {role: texts(table, roles[role]) for role in ("id", "patient") if role in roles}
        if not found:
            listed = ", ".join(table.columns)
            raise ManifestError(f"{source}: no column of ids or patients among {listed}")
    role = next(iter(found))
    values = [value for value in found[role] if value]
    if not values:
        raise ManifestError(f"{source}: names nothing to delete")
    return (values, []) if role == "id" else ([], values)


def compact(store: StorePath) -> None:
    """Remove for good what is deleted or replaced; all that stays is as it was."""
    from embedstore.delete import compact as run
    from embedstore.privacy import linkage_file
    from embedstore.report.progress import progress

    with progress(err, "compacting", "arrays") as show:
        done = run(store, show)
    say(
        out,
        f"{store}: {_n(done.samples, 'sample')}, {_n(done.vectors, 'vector')}, "
        f"{_n(done.pictures, 'picture')} dropped for good, {done.bytes} bytes freed",
    )
    if done.links:
        say(out, f"{linkage_file(store)}: {_n(done.links, 'line')} removed")
    if done.samples:
        say(
            err,
            "note: the images, tables that name them, exports and copies of the store are not "
            "touched; a manifest that still names them would add them again",
        )


def merge(stores: Stores, target: Target, different_patients: Different = False) -> None:
    """Make one store of several of the same backbones; images they share are taken once."""
    from embedstore.merge import merge as run
    from embedstore.report.progress import progress

    with progress(err, "merging", "sets") as show:
        merged = run(stores, target, different_patients, show)
    _tell_twice(merged.twice)
    if merged.shared:
        say(err, f"note: {_n(merged.shared, 'sample')} are in several stores under one id")
    if merged.keyless:
        say(
            err,
            "note: the ids are hashed with several keys, so that the new store has none: "
            "`extract` cannot add to it",
        )
    say(out, f"{target}: {_n(merged.samples, 'sample')}")


def _tell_twice(twice: Sequence[tuple[Path, str, str]]) -> None:
    for path, name, other in twice[:SHOWN]:
        say(err, f"note: {name} of {path} is the same image as {other}: taken once, as {other}")
    if len(twice) > SHOWN:
        say(err, f"… and {len(twice) - SHOWN} more images that are there twice")


def _n(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"

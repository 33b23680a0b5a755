"""A table of labels joined to an archive's images, by patient, accession number or instance.

What is reported names rows and columns, never a value: keys are people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.archive import LABELS, Archive
from embedstore.errors import ManifestError, UsageError
from embedstore.images.dicom_tags import Tags
from embedstore.manifest import (
    USUAL,
    Findings,
    Manifest,
    label_columns,
    load_table,
    stripped,
    texts,
)
from embedstore.types import Sample

if TYPE_CHECKING:
    import polars as pl

KEYS: Mapping[str, tuple[str, ...]] = {
    "SOPInstanceUID": ("sopinstanceuid", "imageid"),
    "AccessionNumber": ("accessionnumber", "accession"),
    "PatientID": ("patientid", "patient"),
}
"""What can be joined on, the most specific first, and the names its column goes by (`_plain`)."""

_ROLES = {"SOPInstanceUID": "id", "AccessionNumber": "exam", "PatientID": "patient"}
_SIDES = {"left": "L", "right": "R", "b": "", "both": "", "bilateral": ""}
_Key = tuple[str, str, str]  # patient, accession number or instance; side; view; "" is any


@dataclass(frozen=True, slots=True)
class _Columns:
    """The key, the column it is in, and those of other roles; "" where the table has none."""

    key: str
    column: str
    laterality: str
    view: str
    split: str

    def roles(self) -> dict[str, str]:
        given = {_ROLES[self.key]: self.column, "laterality": self.laterality, "view": self.view}
        return {k: v for k, v in (given | {"split": self.split}).items() if v}

    def compared(self) -> str:
        sides = {"laterality": self.laterality, "view": self.view}
        exact = self.key == "SOPInstanceUID"
        return " and ".join([self.key, *(n for n, c in sides.items() if c and not exact)])


def join(archive: Archive, table_path: Path, labels: Sequence[str], on: str = "") -> Manifest:
    """Label an archive's images with a table's columns.

    Where the table has columns of laterality or view (by their usual names), these must agree too,
    unless joined on SOPInstanceUID. An empty cell, or "both", agrees with all; of several rows
    the one that says most is taken. Images without a row stay, with these labels empty.

    Parameters
    ----------
    archive
        As `read_archive` gives it.
    table_path
        A ``.csv``, ``.tsv`` or ``.parquet`` file.
    on
        "PatientID", "AccessionNumber" or "SOPInstanceUID", its column found by a usual name or
        given, as in "PatientID=mrn"; by default the most specific the table has.
    labels
        Columns to keep as labels. There is no default: a hospital's table has names, numbers and
        dates in it, and no rule tells them all.

    Raises
    ------
    ManifestError
        The table cannot be read or lacks a column, says two things of one image, or has no row
        for any.
    UsageError
        `on` is no key.
    """
    table, columns, wanted = check(table_path, labels, on)
    findings = Findings()
    named = [*wanted, *filter(None, [columns.split])]
    text = [texts(table, name) for name in named]
    rows = [tuple(column[n] for column in text) for n in range(table.height)]
    keys = _keys(table, columns)
    first = _first_rows(keys, rows, named, columns.compared(), findings)
    if findings.problems:
        raise _failure(table_path, findings.problems)
    found = [_found(first, _key(tags, columns.key), s) for s, tags in _pairs(archive)]
    if not any(found):
        raise ManifestError(f"{table_path}: {_no_match(archive, table.columns, columns, keys)}")
    samples = tuple(
        _labelled(s, wanted, rows[first[key]] if key else None, bool(columns.split))
        for s, key in zip(archive.samples, found, strict=True)
    )
    notes = (*archive.notes, *findings.notes, *_notes(columns, keys, found, samples, wanted))
    kept = [name for name in LABELS if name not in wanted]
    return Manifest(samples, columns.roles(), (*kept, *wanted), notes)


def check(
    table_path: Path, labels: Sequence[str], on: str = ""
) -> tuple[pl.DataFrame, _Columns, list[str]]:
    """Read a table to join and find its columns; raises as `join`, before any image is read."""
    table = stripped(load_table(table_path))
    if not table.height:
        raise ManifestError(f"{table_path}: the table has no rows")
    columns, findings = _columns(table_path, table.columns, on), Findings()
    wanted = _wanted(table, columns, labels, findings)
    if findings.problems:
        raise _failure(table_path, findings.problems)
    return table, columns, wanted


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _usual(names: Sequence[str], usual: Iterable[str]) -> str:
    """Find the column of the first usual name; "" where there is none."""
    plain = {_plain(name): name for name in reversed(names)}
    return next((plain[_plain(u)] for u in usual if _plain(u) in plain), "")


def _columns(table_path: Path, names: Sequence[str], on: str) -> _Columns:
    asked, _, column = (part.strip() for part in on.partition("="))
    key = next((key for key, usual in KEYS.items() if _plain(asked) in usual), "")
    if on and not key:
        raise UsageError(f"no key {asked!r} to join on; there are {', '.join(KEYS)}")
    if not on:
        key = next((key for key, usual in KEYS.items() if _usual(names, usual)), "")
    column = column or _usual(names, KEYS.get(key, ()))
    if column not in names or not key:
        what = f"column {column!r}" if column else f"column of {key or ' or '.join(KEYS)}"
        raise ManifestError(
            f"{table_path}: no {what}; there are {', '.join(names)}; name it with "
            f"--on {key or 'PatientID'}=COLUMN"
        )
    rest = [name for name in names if name != column]
    sides = (_usual(rest, USUAL[role]) for role in ("laterality", "view", "split"))
    return _Columns(key, column, *sides)


def _wanted(
    table: pl.DataFrame, columns: _Columns, labels: Sequence[str], findings: Findings
) -> list[str]:
    """Choose the label columns; a problem where there are none, or one cannot be kept."""
    # what the files say is a label in any case
    asked = [name for name in labels if name in table.columns or name not in LABELS]
    if not asked and not columns.split:
        taken = columns.roles().values()
        rest = ", ".join(name for name in table.columns if name not in taken)
        findings.problems.append(f"say which columns are labels with --label; there are {rest}")
    return label_columns(table, columns.roles(), asked, findings)


def _keys(table: pl.DataFrame, columns: _Columns) -> list[_Key]:
    blank = [""] * table.height
    exact = columns.key == "SOPInstanceUID"
    sides, views = (
        texts(table, name) if name and not exact else blank
        for name in (columns.laterality, columns.view)
    )
    values = texts(table, columns.column)
    return [
        (value, _side(side), view.upper())
        for value, side, view in zip(values, sides, views, strict=True)
    ]


def _side(laterality: str) -> str:
    return _SIDES.get(laterality.lower(), laterality.upper())


def _first_rows(
    keys: list[_Key],
    rows: list[tuple[str, ...]],
    named: list[str],
    compared: str,
    findings: Findings,
) -> dict[_Key, int]:
    """Map each key to its first row; a problem where a later one says something else."""
    first: dict[_Key, int] = {}
    unlike: list[tuple[int, str]] = []
    differ: dict[str, None] = {}
    for n, (key, row) in enumerate(zip(keys, rows, strict=True)):
        earlier = first.setdefault(key, n) if key[0] else n
        if rows[earlier] != row:
            unlike.append((n + 1, f"unlike row {earlier + 1}"))
            pairs = zip(named, rows[earlier], row, strict=True)
            differ |= dict.fromkeys(name for name, a, b in pairs if a != b)
    what = f"rows repeat {compared} with other values of {', '.join(differ)}"
    findings.rows(what, unlike)
    return first


def _pairs(archive: Archive) -> Iterable[tuple[Sample, Tags]]:
    return zip(archive.samples, archive.tags, strict=True)


def _key(tags: Tags, key: str) -> str:
    values = {"SOPInstanceUID": tags.sop_uid, "AccessionNumber": tags.accession}
    return values.get(key, tags.patient_id)


def _found(first: Mapping[_Key, int], value: str, sample: Sample) -> _Key | None:
    """Look an image up, with side and view, then with fewer of them."""
    side, view = _side(sample.laterality), sample.view.upper()
    asked = ((value, s, v) for s, v in ((side, view), (side, ""), ("", view), ("", "")))
    return next((key for key in asked if key in first), None)


def _labelled(
    sample: Sample, wanted: list[str], row: tuple[str, ...] | None, has_split: bool
) -> Sample:
    values = row or ("",) * (len(wanted) + has_split)
    labels = {**sample.labels, **dict(zip(wanted, values, strict=False))}
    return replace(sample, labels=labels, split=values[-1] if has_split else "")


def _notes(
    columns: _Columns,
    keys: list[_Key],
    found: list[_Key | None],
    samples: Sequence[Sample],
    wanted: list[str],
) -> Iterable[str]:
    used = set(found)
    unused = sum(bool(key[0]) and key not in used for key in keys)
    joined = [s for s, key in zip(samples, found, strict=True) if key]
    yield (
        f"labels joined on {columns.compared()}: {len(joined)} of {len(samples)} images have a "
        f"row; {unused} rows match no image"
    )
    if nameless := sum(not key[0] for key in keys):
        yield f"{nameless} rows of the table have no {columns.key}"
    for name in wanted:
        if empty := sum(not s.labels[name] for s in joined):
            yield f"label {name!r} is empty in {empty} of {len(joined)} joined images"


def _no_match(archive: Archive, names: Sequence[str], columns: _Columns, keys: list[_Key]) -> str:
    """Say that no image has a row, and what to try."""
    have = {_key(tags, columns.key) for tags in archive.tags} - {""}
    given = {key[0] for key in keys} - {""}
    said = f"no image has a row, joined on {columns.compared()} (column {columns.column!r}); "
    other = next((k for k, u in KEYS.items() if k != columns.key and _usual(names, u)), "")
    if have & given:
        return said + "the key is there, with another laterality or view: check these columns"
    if have and {_loose(v) for v in have} & {_loose(v) for v in given}:
        return said + "they would match without leading zeros, '.0' and capitals: keep it as text"
    if not have:
        said += f"no file has {columns.key}; "
    return said + f"try --on {other or 'PatientID=COLUMN'}"


def _loose(value: str) -> str:
    return value.casefold().removesuffix(".0").lstrip("0")


def _failure(table_path: Path, problems: list[str]) -> ManifestError:
    more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return ManifestError(f"{table_path}: {problems[0]}{more}", tuple(problems))

"""Changing what a store says of its samples, by a table; no vector is touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from embedstore.errors import ManifestError
from embedstore.manifest import (
    Findings,
    as_polars,
    ids_from_paths,
    label_columns,
    load_table,
    numbered_within_patients,
    roles_of,
    stripped,
    texts,
)
from embedstore.places import place
from embedstore.privacy import alias_of
from embedstore.store import Store
from embedstore.writer import Writer

_COLUMNS = {"patient": "group", "exam": "exam", "view": "view"}
_COLUMNS |= {"laterality": "laterality", "split": "split"}
_HASHED = ("group", "exam")


@dataclass(slots=True)
class Updated:
    """What an update did.

    Attributes
    ----------
    samples
        How many samples of the store the table names.
    changed
        Column to how many of its values are others now; all columns the table has.
    added
        Labels that the store did not have.
    unknown
        Ids of the table that the store does not have.
    blank
        Blank cells that left a known value as it is.
    """

    samples: int = 0
    changed: dict[str, int] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    blank: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of changes: ids, and the values of columns by their names in the store."""

    ids: list[str]
    values: dict[str, list[str]]
    numbered: bool
    notes: tuple[str, ...]


def update(
    path: Path | str,
    table: Path | str | Any,
    columns: Mapping[str, str] | None = None,
    labels: Iterable[str] | None = None,
    erase: bool = False,
) -> Updated:
    """Change labels and other columns of samples, found by id, in one commit.

    Parameters
    ----------
    table
        A ``.csv``, ``.tsv`` or ``.parquet`` file, or a polars or pandas dataframe. Its ids are the
        store's, in a column as `manifest.USUAL` names them, else as `extract` takes them from the
        image files' names.
    columns
        Role to column name for what does not go by a usual name.
    labels
        Columns to take as labels; by default as `read_manifest` does.
    erase
        Let a blank cell erase what is known; else it says nothing.

    Raises
    ------
    ManifestError
        The table cannot be used, says two things of one id, or names no sample of the store.
    StoreError
        There is no store, it cannot be written, or the key of its hashes is gone.
    """
    path = place(path)
    Store.open(path)
    given = _read(table, columns or {}, labels)
    with Writer(path) as writer:
        store = writer.store()
        rows = store.visible
        ids: list[str] = store.array("samples/id", rows).tolist()
        known = dict(zip(ids, rows.tolist(), strict=True))
        places = [n for n, sample_id in enumerate(given.ids) if sample_id in known]
        if not places:
            raise ManifestError(
                f"none of the {len(given.ids)} ids of the table is in {path}; the first is "
                f"{given.ids[0]!r}, the store's look like {ids[0] if ids else ''!r}"
            )
        _hide(store, given)
        at = {n: known[given.ids[n]] for n in places}
        unknown = tuple(i for i in dict.fromkeys(given.ids) if i not in known)
        updated = Updated(len(set(at.values())), unknown=unknown, notes=given.notes)
        for name, values in given.values.items():
            _change(writer, store, name, {row: values[n] for n, row in at.items()}, erase, updated)
        if any(updated.changed.values()) or updated.added:
            writer.commit()
    return updated


def _change(
    writer: Writer,
    store: Store,
    name: str,
    values: Mapping[int, str],
    erase: bool,
    updated: Updated,
) -> None:
    """Write one column anew where values of it change, or as a label that is new."""
    if name not in _COLUMNS.values() and name not in store.labels:
        updated.added += (name,)
        updated.changed[name] = sum(bool(value) for value in values.values())
        every = range(store.rows("samples/id"))
        writer.add_label(name, [values.get(row, "") for row in every])
        return
    array = store.column_array(name)
    before = store.array(array)
    other = {row: value for row, value in values.items() if before[row] != value}
    if not erase:
        updated.blank += sum(not value for value in other.values())
        other = {row: value for row, value in other.items() if value}
    updated.changed[name] = len(other)
    if other:
        writer.rewrite(array, _with(store.blocks(array), other))


def _with(blocks: Iterable[NDArray[Any]], other: Mapping[int, str]) -> Iterator[NDArray[Any]]:
    start = 0
    for block in blocks:
        changed = block.copy()
        for row in range(start, start + len(block)):
            if row in other:
                changed[row - start] = other[row]
        yield changed
        start += len(block)


def _read(
    source: Path | str | Any, given: Mapping[str, str], labels: Iterable[str] | None
) -> _Table:
    is_file = isinstance(source, str | Path)
    table = stripped(load_table(place(source)) if is_file else as_polars(source))
    name = str(source) if is_file else "the table"
    if not table.height:
        raise ManifestError(f"{name}: the table has no rows")
    findings = Findings()
    roles = roles_of(table.columns, given, findings)
    wanted = label_columns(table, roles, labels, findings)
    if "id" not in roles and "image" not in roles:
        listed = ", ".join(table.columns)
        findings.problems.append(f"no column of ids among {listed}; name it with --column id=NAME")
    if findings.problems:
        raise ManifestError(f"{name}: {findings.problems[0]}", tuple(findings.problems))
    text = {column: texts(table, column) for column in {*roles.values(), *wanted}}
    ids = text[roles["id"]] if "id" in roles else ids_from_paths(text[roles["image"]])
    values = {_COLUMNS[role]: text[c] for role, c in roles.items() if role in _COLUMNS}
    values |= {label: text[label] for label in wanted}
    if not values:
        raise ManifestError(f"{name}: there is nothing in it but ids; give columns to change")
    _refuse_contradiction(name, ids, values)
    return _Table(ids, values, numbered_within_patients(roles, text), tuple(findings.notes))


def _refuse_contradiction(
    name: str, ids: Sequence[str], values: Mapping[str, Sequence[str]]
) -> None:
    """Refuse a table that says two things of one id, or has a row without an id."""
    first: dict[str, int] = {}
    for n, sample_id in enumerate(ids):
        if not sample_id:
            raise ManifestError(f"{name}: row {n + 1} has no id")
        earlier = first.setdefault(sample_id, n)
        for column, cells in values.items():
            if cells[earlier] != cells[n]:
                raise ManifestError(
                    f"{name}: rows {earlier + 1} and {n + 1} are both of {sample_id!r}, and say "
                    f"{cells[earlier]!r} and {cells[n]!r} for {column}"
                )


def _hide(store: Store, table: _Table) -> None:
    """Make patient and exam ids what the store keeps of them."""
    values = table.values
    if "exam" in values and "group" not in values:
        _refuse_numbers(store, table)
    if table.numbered:
        pairs = zip(values["group"], values["exam"], strict=True)
        values["exam"] = [f"{p}/{e}" if p and e else e for p, e in pairs]
    for name in _HASHED:
        if name in values:
            alias = alias_of(store.path, store.array(f"samples/{name}").tolist())
            values[name] = [alias(value) for value in values[name]]


def _refuse_numbers(store: Store, table: _Table) -> None:
    """Refuse exam ids that repeat from patient to patient, and so would join their exams."""
    groups = dict(zip(store.column("id").tolist(), store.column("group").tolist(), strict=True))
    patients: dict[str, str] = {}
    for sample_id, exam in zip(table.ids, table.values["exam"], strict=True):
        group = groups.get(sample_id, "")
        if exam and group and patients.setdefault(exam, group) != group:
            raise ManifestError(
                f"exam {exam!r} is of several patients in the table; give the patient's column too"
            )

"""A table (CSV, Parquet, any dataframe) or a folder of images to a list of samples.

Everything wrong with the input is found here, in one report, before any work starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.classes import sounds_unknown
from embedstore.errors import ManifestError
from embedstore.images.decode import SUFFIXES
from embedstore.places import files_below, inside, is_remote, missing_of, place
from embedstore.types import Sample

if TYPE_CHECKING:
    import polars as pl

USUAL: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "path", "file", "filename", "file_path", "filepath", "image_path", "img"),
    "id": ("id", "image_id", "sample_id", "sopinstanceuid", "sop_instance_uid"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "group", "case_id"),
    "exam": ("exam", "exam_id", "study", "study_id", "studyinstanceuid", "accession"),
    "view": ("view", "view_position", "viewposition", "projection"),
    "laterality": ("laterality", "side", "image_laterality", "breast_side"),
    "split": ("split", "fold", "partition", "subset"),
}
"""The names each column goes by, in order of preference; compared in lower case."""

MAX_LABEL_VALUES = 50
_SEPARATORS = ",", ";", "\t"
"""What a .csv is parted by: the first of these that its first line has."""
_TABLES = {".csv", ".tsv", ".parquet"}
_SHOWN = 5
_FEW_ROWS = 10
_USUAL_NAMES = {name for names in USUAL.values() for name in names}
_OWN_COLUMNS = {f.name for f in fields(Sample)} - {"labels", "frame", "private"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Samples in the table's order, the columns they came from, and what deserves a word."""

    samples: tuple[Sample, ...]
    columns: Mapping[str, str]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Findings:
    """What is wrong with a table, and what deserves a word."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rows(self, what: str, rows: Iterable[tuple[int, str]]) -> None:
        """Report table rows (counted from 1, the header not counted), the first few by name."""
        found = list(rows)
        if found:
            shown = ", ".join(f"row {n} ({value})" for n, value in found[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            self.problems.append(f"{len(found)} {what}: {shown}{more}")


def read_manifest(
    source: Path | str | Any,
    columns: Mapping[str, str] | None = None,
    labels: Iterable[str] | None = None,
    root: Path | None = None,
    allow_missing: bool = False,
) -> Manifest:
    """Read a manifest.

    Parameters
    ----------
    source
        A ``.csv``, ``.tsv`` or ``.parquet`` file, a folder (its sub-folders are the classes), or a
        polars or pandas dataframe.
    columns
        Role to column name for what does not go by a usual name (see `USUAL`).
    labels
        Columns to keep as labels; by default every other column with at most
        50 distinct values, not another in every row, that does not go by a role's usual name.
    root
        Folder that relative image paths start from; by default the table's own.
    allow_missing
        Let files that do not exist through, to be recorded as failures.

    Raises
    ------
    ManifestError
        With every problem found and the rows it is in.
    """
    if root is not None and not root.is_dir():
        raise ManifestError(f"{root}: no such folder for image paths to start from")
    if isinstance(source, str | Path):
        path = place(source)
        if path.is_dir():
            if columns or set(labels or ()) - {"class"}:
                raise ManifestError(f"{path}: a folder has no columns; its only label is 'class'")
            return _from_folder(path)
        table, root, said = load_table(path), root or path.parent, str(path)
    else:
        table, root, said = as_polars(source), root or Path(), "manifest"
    return _from_table(table, said, columns or {}, labels, root, allow_missing)


def load_table(path: Path) -> pl.DataFrame:
    """Read a ``.csv``, ``.tsv`` or ``.parquet`` file; `ManifestError` where it is none."""
    import polars as pl

    if not path.exists():
        raise ManifestError(f"{path}: no such file or folder")
    try:
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(
                BytesIO(path.read_bytes()) if is_remote(path) else path, glob=False
            )
        if path.suffix.lower() in {".csv", ".tsv", ".txt"}:
            data = path.read_bytes()
            header = data.partition(b"\n")[0]
            known = _SEPARATORS if path.suffix.lower() == ".csv" else ("\t",)
            separator = next((s for s in known if s.encode() in header), known[0])
            # as text: "007" is an id, not a number
            table = pl.read_csv(BytesIO(data), separator=separator, infer_schema=False)
            return table.filter(~pl.all_horizontal(pl.all().is_null()))  # blank lines
    # a damaged Parquet file can make polars panic, which is no Exception
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).splitlines()[0]
        if "utf-8" in reason.casefold():
            reason = "not UTF-8 text; save it as UTF-8 (in Excel: CSV UTF-8)"
        raise ManifestError(f"{path}: cannot be read as a table: {reason}") from error
    raise ManifestError(f"{path}: not a manifest; give a .csv, .tsv or .parquet file, or a folder")


def as_polars(frame: Any) -> pl.DataFrame:
    """Return a polars or pandas dataframe as a polars one; `ManifestError` where it is neither."""
    import polars as pl

    if isinstance(frame, pl.DataFrame):
        return frame
    if type(frame).__module__.startswith("pandas") and hasattr(frame, "columns"):
        if not frame.columns.is_unique:
            raise ManifestError("the dataframe has two columns of one name")
        # cell by cell: as a whole, pandas turns a missing value into the text "nan"
        return pl.DataFrame(
            {
                str(name): [
                    None if gone else str(v) for v, gone in zip(column, column.isna(), strict=True)
                ]
                for name, column in frame.items()
            }
        )
    raise ManifestError(f"a manifest is a path, a polars or a pandas dataframe, not {type(frame)}")


def roles_of(names: list[str], given: Mapping[str, str], findings: Findings) -> dict[str, str]:
    """Map each role to the column that plays it; a problem for each given one that cannot."""
    lower = {name.lower(): name for name in reversed(names)}
    roles = {}
    for role, usual in USUAL.items():
        free = (lower[u] for u in usual if u in lower and lower[u] not in given.values())
        if match := next(free, None):
            roles[role] = match
    for role, name in given.items():
        if role not in USUAL:
            findings.problems.append(f"no role called {role!r}; known: {', '.join(USUAL)}")
        elif name not in names:
            findings.problems.append(f"no column {name!r} for {role}; there are {', '.join(names)}")
        else:
            roles[role] = name
    return roles


def _from_table(
    table: pl.DataFrame,
    said: str,
    given: Mapping[str, str],
    labels: Iterable[str] | None,
    root: Path,
    allow_missing: bool,
) -> Manifest:
    findings = Findings()
    if table.height == 0:
        raise ManifestError(f"{said}: has no rows")
    table = stripped(table)
    roles = roles_of(table.columns, given, findings)
    if "image" not in roles:
        listed = ", ".join(table.columns)
        findings.problems.append(
            f"no column of image files among {listed}; name it with --column image=NAME"
        )
    wanted = label_columns(table, roles, labels, findings)
    if "image" not in roles:
        raise _failure(findings, said)
    text = {name: texts(table, name) for name in [*roles.values(), *wanted]}
    paths = [inside(root, value) for value in text[roles["image"]]]
    ids = text[roles["id"]] if "id" in roles else ids_from_paths(text[roles["image"]])
    _check_rows(ids, text[roles["image"]], paths, allow_missing, findings)
    if findings.problems:
        raise _failure(findings, said)
    for name in wanted:
        if unknown := sorted({v for v in text[name] if sounds_unknown(v)}):
            findings.notes.append(
                f"label {name!r} has values {', '.join(unknown)}: blank the cells where that means "
                f"unknown"
            )
        if empty := sum(not value for value in text[name]):
            findings.notes.append(f"label {name!r} is empty in {empty} of {len(ids)} rows")
    if numbered_within_patients(roles, text):
        findings.notes.append("exam ids repeat from patient to patient: taken with the patient's")
    samples = tuple(_samples(ids, paths, roles, wanted, text))
    notes = (*findings.notes, *_patient_note(roles, [s.group for s in samples]))
    return Manifest(samples, roles, tuple(wanted), notes)


def stripped(table: pl.DataFrame) -> pl.DataFrame:
    """Strip the columns' names; `ManifestError` where two are the same then."""
    names = [name.strip() for name in table.columns]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ManifestError(f"the table has two columns called {twice[0]!r}")
    return table.rename(dict(zip(table.columns, names, strict=True)))


def texts(table: pl.DataFrame, name: str) -> list[str]:
    """Return a column as stripped text, "" where it is missing."""
    # None is missing, and so is what does not equal itself: NaN
    return ["" if v is None or v != v else str(v).strip() for v in table[name].to_list()]


def label_columns(
    table: pl.DataFrame,
    roles: Mapping[str, str],
    labels: Iterable[str] | None,
    findings: Findings,
) -> list[str]:
    """Choose the columns to keep as labels; a problem for each that cannot be kept."""
    wanted = (
        _default_labels(table, roles, findings)
        if labels is None
        else _asked_labels(table, roles, labels, findings)
    )
    for name in wanted:
        forbidden = not name or "/" in name or "\0" in name or name.startswith((".", "__"))
        if forbidden or name == "zarr.json":
            findings.problems.append(f"label column {name!r}: rename it; Zarr forbids such names")
    return wanted


def _asked_labels(
    table: pl.DataFrame, roles: Mapping[str, str], labels: Iterable[str], findings: Findings
) -> list[str]:
    wanted = []
    for name in dict.fromkeys(labels):
        if name not in table.columns:
            findings.problems.append(
                f"no label column {name!r}; there are {', '.join(table.columns)}"
            )
        elif name in {roles.get("patient"), roles.get("exam")}:
            findings.problems.append(f"label column {name!r} names the patient or exam: no label")
        elif name not in _OWN_COLUMNS:
            wanted.append(name)
        elif name not in roles.values():
            findings.problems.append(
                f"label column {name!r}: rename it; every store has a column of its own called that"
            )
    return wanted


def _default_labels(table: pl.DataFrame, roles: Mapping[str, str], findings: Findings) -> list[str]:
    rest = [name for name in table.columns if name and name not in roles.values()]
    # a second patient or exam column would go into the store as it is, names and all
    reserved = [name for name in rest if name.lower() in _USUAL_NAMES]
    values = {name: table[name].n_unique() for name in rest if name not in reserved}
    many = [name for name, n in values.items() if n > MAX_LABEL_VALUES]
    # as many values as rows name the rows and class nothing
    own = [n for n in values if n not in many and values[n] == table.height > _FEW_ROWS]
    if reserved:
        findings.notes.append(f"columns that name a role left out: {', '.join(reserved)}")
    if many:
        findings.notes.append(
            f"columns with over {MAX_LABEL_VALUES} values left out: {', '.join(many)}"
        )
    if own:
        findings.notes.append(f"columns with another value in every row left out: {', '.join(own)}")
    return [name for name in values if name not in {*many, *own}]


def ids_from_paths(paths: list[str]) -> list[str]:
    """File stems where they are distinct, else the paths as written."""
    stems = [Path(p).stem for p in paths]
    return stems if len(set(stems)) == len(stems) else list(paths)


def _check_rows(
    ids: list[str], names: list[str], paths: list[Path], allow_missing: bool, findings: Findings
) -> None:
    findings.rows("rows name no image", ((n, "empty") for n, v in enumerate(names, 1) if not v))
    findings.rows(
        "rows have an empty id",
        (
            (n, name)
            for n, (v, name) in enumerate(zip(ids, names, strict=True), 1)
            if name and not v
        ),
    )
    counts = Counter(ids)
    findings.rows(
        "rows repeat an id", ((n, v) for n, v in enumerate(ids, 1) if v and counts[v] > 1)
    )
    gone = missing_of(p for p, name in zip(paths, names, strict=True) if name and not allow_missing)
    if gone:
        findings.rows(
            "files are missing",
            ((n, names[n - 1]) for n, p in enumerate(paths, 1) if p in gone),
        )


def _samples(
    ids: list[str],
    paths: list[Path],
    roles: Mapping[str, str],
    wanted: list[str],
    text: Mapping[str, list[str]],
) -> Iterable[Sample]:
    blank = [""] * len(ids)
    known = {role: text[roles[role]] if role in roles else blank for role in USUAL}
    if numbered_within_patients(roles, text):
        pairs = zip(known["patient"], known["exam"], strict=True)
        known["exam"] = [f"{p}/{e}" if p and e else e for p, e in pairs]
    for i, (sample_id, path) in enumerate(zip(ids, paths, strict=True)):
        yield Sample(
            id=sample_id,
            path=path,
            group=known["patient"][i],
            exam=known["exam"][i],
            view=known["view"][i],
            laterality=known["laterality"][i],
            split=known["split"][i],
            labels={name: text[name][i] for name in wanted},
        )


def numbered_within_patients(roles: Mapping[str, str], text: Mapping[str, list[str]]) -> bool:
    """Say whether one exam id stands for exams of several patients ("1", "2", …)."""
    if not {"patient", "exam"} <= roles.keys():
        return False
    both = zip(text[roles["patient"]], text[roles["exam"]], strict=True)
    pairs = {(p, e) for p, e in both if p and e}
    return len(pairs) > len({e for _, e in pairs})


def _from_folder(folder: Path) -> Manifest:
    below = map(folder.joinpath, files_below(folder)) if is_remote(folder) else folder.rglob("*")
    every = list(below)
    files = sorted(p for p in every if p.suffix.lower() in SUFFIXES)
    files = files if is_remote(folder) else [p for p in files if p.is_file()]
    if not files:
        raise ManifestError(f"{folder}: no images in this folder ({', '.join(sorted(SUFFIXES))})")
    inner = [path.relative_to(folder) for path in files]
    stems = [p.with_suffix("").as_posix() for p in inner]
    ids = stems if len(set(stems)) == len(stems) else [p.as_posix() for p in inner]
    samples = (
        Sample(id=i, path=path, labels={"class": p.parts[0] if len(p.parts) > 1 else ""})
        for i, path, p in zip(ids, files, inner, strict=True)
    )
    notes = _patient_note({}, [])
    if tables := sorted(p for p in every if p.suffix.lower() in _TABLES):
        said = f"{tables[0]} was not read; where it lists the images, extract {tables[0]}"
        notes = (said, *notes)
    if loose := sum(len(p.parts) == 1 for p in inner):
        notes = (f"label 'class' is empty in {loose} of {len(files)} rows", *notes)
    return Manifest(tuple(samples), {}, ("class",), notes)


def _patient_note(roles: Mapping[str, str], patients: Sequence[str]) -> tuple[str, ...]:
    if "patient" not in roles:
        return ("no patient column: every image will count as a patient of its own",)
    if empty := patients.count(""):
        return (
            f"{roles['patient']} is empty in {empty} of {len(patients)} rows: each of these images "
            f"will count as a patient of its own",
        )
    return ()


def _failure(findings: Findings, said: str) -> ManifestError:
    first, *rest = findings.problems
    more = f" (and {len(rest)} more problems)" if rest else ""
    return ManifestError(f"{said}: {first}{more}", tuple(findings.problems))

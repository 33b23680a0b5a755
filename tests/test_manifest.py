from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

from embedstore.errors import ManifestError
from embedstore.manifest import USUAL, Manifest, read_manifest
from embedstore.types import Sample

ROWS = [
    {"image": "a.png", "id": "007", "patient": "01", "exam": "e1", "view": "CC", "tissue": "dense"},
    {"image": "b.png", "id": "7", "patient": "1", "exam": "e2", "view": "MLO", "tissue": ""},
    {"image": "sub/c.png", "id": "é", "patient": "2", "exam": "", "view": "", "tissue": "f, g"},
]
NO_PATIENT = "no patient column: every image will count as a patient of its own"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "sub/c.png"):
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / name)
    return tmp_path


def write_csv(
    file: Path,
    rows: Iterable[Mapping[str, str]],
    delimiter: str = ",",
    newline: str = "\n",
    encoding: str = "utf-8",
) -> Path:
    rows = list(rows)
    with file.open("w", newline="", encoding=encoding) as handle:
        writer = csv.DictWriter(
            handle, fieldnames=list(rows[0]), delimiter=delimiter, lineterminator=newline
        )
        writer.writeheader()
        writer.writerows(rows)
    return file


def expected(folder: Path, rows: Iterable[Mapping[str, str]] = ROWS) -> list[Sample]:
    return [
        Sample(
            id=row["id"],
            path=folder / row["image"],
            group=row["patient"],
            exam=row["exam"],
            view=row["view"],
            labels={"tissue": row["tissue"]},
        )
        for row in rows
    ]


def problems(source: Any, **options: Any) -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        read_manifest(source, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return caught.value.problems


def as_source(form: str, folder: Path) -> tuple[Any, Path | None]:
    """Return the rows in that form, and the root to read them with."""
    nulls = [{k: v or None for k, v in row.items()} for row in ROWS]
    if form == "csv":
        return write_csv(folder / "m.csv", ROWS), None
    if form == "csv as Excel writes it":
        return write_csv(folder / "m.csv", ROWS, newline="\r\n", encoding="utf-8-sig"), None
    if form == "tsv":
        return write_csv(folder / "m.tsv", ROWS, delimiter="\t"), None
    if form == "parquet":
        pl.DataFrame(nulls).write_parquet(folder / "m.parquet")
        return folder / "m.parquet", None
    if form == "pandas parquet":
        pd.DataFrame(nulls).to_parquet(folder / "m.parquet")
        return str(folder / "m.parquet"), None
    if form == "polars":
        return pl.DataFrame(nulls), folder
    if form == "pandas object":
        return pd.DataFrame(nulls, dtype=object), folder
    return pd.DataFrame(nulls, index=[5, 3, 9]), folder


@pytest.mark.parametrize(
    "form",
    [
        "csv",
        "csv as Excel writes it",
        "tsv",
        "parquet",
        "pandas parquet",
        "polars",
        "pandas",
        "pandas object",
    ],
)
def test_every_form_of_a_table_gives_the_same_samples(folder: Path, form: str) -> None:
    source, root = as_source(form, folder)
    found = read_manifest(source, root=root)
    assert list(found.samples) == expected(folder)
    assert found.labels == ("tissue",)
    assert found.columns == {k: k for k in ("image", "id", "patient", "exam", "view")}
    assert found.notes == ("label 'tissue' is empty in 1 of 3 rows",)


@pytest.mark.parametrize(("role", "name"), [(r, n) for r, ns in USUAL.items() for n in ns])
@pytest.mark.parametrize("dress", [str, str.upper, " {} ".format])
def test_each_usual_name_plays_its_role(folder: Path, role: str, name: str, dress: Any) -> None:
    table = pl.DataFrame({dress(name): ["a.png", "b.png"]})
    if role != "image":
        table = table.with_columns(image=pl.col(dress(name)))
    found = read_manifest(table, root=folder)
    assert found.columns[role] == dress(name).strip()
    assert found.labels == ()
    field = {"patient": "group", "image": "path"}.get(role, role)
    value = {"image": folder / "b.png"}.get(role, "b.png")
    assert getattr(found.samples[1], field) == value


def test_columns_that_are_named_win_over_the_usual_ones(folder: Path) -> None:
    table = pl.DataFrame(
        {"image": ["x", "y"], "path": ["a.png", "b.png"], "who": ["p", "q"], "patient": ["r", "s"]}
    )
    found = read_manifest(table, {"image": "path", "patient": "who"}, root=folder)
    assert [s.path for s in found.samples] == [folder / "a.png", folder / "b.png"]
    assert [s.group for s in found.samples] == ["p", "q"]
    assert found.columns == {"image": "path", "patient": "who"}
    # a name taken for another role leaves the next usual one
    found = read_manifest(table, {"exam": "image"}, root=folder)
    assert found.columns == {"image": "path", "exam": "image", "patient": "patient"}


def test_only_the_first_of_two_columns_of_one_name_counts(folder: Path) -> None:
    assert read_manifest(
        pl.DataFrame({"Image": ["a.png"], "image": ["b.png"]}), root=folder
    ).samples[0].path == (folder / "a.png")


def test_ids_come_from_distinct_stems_else_from_paths(folder: Path) -> None:
    distinct = read_manifest(pl.DataFrame({"image": ["a.png", "sub/c.png"]}), root=folder)
    assert [s.id for s in distinct.samples] == ["a", "c"]
    (folder / "sub" / "a.png").write_bytes(b"x")
    same = read_manifest(pl.DataFrame({"image": ["a.png", "sub/a.png"]}), root=folder)
    assert [s.id for s in same.samples] == ["a.png", "sub/a.png"]


def test_numbers_of_parquet_become_text_and_nan_becomes_empty(folder: Path) -> None:
    table = {"image": ["a.png", "b.png"], "patient": [7, 8], "age": [50.5, float("nan")]}
    for source in (pl.DataFrame(table), pd.DataFrame(table)):
        found = read_manifest(source, root=folder)
        assert [s.group for s in found.samples] == ["7", "8"]
        assert [s.labels["age"] for s in found.samples] == ["50.5", ""]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
def test_what_pandas_calls_missing_is_empty(folder: Path, missing: Any) -> None:
    frame = pd.DataFrame({"image": ["a.png", "b.png"], "t": ["x", missing]}, dtype=object)
    assert [s.labels["t"] for s in read_manifest(frame, root=folder).samples] == ["x", ""]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_may_be_parted_as_other_languages_part_it(
    folder: Path, separator: str, encoding: str
) -> None:
    file = write_csv(folder / "m.csv", ROWS, separator, "\r\n", encoding)
    assert list(read_manifest(file).samples) == expected(folder)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_said_with_what_to_do(folder: Path, encoding: str) -> None:
    file = write_csv(folder / "m.csv", ROWS, encoding=encoding)
    (problem,) = pytest.raises(ManifestError, read_manifest, file).value.args
    assert problem.startswith(f"{file}: cannot be read as a table: not UTF-8 text; save it as")


def test_space_around_headers_and_values_does_not_count(folder: Path) -> None:
    (folder / "m.csv").write_text(" image , patient, tissue \n a.png , 007 , x \n")
    (sample,) = read_manifest(folder / "m.csv", labels=["tissue"]).samples
    assert sample == Sample("a", folder / "a.png", "007", labels={"tissue": "x"})


def test_blank_lines_are_no_rows(folder: Path) -> None:
    (folder / "m.csv").write_text("image,t\na.png,x\n\nb.png,y\n\n\n")
    with (folder / "m.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    samples = read_manifest(folder / "m.csv").samples
    assert [s.labels["t"] for s in samples] == [row["t"] for row in rows] == ["x", "y"]


def test_relative_paths_start_at_the_table_or_at_the_root(folder: Path) -> None:
    file = write_csv(folder / "sub" / "m.csv", [{"image": "c.png"}])
    assert read_manifest(file).samples[0].path == folder / "sub" / "c.png"
    file = write_csv(folder / "sub" / "m.csv", [{"image": "a.png"}])
    assert read_manifest(file, root=folder).samples[0].path == folder / "a.png"
    file = write_csv(folder / "sub" / "m.csv", [{"image": str(folder / "b.png")}])
    assert read_manifest(file).samples[0].path == folder / "b.png"
    with pytest.raises(ManifestError, match="nowhere: no such folder"):
        read_manifest(file, root=folder / "nowhere")


@pytest.mark.parametrize("name", ["m[1].csv", "m*.csv", "m[1].parquet"])
def test_a_name_that_looks_like_a_pattern_is_a_name(folder: Path, name: str) -> None:
    table = pl.DataFrame({"image": ["a.png"]})
    file = folder / name
    table.write_csv(file) if file.suffix == ".csv" else table.write_parquet(file)
    (folder / "m1.csv").write_text("image\nb.png\n")
    assert read_manifest(file).samples[0].path == folder / "a.png"


def test_rows_that_cannot_be_used_are_all_named_at_once(folder: Path) -> None:
    rows = [
        {"image": "a.png", "id": "1"},
        {"image": "gone.png", "id": "2"},
        {"image": "", "id": "3"},
        {"image": "b.png", "id": "1"},
        {"image": "b.png", "id": ""},
        {"image": "lost.png", "id": "4"},
    ]
    assert problems(write_csv(folder / "m.csv", rows)) == (
        "1 rows name no image: row 3 (empty)",
        "1 rows have an empty id: row 5 (b.png)",
        "2 rows repeat an id: row 1 (1), row 4 (1)",
        "2 files are missing: row 2 (gone.png), row 6 (lost.png)",
    )


def test_of_many_rows_the_first_five_are_named(folder: Path) -> None:
    table = pl.DataFrame({"image": [f"gone{i}.png" for i in range(9)]})
    (problem,) = problems(table, root=folder)
    assert problem.startswith("9 files are missing: row 1 (gone0.png), ")
    assert problem.endswith("row 5 (gone4.png) and 4 more")


def test_missing_files_are_let_through_when_asked(folder: Path) -> None:
    table = pl.DataFrame({"image": ["gone.png"]})
    found = read_manifest(table, root=folder, allow_missing=True)
    assert found.samples[0].path == folder / "gone.png"


def test_a_folder_is_no_image_file(folder: Path) -> None:
    assert problems(pl.DataFrame({"image": ["sub"]}), root=folder) == (
        "1 files are missing: row 1 (sub)",
    )


def test_wrong_names_and_wrong_rows_are_reported_together(folder: Path) -> None:
    table = pl.DataFrame({"image": ["a.png", "gone.png"], "t": ["x", "y"]})
    found = problems(table, columns={"exam": "when"}, labels=["nope"], root=folder)
    assert [problem.partition(":")[0] for problem in found] == [
        "no column 'when' for exam; there are image, t",
        "no label column 'nope'; there are image, t",
        "1 files are missing",
    ]


def test_wrong_names_are_reported_together(folder: Path) -> None:
    table = pl.DataFrame({"picture": ["a.png"], "t": ["x"], "a/b": ["x"]})
    found = problems(table, columns={"doctor": "t", "exam": "when"}, labels=["a/b", "nope"])
    assert len(found) == 5
    assert "no role called 'doctor'; known: image, id, patient" in found[0]
    assert found[1] == "no column 'when' for exam; there are picture, t, a/b"
    assert "no column of image files among picture, t, a/b" in found[2]
    assert "no label column 'nope'; there are picture, t, a/b" in found[3]
    assert found[4] == "label column 'a/b': rename it; Zarr forbids such names"


@pytest.mark.parametrize("name", [".hidden", "__x", "a/b", "zarr.json"])
def test_labels_that_cannot_be_arrays_are_refused(folder: Path, name: str) -> None:
    table = pl.DataFrame({"image": ["a.png"], name: ["x"]})
    assert problems(table, root=folder) == (
        f"label column {name!r}: rename it; Zarr forbids such names",
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.csv", b"", "cannot be read as a table"),
        ("m.csv", b"image,patient\n", "no rows"),
        ("m.csv", b"image,patient\n\n\n", "no rows"),
        ("m.csv", bytes(range(256)) * 20, "cannot be read as a table"),
        ("m.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xfe", "cannot be read as a table"),
        ("m.csv", b"image,t\na.png,x,y,z\n", "cannot be read as a table"),
        ("m.csv", b"image,t, t\na.png,x,y\n", "two columns called 't'"),
        ("m.csv", b"<html>no table</html>\n<p>x</p>\n", "no column of image files"),
        ("m.parquet", b"image,patient\na.png,1\n", "cannot be read as a table"),
        ("m.parquet", b"", "cannot be read as a table"),
        ("m.parquet", b"PAR1" + b"\x00" * 40 + b"PAR1", "cannot be read as a table"),
        ("m.xlsx", b"PK\x03\x04", "not a manifest"),
    ],
)
def test_what_is_no_table_is_refused(folder: Path, name: str, content: bytes, says: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ManifestError, match=says) as caught:
        read_manifest(folder / name)
    assert "\n" not in str(caught.value)


def test_damaged_parquet_is_refused_or_read(folder: Path) -> None:
    file = folder / "m.parquet"
    pl.DataFrame({"image": ["a.png", "b.png"], "t": ["x", "y"]}).write_parquet(file)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.integers(len(damaged))] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        try:
            read_manifest(file)
        except ManifestError:
            refused += 1
    assert refused > 20


def test_what_is_no_file_is_refused(folder: Path) -> None:
    for source, says in [
        (folder / "nowhere.csv", "nowhere.csv: no such file or folder"),
        ({"image": ["a.png"]}, "polars or a pandas dataframe, not <class 'dict'>"),
        (pd.Series(["a.png"], name="image"), "dataframe, not"),
        (pd.DataFrame([["a.png", "x"]], columns=["image", "image"]), "two columns of one name"),
        (pl.DataFrame({"image": []}), "no rows"),
    ]:
        with pytest.raises(ManifestError, match=says):
            read_manifest(source)


def many(folder: Path, values: int) -> Manifest:
    rows = max(values, 60)
    table = {"image": ["a.png"] * rows, "id": [str(i) for i in range(rows)]}
    label = [str(i % values) for i in range(rows)]
    return read_manifest(pl.DataFrame(table | {"label": label, "t": ["x"] * rows}), root=folder)


def test_labels_are_by_default_the_columns_with_few_values(folder: Path) -> None:
    found = many(folder, 50)
    assert found.labels == ("label", "t")
    assert not any("left out" in note for note in found.notes)
    found = many(folder, 51)
    assert found.labels == ("t",)
    assert "columns with over 50 values left out: label" in found.notes


@pytest.mark.parametrize(("rows", "labels"), [(10, ("note", "t")), (11, ("t",))])
def test_what_differs_in_every_row_is_a_label_only_where_asked_for(
    folder: Path, rows: int, labels: tuple[str, ...]
) -> None:
    ids = [str(i) for i in range(rows)]
    table = {"image": ["a.png"] * rows, "id": ids, "note": ids, "t": ["x", "y", *ids[2:-1], "y"]}
    found = read_manifest(pl.DataFrame(table), root=folder)
    assert found.labels == labels
    told = "columns with another value in every row left out: note" in found.notes
    assert told == ("note" not in labels)
    assert read_manifest(pl.DataFrame(table), labels=["note"], root=folder).labels == ("note",)


def test_labels_are_those_asked_for(folder: Path) -> None:
    table = pl.DataFrame({"image": ["a.png"], "t": ["x"], "u": ["y"], "view": ["CC"]})
    found = read_manifest(table, labels=["u", "u", "view"], root=folder)
    # the view is a column of the store already
    assert found.samples[0] == Sample("a", folder / "a.png", view="CC", labels={"u": "y"})
    assert found.labels == ("u",)


def test_no_label_stands_in_for_a_column_of_the_store(folder: Path) -> None:
    table = pl.DataFrame(
        {"image": ["a.png"], "sop": ["1"], "id": ["x"], "patient": ["p"], "Group": ["Mrs Smith"]}
    )
    found = read_manifest(table, {"id": "sop"}, root=folder)
    assert found.samples[0] == Sample("1", folder / "a.png", "p")
    assert found.notes == ("columns that name a role left out: id, Group",)
    (problem,) = problems(table, columns={"id": "sop"}, labels=["id"], root=folder)
    assert problem.startswith("label column 'id': rename it")
    (problem,) = problems(table, labels=["patient"], root=folder)
    assert problem == "label column 'patient' names the patient or exam: no label"


def test_a_column_without_a_name_is_no_label(folder: Path) -> None:
    pd.DataFrame({"image": ["a.png", "b.png"], "t": ["x", "y"]}).to_csv(folder / "m.csv")
    assert (folder / "m.csv").read_text().startswith(",image,t")
    assert read_manifest(folder / "m.csv").labels == ("t",)
    assert problems(folder / "m.csv", labels=[""]) == (
        "label column '': rename it; Zarr forbids such names",
    )


def test_a_folder_is_read_with_its_sub_folders_as_classes(tmp_path: Path) -> None:
    names = ["dense/1.png", "dense/deep/2.TIF", "fatty/3.pgm", "fatty/4.jpeg", "loose.jpg"]
    for name in [*names, "dense/notes.txt", "fatty/1.doc"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    found = read_manifest(tmp_path)
    assert [s.path for s in found.samples] == [tmp_path / n for n in names]
    assert [s.id for s in found.samples] == [
        "dense/1",
        "dense/deep/2",
        "fatty/3",
        "fatty/4",
        "loose",
    ]
    assert [s.labels["class"] for s in found.samples] == ["dense", "dense", "fatty", "fatty", ""]
    assert found.labels == ("class",)
    assert found.notes == ("label 'class' is empty in 1 of 5 rows", NO_PATIENT)


def test_a_folder_and_a_table_of_it_give_the_same_samples(tmp_path: Path) -> None:
    rows = []
    for i, name in enumerate(["x/1.png", "x/2.png", "y/3.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes([i]))
        rows.append({"image": name, "id": name[:-4], "class": name[0]})
    assert (
        read_manifest(tmp_path).samples
        == read_manifest(write_csv(tmp_path / "m.csv", rows)).samples
    )


def test_a_table_in_a_folder_of_images_is_not_passed_over_in_silence(folder: Path) -> None:
    table = write_csv(folder / "sub" / "films.csv", ROWS)
    assert any(f"extract {table}" in note for note in read_manifest(folder).notes)
    table.unlink()
    assert not any("extract" in note for note in read_manifest(folder).notes)


def test_files_of_one_stem_in_a_folder_keep_their_endings(tmp_path: Path) -> None:
    for name in ("1.png", "1.tif", "2.png"):
        (tmp_path / name).write_bytes(b"x")
    assert [s.id for s in read_manifest(tmp_path).samples] == ["1.png", "1.tif", "2.png"]


def test_a_folder_takes_no_columns(folder: Path, tmp_path: Path) -> None:
    for options in ({"columns": {"patient": "p"}}, {"labels": ["t"]}):
        with pytest.raises(ManifestError, match="its only label is 'class'"):
            read_manifest(folder, **options)
    assert read_manifest(folder, labels=["class"]).labels == ("class",)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="no images in this folder"):
        read_manifest(tmp_path / "empty")


def test_the_note_on_patients_stands_only_without_them(folder: Path) -> None:
    with_patient = {"image": ["a.png"], "patient": ["1"]}
    assert read_manifest(pl.DataFrame(with_patient), root=folder).notes == ()
    assert read_manifest(pl.DataFrame({"image": ["a.png"]}), root=folder).notes == (NO_PATIENT,)


def test_rows_without_a_patient_are_counted(folder: Path) -> None:
    table = {"image": ["a.png", "b.png"], "id": ["1", "2"], "patient": ["p", " "]}
    (note,) = read_manifest(pl.DataFrame(table), root=folder).notes
    assert note.startswith("patient is empty in 1 of 2 rows: each of these images will count as a")


def test_labels_that_sound_unknown_are_said(folder: Path) -> None:
    table = {"image": ["a.png", "b.png"], "patient": ["p", "q"], "t": ["NA", "x"]}
    (note,) = read_manifest(pl.DataFrame(table), root=folder).notes
    assert note.startswith("label 't' has values NA: blank the cells")


def test_exams_numbered_within_each_patient_are_not_one_exam(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("L", (10, 10)).save(tmp_path / f"{name}.png")
    rows = {"image": ["a.png", "b.png", "c.png"], "patient": ["p", "q", "q"], "exam": ["1"] * 3}
    found = read_manifest(pl.DataFrame(rows), root=tmp_path)
    exams = [s.exam for s in found.samples]
    assert exams[0] != exams[1] == exams[2]
    assert any("exam ids repeat" in note for note in found.notes)
    unique = read_manifest(pl.DataFrame(rows | {"exam": ["1", "2", "2"]}), root=tmp_path)
    assert [s.exam for s in unique.samples] == ["1", "2", "2"]

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import dicom_archive as made
import polars as pl
import pytest
from pydicom.dataset import Dataset

from embedstore.archive import Archive, read_archive
from embedstore.errors import ManifestError, UsageError
from embedstore.join import join as real_join
from embedstore.manifest import Manifest

Row = dict[str, str]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> made.Archive:
    """Three patients of two studies of four views: 24 images."""
    archive = made.Archive(tmp_path_factory.mktemp("archive"))
    made.studies(archive, 3, each=2)
    return archive


@pytest.fixture(scope="module")
def archive(written: made.Archive) -> Archive:
    return read_archive(written.folder)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def write(path: Path, rows: Iterable[Row]) -> Path:
    rows = list(rows)
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(
            handle, list(rows[0]), delimiter="\t" if "tsv" in path.name else ","
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


def values(written: made.Archive, keyword: str) -> list[str]:
    return sorted({str(ds[keyword].value) for ds in written.written.values()})


def rows(written: made.Archive, keyword: str, column: str) -> list[Row]:
    """Write a row for each value of an attribute, with a density of its own choosing."""
    return [{column: v, "density": "ABCD"[n % 4]} for n, v in enumerate(values(written, keyword))]


def labels(found: Manifest, written: made.Archive, keyword: str, name: str = "density") -> Row:
    """Read the labels given, by the attribute of the file the sample points at."""
    given = {}
    for sample in found.samples:
        ds: Dataset = written.written[sample.path.relative_to(written.folder).as_posix()]
        given[str(ds[keyword].value)] = sample.labels[name]
    return given


def join(
    archive: Archive, table: Path, on: str = "", labels: Sequence[str] | None = None
) -> Manifest:
    """Join with the usual labels of these tests, those the table has."""
    if labels is None:
        text = "" if not table.exists() or table.suffix == ".parquet" else table.read_text()
        head = text.partition("\n")[0].replace("\t", ",").split(",") if text else ["density"]
        labels = [name for name in ("density", "birads", "finding", "d") if name in head]
    return real_join(archive, table, labels, on)


def refusal(archive: Archive, table: Path, on: str = "", **options: list[str]) -> str:
    with pytest.raises(ManifestError) as caught:
        join(archive, table, on, **options)
    assert "\n" not in str(caught.value)
    assert str(table) in str(caught.value)
    assert "00PAT" not in str(caught.value)
    assert "00ACC" not in str(caught.value)
    return "; ".join([str(caught.value), *caught.value.problems])


@pytest.mark.parametrize(
    ("keyword", "column"),
    [
        ("PatientID", "PatientID"),
        ("PatientID", "patient_id"),
        ("PatientID", " Patient "),
        ("AccessionNumber", "accession"),
        ("AccessionNumber", "ACCESSION_NUMBER"),
        ("SOPInstanceUID", "sop_instance_uid"),
        ("SOPInstanceUID", "image_id"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_each_key_gives_each_image_its_row(
    archive: Archive, written: made.Archive, tmp_path: Path, keyword: str, column: str, suffix: str
) -> None:
    listed = rows(written, keyword, column)
    path = tmp_path / f"table.{suffix}"
    if suffix == "parquet":
        pl.DataFrame(listed).write_parquet(path)
    else:
        write(path, listed)
    found = join(archive, path)
    assert labels(found, written, keyword) == {r[column]: r["density"] for r in listed}
    assert found.notes == (
        f"labels joined on {keyword}: 24 of 24 images have a row; 0 rows match no image",
    )
    assert found.labels == ("manufacturer", "model", "density")
    for before, after in zip(archive.samples, found.samples, strict=True):
        made_by = {k: after.labels[k] for k in ("manufacturer", "model")}
        assert made_by == before.labels
        assert (after.id, after.path, after.group, after.exam) == (
            (before.id, before.path, before.group, before.exam)
        )


def test_the_most_specific_key_is_taken(
    archive: Archive, written: made.Archive, table: Path
) -> None:
    listed = [
        {
            "PatientID": ds.PatientID,
            "AccessionNumber": ds.AccessionNumber,
            "SOPInstanceUID": ds.SOPInstanceUID,
            "density": "ABCD"[n % 4],
        }
        for n, ds in enumerate(written.written.values())
    ]
    write(table, listed)
    found = join(archive, table)
    assert "joined on SOPInstanceUID" in found.notes[-1]
    assert labels(found, written, "SOPInstanceUID") == {
        r["SOPInstanceUID"]: r["density"] for r in listed
    }
    assert found.labels == ("manufacturer", "model", "density")


@pytest.mark.parametrize("on", ["PatientID=mrn", "patientid = mrn", "patient=mrn"])
def test_a_key_s_column_can_be_named(
    archive: Archive, written: made.Archive, table: Path, on: str
) -> None:
    listed = rows(written, "PatientID", "mrn")
    write(table, [{"accession": "x", **row} for row in listed])
    found = join(archive, table, on)
    assert labels(found, written, "PatientID") == {r["mrn"]: r["density"] for r in listed}
    assert found.columns == {"patient": "mrn"}
    assert found.labels == ("manufacturer", "model", "density")


@pytest.mark.parametrize("side", ["L R", "l r", "left Right"])
def test_laterality_must_agree(
    archive: Archive, written: made.Archive, table: Path, side: str
) -> None:
    left, right = side.split()
    accessions = values(written, "AccessionNumber")
    write(
        table,
        [
            {"accession": a, "Laterality": s, "birads": f"{n}{s[0].upper()}"}
            for n, a in enumerate(accessions)
            for s in (left, right)
        ],
    )
    found = join(archive, table)
    assert "joined on AccessionNumber and laterality: 24 of 24" in found.notes[-1]
    for sample in found.samples:
        ds = written.written[sample.path.relative_to(written.folder).as_posix()]
        n = accessions.index(ds.AccessionNumber)
        assert sample.labels["birads"] == f"{n}{ds.ImageLaterality}"


def test_the_row_that_says_most_is_taken(archive: Archive, table: Path) -> None:
    patient = archive.samples[0].group
    write(
        table,
        [
            {"patient_id": patient, "side": s, "view": v, "finding": f}
            for s, v, f in (
                ("", "", "any"),
                ("L", "", "left"),
                ("both", "mlo", "oblique"),
                ("L", "CC", "left CC"),
            )
        ],
    )
    found = [s for s in join(archive, table).samples if s.group == patient]
    given = {(s.laterality, s.view, s.labels["finding"]) for s in found}
    assert given == {
        ("L", "CC", "left CC"),
        ("L", "MLO", "left"),
        ("R", "CC", "any"),
        ("R", "MLO", "oblique"),
    }
    others = [s for s in join(archive, table).samples if s.group != patient]
    assert {s.labels["finding"] for s in others} == {""}


def test_a_view_may_have_any_name(tmp_path: Path, table: Path) -> None:
    archive, code = made.Archive(tmp_path / "archive"), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99", "axillary Tail"
    ds = made.image(0, 0, 0, "L", "")
    ds.ViewCodeSequence = [code]
    archive.add("one", ds)
    write(table, [{"patient": ds.PatientID, "view": "Axillary tail", "d": "x"}])
    (sample,) = join(read_archive(archive.folder), table).samples
    assert sample.labels["d"] == "x"


def test_of_two_columns_of_a_key_the_first_is_taken(
    archive: Archive, written: made.Archive, table: Path
) -> None:
    listed = [{**r, "PatientID": "none"} for r in rows(written, "PatientID", "patient_id")]
    found = join(archive, write(table, listed))
    assert found.columns == {"patient": "patient_id"}
    assert labels(found, written, "PatientID") == {r["patient_id"]: r["density"] for r in listed}


def test_an_instance_needs_no_laterality(
    archive: Archive, written: made.Archive, table: Path
) -> None:
    listed = [{**row, "laterality": "?"} for row in rows(written, "SOPInstanceUID", "image_id")]
    found = join(archive, write(table, listed))
    assert "joined on SOPInstanceUID: 24 of 24" in found.notes[-1]
    assert "laterality" not in found.labels


def test_what_does_not_match_is_counted(
    archive: Archive, written: made.Archive, table: Path
) -> None:
    listed = rows(written, "AccessionNumber", "AccessionNumber")
    listed[0]["density"] = ""
    gone = listed.pop()
    listed += [{"AccessionNumber": f"none{n}", "density": "A"} for n in range(3)]
    listed += [{"AccessionNumber": "", "density": "B"}, {"AccessionNumber": " ", "density": "C"}]
    found = join(archive, write(table, listed))
    assert found.notes == (
        "labels joined on AccessionNumber: 20 of 24 images have a row; 3 rows match no image",
        "2 rows of the table have no AccessionNumber",
        "label 'density' is empty in 4 of 20 joined images",
    )
    assert labels(found, written, "AccessionNumber")[gone["AccessionNumber"]] == ""


def test_notes_of_the_archive_stay(written: made.Archive, table: Path, tmp_path: Path) -> None:
    copy = made.Archive(tmp_path / "archive")
    made.studies(copy, 1)
    (copy.folder / "text").write_text("no DICOM")
    read = read_archive(copy.folder)
    write(table, rows(copy, "PatientID", "PatientID"))
    assert join(read, table).notes[:1] == read.notes == ("1 file left out: 1 not DICOM",)


def test_images_without_the_key_match_nothing(tmp_path: Path, table: Path) -> None:
    archive = made.Archive(tmp_path / "archive")
    made.studies(archive, 1)
    nameless = made.image(0, 1, 0, "L", "CC")
    del nameless.PatientID
    archive.add("nameless", nameless)
    read = read_archive(archive.folder)
    write(table, [{"PatientID": "", "d": "wrong"}, *({"PatientID": "00PAT0000", "d": "x"},)])
    found = join(read, table)
    assert [s.labels["d"] for s in found.samples if not s.group] == [""]
    assert "4 of 5 images" in found.notes[-2]


def test_split_goes_to_the_samples(archive: Archive, written: made.Archive, table: Path) -> None:
    listed = rows(written, "PatientID", "PatientID")
    parts = dict(zip((r["PatientID"] for r in listed), ("train", "test", "val"), strict=True))
    found = join(archive, write(table, [{**r, "Fold": parts[r["PatientID"]]} for r in listed]))
    assert {s.group: s.split for s in found.samples} == parts
    assert "Fold" not in found.labels
    only = write(table, [{"PatientID": k, "split": v} for k, v in parts.items()])
    assert {s.group: s.split for s in join(archive, only).samples} == parts


def test_labels_are_to_be_named(archive: Archive, written: made.Archive, table: Path) -> None:
    listed = [{**r, "nombre": "Jane", "n": "7"} for r in rows(written, "PatientID", "PatientID")]
    said = refusal(archive, write(table, listed), labels=[])
    assert "say which columns are labels with --label; there are density, nombre, n" in said
    found = join(archive, table, labels=["density"])
    assert found.labels == ("manufacturer", "model", "density")
    assert "Jane" not in str(found)


def test_asked_labels_are_taken_or_refused(
    archive: Archive, written: made.Archive, table: Path
) -> None:
    write(table, [{**r, "a/b": "1", "name": "x"} for r in rows(written, "PatientID", "PatientID")])
    found = join(archive, table, labels=["name", "model"])
    assert found.labels == ("manufacturer", "model", "name")
    said = refusal(archive, table, labels=["none", "a/b", "PatientID"])
    assert "and 2 more problems" in said
    assert "no label column 'none'" in said
    assert "'a/b': rename it" in said
    assert "'PatientID' names the patient" in said


def test_the_table_may_say_who_made_an_image(
    archive: Archive, written: made.Archive, table: Path
) -> None:
    listed = [{**r, "model": "old"} for r in rows(written, "PatientID", "PatientID")[:2]]
    found = join(archive, write(table, listed), labels=["density", "model"])
    assert found.labels == ("manufacturer", "density", "model")
    given = {s.group: s.labels["model"] for s in found.samples}
    assert sorted(given.values()) == ["", "old", "old"]


def test_rows_that_contradict_each_other_are_named(
    archive: Archive, written: made.Archive, table: Path
) -> None:
    listed = rows(written, "PatientID", "PatientID")
    listed += [dict(listed[0]), {**listed[1], "density": "D"}, {**listed[0], "density": "C"}]
    said = refusal(archive, write(table, listed))
    assert (
        "2 rows repeat PatientID with other values of density: row 5 (unlike row 2), "
        "row 6 (unlike row 1)"
    ) in said
    assert len(join(archive, write(table, listed[:4])).samples) == 24


def test_nothing_in_common_says_what_to_try(
    archive: Archive, written: made.Archive, table: Path
) -> None:
    listed = rows(written, "AccessionNumber", "AccessionNumber")
    bare = [{**r, "AccessionNumber": r["AccessionNumber"].lstrip("0").lower()} for r in listed]
    assert "without leading zeros" in refusal(archive, write(table, bare))
    floats = [{**r, "AccessionNumber": f"{r['AccessionNumber']}.0"} for r in listed]
    assert "without leading zeros, '.0'" in refusal(archive, write(table, floats))
    alien = [{"AccessionNumber": f"x{n}", "patient": "y", "d": "1"} for n in range(3)]
    assert "try --on PatientID" in refusal(archive, write(table, alien), labels=["d"])
    sides = [{**r, "view": "XCCL"} for r in listed]
    said = refusal(archive, write(table, sides))
    assert "joined on AccessionNumber and view" in said
    assert "another laterality or view" in said
    lost = Archive(archive.samples, tuple(type(t)(rows=1) for t in archive.tags))
    assert "no file has AccessionNumber" in refusal(lost, write(table, listed))


def test_what_is_no_table_or_no_key_is_refused(
    archive: Archive, written: made.Archive, table: Path, tmp_path: Path
) -> None:
    write(table, rows(written, "PatientID", "mrn"))
    said = refusal(archive, table)
    assert "no column of SOPInstanceUID or AccessionNumber or PatientID" in said
    assert "there are mrn, density" in said
    assert "--on PatientID=COLUMN" in said
    assert "no column of AccessionNumber" in refusal(archive, table, "AccessionNumber")
    assert "no column 'MRN'" in refusal(archive, table, "PatientID=MRN")
    for on in ("StudyInstanceUID", "mrn", "=mrn", "="):
        with pytest.raises(UsageError, match="SOPInstanceUID, AccessionNumber, PatientID"):
            join(archive, table, on)
    assert "no such file" in refusal(archive, tmp_path / "none.csv")
    table.write_text("PatientID,density\n")
    assert "no rows" in refusal(archive, table)
    write(table, [{"PatientID": v} for v in values(written, "PatientID")])
    assert "say which columns are labels with --label" in refusal(archive, table)

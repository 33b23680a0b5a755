from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_archive as made
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from embedstore.archive import Archive, holds_dicom, read_archive
from embedstore.errors import ManifestError, UsageError
from embedstore.frames import MOST_FRAMES, expand
from embedstore.types import Sample


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> made.Archive:
    return made.hospital(tmp_path_factory.mktemp("hospital"))


@pytest.fixture
def archive(tmp_path: Path) -> made.Archive:
    return made.Archive(tmp_path / "archive")


def ids(found: Archive) -> list[str]:
    return [s.id for s in found.samples]


def refusal(source: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read_archive(source)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{source}: ")
    return str(caught.value)


def expected(archive: made.Archive, name: str) -> Sample:
    """Make the sample of what the generator wrote."""
    ds = archive.written[name]
    return Sample(
        id=str(ds.SOPInstanceUID),
        path=archive.folder / name,
        group=str(ds.get("PatientID", "")),
        exam=str(ds.StudyInstanceUID),
        view=str(ds.ViewPosition),
        laterality=str(ds.ImageLaterality),
        labels={"manufacturer": str(ds.Manufacturer), "model": str(ds.ManufacturerModelName)},
    )


def test_every_image_is_a_sample_and_nothing_else_is(hospital: made.Archive) -> None:
    found = read_archive(hospital.folder)
    out = {"B/raw0.dcm", "B/raw1.dcm", "C/header"}  # shown as well; no size
    names = [n for n, ds in hospital.written.items() if "Rows" in ds and n not in out]
    wanted = [expected(hospital, name) for name in names]
    key = lambda s: (s.group, s.exam, s.laterality, s.view, s.path.as_posix())  # noqa: E731
    assert list(found.samples) == sorted(wanted, key=key)
    assert len(wanted) == 19
    for sample, tags in zip(found.samples, found.tags, strict=True):
        ds = pydicom.dcmread(sample.path, stop_before_pixels=True)
        assert tags.sop_uid == ds.SOPInstanceUID
        assert tags.accession == ds.AccessionNumber
    manifest = found.manifest()
    assert manifest.samples == found.samples
    assert manifest.labels == ("manufacturer", "model")
    assert manifest.notes == found.notes


def test_what_is_left_out_is_counted(hospital: made.Archive) -> None:
    assert read_archive(hospital.folder).notes == (
        "7 files left out: 2 not DICOM, 2 structured reports, 1 damaged DICOM file, 1 encapsulated "
        "document, 1 presentation state",
        "1 copy of the same image left out",
        "2 'for processing' images left out: the same view is there 'for presentation'",
        "2 'for processing' images kept: raw detector values",
        "1 image names no patient: only those of one study are kept together",
    )


def test_reports_identify_no_one(hospital: made.Archive) -> None:
    secrets = hospital.secrets()
    assert len(secrets) > 100
    said = " ".join(read_archive(hospital.folder).notes) + refusal(hospital.folder / "B" / "other")
    assert not [s for s in secrets if s in said]
    assert not [n for n in hospital.written if n in said]


def test_secrets_are_in_the_files(hospital: made.Archive) -> None:
    data = b"".join(p.read_bytes() for p in made.files(hospital.folder))
    assert all(s.encode() in data for s in hospital.secrets())
    assert {"00PAT0000", "00ACC00000", "Quetzal000^Xochitl000"} <= hospital.secrets()


def test_progress_counts_every_file(hospital: made.Archive) -> None:
    seen: list[tuple[int, int]] = []
    read_archive(hospital.folder, lambda done, total: seen.append((done, total)))
    total = sum(not p.name.startswith(".") for p in made.files(hospital.folder))
    assert seen == [(n, total) for n in range(1, total + 1)]


def test_order_does_not_depend_on_the_disk(
    hospital: made.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_archive(hospital.folder)
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed(path)[::-1])
    assert read_archive(hospital.folder) == found


def test_links_are_followed_once(archive: made.Archive, tmp_path: Path) -> None:
    made.studies(made.Archive(tmp_path / "elsewhere"), 1)
    archive.folder.mkdir()
    (archive.folder / "a").symlink_to(tmp_path / "elsewhere")
    (archive.folder / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(archive.folder)
    (archive.folder / "self").symlink_to(archive.folder / "self")
    (archive.folder / "gone").symlink_to(tmp_path / "gone")
    found = read_archive(archive.folder)
    assert len(found.samples) == 4
    assert found.notes == ()


@pytest.mark.skipif(os.name == "nt", reason="no FIFO")
def test_hidden_and_special_files_are_not_opened(archive: made.Archive) -> None:
    made.studies(archive, 1)
    archive.add(".hidden/image", made.image(1, 9, 0, "L", "CC"))
    archive.add("P000/._IM0000", made.image(1, 9, 1, "L", "CC"))
    os.mkfifo(archive.folder / "fifo")
    assert len(read_archive(archive.folder).samples) == 4


def test_a_folder_that_cannot_be_opened_is_counted(
    archive: made.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.studies(archive, 2)
    listed = os.listdir

    def guarded(path: Path) -> list[str]:
        if Path(path).name == "P001":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "listdir", guarded)
    found = read_archive(archive.folder)
    assert len(found.samples) == 4
    assert found.notes == ("1 folder left out: cannot be opened",)


def test_a_file_that_cannot_be_opened_is_counted(
    archive: made.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.studies(archive, 1)
    opened = Path.open

    def guarded(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "IM0002":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", guarded)
    assert read_archive(archive.folder).notes == ("1 file left out: 1 not readable",)


@pytest.mark.parametrize("same", [True, False])
def test_of_one_uid_the_first_by_path_is_taken(archive: made.Archive, same: bool) -> None:
    archive.add("a/one", made.image(0, 0, 0, "L", "CC"))
    twin = made.image(0, 0, 0, "L", "CC")
    if not same:
        twin.PixelData = twin.PixelData[::-1]
    archive.add("b/two", twin)
    for path in made.files(archive.folder):  # of one size and age
        os.utime(path, (0, 0))
    found = read_archive(archive.folder)
    assert found.samples == (expected(archive, "a/one"),)
    assert found.notes == (
        "1 copy of the same image left out"
        if same
        else "1 file left out: same UID as a file with other content, which is taken",
    )


def test_without_a_uid_the_path_is_the_id(archive: made.Archive) -> None:
    for name in ("a/one", "b/one"):
        ds = made.image(0, 0, 0, "L", "CC")
        del ds.SOPInstanceUID
        archive.add(name, ds)
    assert ids(read_archive(archive.folder)) == ["a/one", "b/one"]


def paired(archive: made.Archive, **raw: str) -> Archive:
    """Write one image both ways; `raw` changes the one for processing."""
    archive.add("shown", made.image(0, 0, 0, "L", "CC"))
    ds = made.image(0, 0, 1, "L", "CC", raw=True)
    for name, value in raw.items():
        setattr(ds, name, value)
    archive.add("raw", ds)
    return read_archive(archive.folder)


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ({}, 1),
        ({"ImageLaterality": "R"}, 2),
        ({"ViewPosition": "MLO"}, 2),
        ({"ViewPosition": ""}, 2),
        ({"ImageLaterality": ""}, 2),
        ({"StudyInstanceUID": "1.2.3"}, 2),
        ({"StudyInstanceUID": ""}, 2),
        ({"PatientID": "another"}, 2),
        ({"PresentationIntentType": ""}, 1),  # the SOP class says it too
        ({"PresentationIntentType": "FOR PRESENTATION"}, 2),
    ],
)
def test_for_presentation_stands_for_the_same_view(
    archive: made.Archive, raw: dict[str, str], kept: int
) -> None:
    assert len(paired(archive, **raw).samples) == kept


def test_without_laterality_and_view_two_images_are_no_pair(archive: made.Archive) -> None:
    archive.add("shown", made.image(0, 0, 0, "", ""))
    archive.add("raw", made.image(0, 0, 1, "", "", raw=True))
    assert len(read_archive(archive.folder).samples) == 2


@pytest.mark.parametrize(
    ("sop_class", "taken"),
    [
        ("1.2.840.10008.5.1.4.1.1.7", True),  # secondary capture
        ("1.2.840.113619.4.2", True),  # private
        ("not a uid", True),
        ("", True),
        ("1.2.840.10008.5.1.4.1.1.66.4", False),  # segmentation
        ("1.2.840.10008.5.1.4.1.1.481.2", False),  # RT dose
        ("1.2.840.10008.5.1.4.1.1.481.1", False),  # RT image
        ("1.2.840.10008.5.1.4.1.1.30", False),  # parametric map
    ],
)
def test_the_sop_class_says_what_is_an_image(
    archive: made.Archive, sop_class: str, taken: bool
) -> None:
    made.studies(archive, 1)
    ds = made.image(0, 0, 9, "L", "CC")
    path = archive.add("one", ds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of a UID against the rules
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
        ds.save_as(path, enforce_file_format=bool(sop_class))
    assert len(read_archive(archive.folder).samples) == 4 + taken


def test_images_of_other_modalities_are_kept_and_counted(archive: made.Archive) -> None:
    made.studies(archive, 1)
    ds = made.image(0, 0, 9, "L", "CC")
    ds.Modality = "US"
    archive.add("us", ds)
    found = read_archive(archive.folder)
    assert len(found.samples) == 5
    assert found.notes == ("1 image of another modality than MG: kept",)


def test_damaged_files_never_stop_the_walk(archive: made.Archive) -> None:
    made.studies(archive, 1)
    data = (archive.folder / "P000/S000/IM0000").read_bytes()
    rng = np.random.default_rng(0)
    for n in range(100):
        cut = bytearray(data[: int(rng.integers(0, 1500))])
        for place in rng.integers(0, len(cut), 5) if len(cut) else ():
            cut[place] ^= int(rng.integers(1, 256))
        (archive.folder / f"x{n:03d}").write_bytes(cut)
    found = read_archive(archive.folder)
    assert len(found.samples) >= 4
    # each file is a sample or in a note
    left = sum(int(n.split()[0]) for n in found.notes if "left out" in n)
    assert len(found.samples) + left == 104


@pytest.fixture
def disc(archive: made.Archive, tmp_path: Path) -> Path:
    made.studies(archive, 2, each=2)
    return made.dicomdir(archive.folder, tmp_path / "disc")


def test_a_dicomdir_names_the_files(disc: Path) -> None:
    (disc.parent / "stray").write_bytes(made.image_bytes())
    named = made.in_set(disc)
    found = read_archive(disc)
    assert {s.path.relative_to(disc.parent) for s in found.samples} == named
    assert len(named) == 16
    assert found.notes == ()
    groups = Counter((s.group, s.exam) for s in found.samples)
    assert sorted(groups.values()) == [4, 4, 4, 4]
    # as a folder: the stray file too, and DICOMDIR itself is no image
    whole = read_archive(disc.parent)
    assert len(whole.samples) == 17
    assert whole.notes == ("1 file left out: 1 DICOMDIR",)


def test_missing_files_of_a_dicomdir_are_counted(disc: Path) -> None:
    first, second, *_ = [p for p in made.files(disc.parent) if p != disc]
    first.unlink()
    second.unlink()
    found = read_archive(disc)
    assert len(found.samples) == 14
    assert found.notes == ("2 files left out: named by the DICOMDIR, but not there",)


def test_a_disc_copied_in_lower_case_is_found(disc: Path) -> None:
    for path in sorted(disc.parent.rglob("*"), reverse=True):
        if path != disc:
            path.rename(path.with_name(path.name.lower()))
    assert len(read_archive(disc).samples) == 16


@pytest.mark.parametrize("reference", [["..", "outside"], ["/", "outside"], "../outside", "x/../y"])
def test_a_dicomdir_does_not_reach_outside(disc: Path, reference: Any) -> None:
    (disc.parent.parent / "outside").write_bytes(made.image_bytes())
    ds = pydicom.dcmread(disc)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of file ids against the rules
        for record in ds.DirectoryRecordSequence:
            if "ReferencedFileID" in record:
                record.ReferencedFileID = reference
        ds.save_as(disc)
    assert "no DICOM image and no other file; 1 file left out: named by" in refusal(disc)


def test_what_is_no_archive_is_refused(hospital: made.Archive, tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none")
    assert "not a DICOM file" in refusal(hospital.folder / "A" / "README.txt")
    assert "not a DICOMDIR" in refusal(hospital.folder / "nobody")
    assert "no DICOM image and no other file" in refusal(tmp_path)
    assert "among 4 files (2 structured reports, 1 encapsulated document, 1 presentation" in (
        refusal(hospital.folder / "B" / "other")
    )


def test_a_dicom_archive_is_told_from_a_folder_of_pictures(tmp_path: Path) -> None:
    grey = Image.fromarray(made.breast(0, "L").astype(np.uint8))
    for n, suffix in enumerate(("png", "jpg", "tif", "pgm")):
        (tmp_path / "class").mkdir(exist_ok=True)
        grey.save(tmp_path / "class" / f"{n}.{suffix}")
    (tmp_path / "class" / "text.dcm").write_text("no DICOM")
    assert not holds_dicom(tmp_path)
    deep = made.Archive(tmp_path).add("z/y/x/file", made.image(0, 0, 0, "L", "CC"))
    assert holds_dicom(tmp_path)
    assert holds_dicom(deep.parent)
    assert not holds_dicom(tmp_path / "none")
    assert holds_dicom(deep)
    assert not holds_dicom(tmp_path / "class" / "text.dcm")


def test_a_dicomdir_alone_is_dicom(disc: Path, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    shutil.copy(disc, tmp_path / "only" / "DICOMDIR")
    assert holds_dicom(tmp_path / "only")
    assert "1 DICOMDIR" in refusal(tmp_path / "only")


def tomosynthesis(folder: Path, frames: int) -> list[Sample]:
    """Write a mammogram, a tomosynthesis and a picture."""
    archive = made.Archive(folder)
    archive.add("flat", made.image(0, 0, 0, "L", "CC"))
    archive.add("tomo", made.image(0, 0, 1, "L", "MLO", frames=frames))
    Image.fromarray(made.breast(0, "L").astype(np.uint8)).save(folder / "film.png")
    return [Sample(id=n, path=folder / n, group="p") for n in ("flat", "tomo", "film.png", "gone")]


@pytest.mark.parametrize(
    ("choice", "frames", "chosen"),
    [
        ("middle", 9, [4]),
        ("middle", 4, [2]),
        ("0", 9, [0]),
        ("8", 9, [8]),
        ("12", 9, [12]),
        ("every:1", 3, [0, 1, 2]),
        ("every:4", 9, [0, 4, 8]),
        ("every:5", 9, [0, 5]),
        ("every:50", 9, [0]),
    ],
)
def test_chosen_frames_become_samples(
    tmp_path: Path, choice: str, frames: int, chosen: list[int]
) -> None:
    flat, tomo, *others = tomosynthesis(tmp_path, frames)
    wanted = [replace(tomo, id=f"tomo#{n}", frame=n) for n in chosen]
    assert expand([flat, tomo, *others], choice) == [flat, *wanted, *others]


def test_by_default_no_frames_are_chosen(tmp_path: Path) -> None:
    samples = tomosynthesis(tmp_path, 9)
    assert expand(samples) == expand(iter(samples), "first") == samples


def test_known_frames_are_not_looked_up(tmp_path: Path) -> None:
    tomosynthesis(tmp_path, 4)
    found = read_archive(tmp_path)
    assert found.frames == {tmp_path / "flat": 1, tmp_path / "tomo": 4}
    expanded = expand(found.samples, "every:2", found.frames)
    for path in found.frames:
        path.unlink()
    assert expand(found.samples, "every:2", found.frames) == expanded
    assert [s.frame for s in expanded] == [0, 0, 2]


def test_a_claim_of_endless_frames_is_not_believed(tmp_path: Path) -> None:
    ds: Dataset = made.image(0, 0, 0, "L", "CC", frames=2)
    ds.NumberOfFrames = MOST_FRAMES + 1
    path = made.Archive(tmp_path).add("bomb", ds)
    sample = Sample(id="bomb", path=path)
    assert expand([sample], "every:1") == [sample]


@pytest.mark.parametrize(
    "choice", ["", "last", "-1", "1.5", "every", "every:", "every:0", "every:-1", "1,2", "²", "1 "]
)
def test_malformed_choices_are_refused(choice: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand([], choice)
    assert repr(choice) in str(caught.value)
    assert "every:N" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, embedstore.archive, embedstore.join\n"
        "print({'torch', 'polars', 'sklearn', 'zarr', 'faiss'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"

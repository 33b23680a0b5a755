"""A hospital's archive through the command line: to scores, and with no one's data on the way."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path

import dicom_archive as made
import numpy as np
import polars as pl
import pytest
from pydicom import dcmread
from test_cli import cli, here

from embedstore.store import Store


@dataclass
class World:
    root: Path
    archive: made.Archive
    said: list[str]

    def run(self, *arguments: object, code: int = 0, apart: bool = False) -> str:
        """Run a command, keep all it says, and return what it answers.

        Apart it is a process of its own: what its reader processes and libraries say is kept, too.
        """
        done = (cli if apart else here)(*arguments, cwd=self.root)
        self.said += [done.stdout, done.stderr]
        assert done.returncode == code, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    archive = made.hospital(root / "Quetzal000^Xochitl000")
    for patient in range(6, 26):
        for number, side in enumerate("LR"):
            ds = made.image(patient, patient + 10, number, side, "CC")
            archive.add(f"D/{ds.PatientID}/{ds.PatientName}/{ds.SOPInstanceUID}", ds)
    with (root / "labels.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["AccessionNumber", "PatientName", "density"])
        for ds in {d.AccessionNumber: d for d in archive.written.values()}.values():
            density = "AB"[int(str(ds.AccessionNumber)[-1]) % 2]
            table.writerow([ds.AccessionNumber, ds.PatientName, density])
    world = World(root, archive, [])
    extract = ["extract", archive.folder.name, "--backbone", "statistics", "--store", "s.zarr"]
    extract += ["--join", "labels.csv", "--label", "density", "--frames", "every:4"]
    world.run(*extract, "--keep-pixels", apart=True)
    world.run(*extract, "--recipe", "plain")
    world.run(*extract, "--retry-failures", "--strict", code=1, apart=True)
    return world


def test_every_image_of_the_archive_is_there(world: World) -> None:
    store = Store.open(world.root / "s.zarr")
    mammograms = [
        (n, ds)
        for n, ds in world.archive.written.items()
        if ds.Modality == "MG" and n not in {"C/header"}
    ]
    # two raw images give way to those for presentation; of nine frames three are taken
    assert len(store) == len(mammograms) - 2 + 2
    assert [f.reason for f in store.failures()] == 2 * [store.failures()[0].reason]  # C/cut
    assert set(store.column("density").tolist()) == {"A", "B"}
    assert set(store.column("manufacturer").tolist()) == {"Alpha Imaging", "Beta Systems"}


def test_patients_and_exams_stand_together_as_in_the_files(world: World) -> None:
    store = Store.open(world.root / "s.zarr")
    links = pl.read_csv(world.root / "s.zarr.linkage.csv", infer_schema=False)
    files = [dcmread(f, stop_before_pixels=True, force=True) for f in links["file"]]
    assert links["id"].to_list() == store.column("id").tolist()
    for column, keyword in (("group", "PatientID"), ("exam", "StudyInstanceUID")):
        given = [str(ds.get(keyword, "")) for ds in files]
        hidden = store.column(column).tolist()
        assert len(set(zip(given, hidden, strict=True))) == len(set(given)) == len(set(hidden))
    assert links["patient"].fill_null("").to_list() == [str(d.get("PatientID", "")) for d in files]


def test_views_and_sides_are_those_of_the_tags(world: World) -> None:
    store = Store.open(world.root / "s.zarr")
    links = pl.read_csv(world.root / "s.zarr.linkage.csv", infer_schema=False)
    for n, file in enumerate(links["file"]):
        ds = dcmread(file, stop_before_pixels=True, force=True)
        assert store.column("laterality")[n] == ds.ImageLaterality
        assert store.column("view")[n] == ds.ViewPosition


def test_no_one_s_data_are_in_the_store_its_reports_and_messages(world: World) -> None:
    store, image = world.root / "s.zarr", Store.open(world.root / "s.zarr").column("id")[0]
    world.run("info", store.name)
    world.run("info", store.name, "--json")
    for json_too in ((), ("--json",)):
        one = ("--backbone", next(iter(Store.open(store).specs)))
        world.run("probe", store.name, "--label", "density", *one, *json_too)
        world.run("search", store.name, "--id", image, *one, *json_too)
    world.run("search", store.name, "--id", "nobody", code=2)
    world.run("probe", store.name, "--label", "nothing", code=2)
    world.run(
        "extract", world.archive.folder.name, "--backbone", "statistics", "--join", "x", code=2
    )
    kept = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    kept |= {p: str(p.relative_to(world.root)).encode() for p in store.rglob("*")}
    written = b"\n".join([*kept.values(), *(s.encode() for s in world.said)])
    secrets = world.archive.secrets() | {"Quetzal", "Xochitl"}
    secrets -= {""}
    assert len(secrets) > 200
    assert [s for s in sorted(secrets) if s.encode() in written] == []


def test_the_search_would_find_them(world: World) -> None:
    world.run(
        "extract",
        *(world.archive.folder.name, "--backbone", "statistics", "--store", "kept.zarr"),
        *("--patient-ids", "keep"),
    )
    written = b"".join(p.read_bytes() for p in (world.root / "kept.zarr").rglob("*") if p.is_file())
    for keyword in ("PatientID", "StudyInstanceUID", "SOPInstanceUID"):
        assert str(world.archive.written["B/shown0.dcm"][keyword].value).encode() in written
    linkage = (world.root / "s.zarr.linkage.csv").read_text()
    assert "00PAT0002" in linkage
    assert (world.root / "s.zarr.linkage.csv").stat().st_mode & 0o077 == 0


def test_a_dicomdir_gives_what_its_folder_gives(world: World, tmp_path: Path) -> None:
    made.studies(archive := made.Archive(tmp_path / "a"), patients=3)
    disc = made.dicomdir(archive.folder, tmp_path / "disc")
    vectors = []
    for n, source in enumerate((archive.folder, disc)):
        store = tmp_path / f"{n}.zarr"
        here("extract", source, "--backbone", "statistics", "--store", store, cwd=tmp_path)
        opened = Store.open(store)
        vectors.append(opened.read(opened.find("statistics")).vectors)
    assert len(vectors[0]) == 12
    np.testing.assert_array_equal(*vectors)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--column", "patient=x"), "--column is of no use with a DICOM archive"),
        (("--root", "."), "--root is of no use with a DICOM archive"),
        (("--on", "PatientID"), "--on says what --join TABLE is joined on"),
        (("--label", "density"), "a DICOM archive gets its labels by --join TABLE"),
        (("--frames", "last"), "frames 'last': give first, middle, a number"),
    ],
)
def test_options_of_no_use_are_refused(
    world: World, options: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    given = ("extract", world.archive.folder, "--backbone", "statistics", *options)
    done = here(*given, cwd=tmp_path)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.startswith("error: ") or done.stderr.count("error: ") == 1
    assert not (tmp_path / "embeddings.zarr").exists()


def test_a_table_takes_no_join(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image\na.png\n")
    done = here("extract", "t.csv", "--backbone", "statistics", "--join", "t.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "--join is of no use with anything but a DICOM archive" in done.stderr


def test_folders_can_be_classes(tmp_path: Path) -> None:
    archive = made.Archive(tmp_path / "films")
    for n in range(4):
        archive.add(f"{'benign' if n % 2 else 'cancer'}/{n}", made.image(n, n, 0, "L", "CC"))
    here("extract", "films", "--backbone", "statistics", "--label", "class", cwd=tmp_path)
    info = json.loads(here("info", "embeddings.zarr", "--json", cwd=tmp_path).stdout)
    assert info["labels"]["class"] == {"cancer": 2, "benign": 2}


def test_a_table_of_dicom_files_takes_frames_and_windows(tmp_path: Path) -> None:
    tomo = made.image(0, 0, 0, "L", "CC", frames=6)
    tomo.WindowCenter, tomo.WindowWidth = [2000, 2400], [4000, 800]
    made.Archive(tmp_path / "films").add("tomo.dcm", tomo)
    (tmp_path / "t.csv").write_text("image,patient\nfilms/tomo.dcm,p\n")
    means = []
    for window in (0, 1):
        store = tmp_path / f"{window}.zarr"
        asked = ("--frames", "every:2", "--window", window, "--store", store)
        here("extract", "t.csv", "--backbone", "statistics", *asked, cwd=tmp_path)
        opened = Store.open(store)
        assert opened.column("id").tolist() == ["tomo#0", "tomo#2", "tomo#4"]
        means.append(opened.read(opened.find("statistics")).vectors)
    assert not np.allclose(*means)


def small(folder: Path, patients: int = 3) -> made.Archive:
    archive = made.Archive(folder)
    for n in range(patients):
        archive.add(f"{n}/film", made.image(n, n, 0, "L", "CC"))
    return archive


@pytest.mark.parametrize("ids", ["hash", "keep"])
def test_folders_may_have_names_of_any_bytes(tmp_path: Path, ids: str) -> None:
    small(tmp_path / "films")
    (tmp_path / "films" / "0").rename(os.fsdecode(os.fsencode(tmp_path) + b"/films/N\xfa\xf1ez"))
    given = ("extract", "films", "--backbone", "statistics", "--patient-ids", ids)
    done = here(*given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(Store.open(tmp_path / "embeddings.zarr")) == 3
    if ids == "hash":
        assert b"N\xfa\xf1ez" in (tmp_path / "embeddings.zarr.linkage.csv").read_bytes()
        assert "0 new, 3 already there" in here(*given, cwd=tmp_path).stdout


def test_hashed_and_plain_ids_do_not_meet_in_one_store(tmp_path: Path) -> None:
    small(tmp_path / "films")
    given = ("extract", "films", "--backbone", "statistics")
    assert here(*given, cwd=tmp_path).returncode == 0
    done = here(*given, "--patient-ids", "keep", cwd=tmp_path)
    assert done.returncode == 2
    assert "its ids are hashed" in done.stderr
    assert len(Store.open(tmp_path / "embeddings.zarr")) == 3


def test_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("PatientID,density\n1,A\n")
    given = ("extract", "gone", "--backbone", "statistics", "--join", "t.csv")
    done = here(*given, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: gone: no such file or folder\n")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--backbone", "nosuch"), "nosuch"),
        (("--backbone", "statistics", "--join", "none.csv", "--label", "x"), "none.csv: no such"),
        (("--backbone", "statistics", "--join", "t.csv"), "t.csv: say which columns are labels"),
        (("--backbone", "statistics", "--store", "t.csv/s.zarr"), "cannot be made: "),
    ],
)
def test_what_is_wrong_is_said_before_the_walk(
    tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    small(tmp_path / "films")
    (tmp_path / "t.csv").write_text("PatientID,density\n1,A\n")
    done = here("extract", "films", *options, cwd=tmp_path)
    assert done.returncode in {1, 2}
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1  # and no line of progress
    assert sorted(p.name for p in tmp_path.iterdir()) == ["films", "t.csv"]


def test_a_refused_command_makes_no_folder(tmp_path: Path) -> None:
    small(tmp_path / "films")
    given = ("extract", "films", "--store", "new/s.zarr", "--backbone", "nosuch")
    assert here(*given, cwd=tmp_path).returncode == 2
    assert not (tmp_path / "new").exists()


def test_paths_in_the_command_are_left_out_however_they_are_given(tmp_path: Path) -> None:
    small(tmp_path / "films")
    (tmp_path / "Quetzal.csv").write_text("PatientID,density\n00PAT0000,A\n")
    here(
        *("extract", "films", "--backbone=statistics", "--join=Quetzal.csv", "--label", "density"),
        cwd=tmp_path,
    )
    (made_by,) = Store.open(tmp_path / "embeddings.zarr").provenance.values()
    assert "Quetzal" not in made_by["command"]
    assert "--join=…" in made_by["command"]


def test_failures_of_earlier_runs_are_not_forgotten(tmp_path: Path) -> None:
    archive = small(tmp_path / "films")
    path = archive.folder / "1" / "film"
    path.write_bytes(path.read_bytes()[:-900])
    given = ("extract", "films", "--backbone", "statistics")
    first, second = (here(*given, cwd=tmp_path) for _ in range(2))
    assert "2 new, 0 already there, 1 failed\n" in first.stdout
    assert "embeddings.zarr.linkage.csv has the files of the failed" in first.stderr
    assert "0 new, 2 already there, 0 failed, 1 failed before (--retry-failures" in second.stdout


def test_folders_named_after_patients_are_no_classes(tmp_path: Path) -> None:
    small(tmp_path / "films", patients=6)
    done = here(*("extract", "films", "--backbone", "statistics", "--label", "class"), cwd=tmp_path)
    assert done.returncode == 2
    assert "6 folders of 6 patients are no classes" in done.stderr


def test_two_sets_of_one_backbone_are_told_apart(tmp_path: Path) -> None:
    small(tmp_path / "films", patients=8)
    (tmp_path / "t.csv").write_text(
        "PatientID,density\n" + "".join(f"00PAT000{n},{'AB'[n % 2]}\n" for n in range(8))
    )
    given = (
        "extract",
        "films",
        "--backbone",
        "statistics",
        "--join",
        "t.csv",
        "--label",
        "density",
    )
    here(*given, cwd=tmp_path)
    here(*given, "--exact", cwd=tmp_path)
    probe = ("probe", "embeddings.zarr", "--label", "density", "--folds", "2")
    shown = here(*probe, cwd=tmp_path).stdout
    assert "mammography" in shown
    assert "exact" in shown
    keys = list(Store.open(tmp_path / "embeddings.zarr").specs)
    assert all(key in shown for key in keys)
    refused = here(*probe, "--backbone", "statistics", cwd=tmp_path).stderr
    assert f"({keys[1]}, mammography, exact)" in refused

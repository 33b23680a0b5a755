"""Labels and other columns changed by a table: what changes, what stays, what is refused."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import zarr
from toy_stores import ONE, apart, killed_at, toys, verify, write

from embedstore import chunks
from embedstore.check import check
from embedstore.cli import _run
from embedstore.delete import delete
from embedstore.errors import ManifestError, StoreError
from embedstore.privacy import pseudonymise
from embedstore.store import Store
from embedstore.types import Sample
from embedstore.update import update
from embedstore.writer import Writer

N = 40
ALL = toys(N)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "TEXT_ROWS", 16)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "s.zarr", ALL)
    return tmp_path / "s.zarr"


def table(**columns: list[Any]) -> pl.DataFrame:
    return pl.DataFrame(columns)


def columns(path: Path) -> dict[str, dict[str, str]]:
    """What zarr alone reads: column to the value of each id."""
    group = zarr.open_group(path, mode="r")["samples"]
    names = ["group", "exam", "view", "laterality", "split"]
    names += [f"labels/{name}" for name in group["labels"].array_keys()]
    ids = group["id"][:].tolist()
    return {
        n.removeprefix("labels/"): dict(zip(ids, group[n][:].tolist(), strict=True)) for n in names
    }


def untouched(path: Path) -> dict[Path, tuple[int, int]]:
    """The files of the vectors and pictures, and which they are."""
    files = (f for top in ("embeddings", "pixels") for f in (path / top).rglob("*") if f.is_file())
    return {f: (f.stat().st_ino, f.stat().st_mtime_ns) for f in files}


def test_named_values_change_and_nothing_else(path: Path) -> None:
    before, files = columns(path), untouched(path)
    ids = [ALL[n].id for n in (3, 17, 39)]
    updated = update(
        path, table(id=ids, density=["D", "B", "C"], side=["L", "R", "L"], split=["a"] * 3)
    )
    # 3 was D and 17 was B before
    assert updated.changed == {"laterality": 3, "split": 3, "density": 1}
    expected = before
    for i, density, side in zip(ids, "DBC", "LRL", strict=True):
        expected["density"][i], expected["laterality"][i], expected["split"][i] = density, side, "a"
    assert columns(path) == expected
    assert untouched(path) == files
    assert not check(path).damage


def test_every_column_of_a_table_of_any_kind(path: Path, tmp_path: Path) -> None:
    ids, values = [t.id for t in ALL], [f"v{n % 3}" for n in range(N)]
    frame = table(
        id=ids,
        patient=[f"p{n % 7}" for n in range(N)],
        vendor=values,
        age=[n % 9 for n in range(N)],
    )
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet")
    for n, source in enumerate(
        (frame, pd.DataFrame(frame.to_dict()), tmp_path / "t.csv", tmp_path / "t.parquet")
    ):
        updated = update(path, source)
        assert updated.changed == (
            {"group": 40, "vendor": 40, "age": 40} if not n else {"group": 0, "vendor": 0, "age": 0}
        )
        assert updated.added == (() if n else ("vendor", "age"))
    assert list(columns(path)["vendor"].values()) == values
    assert list(columns(path)["age"].values()) == [str(n % 9) for n in range(N)]
    assert Store.open(path).read(ONE).columns["vendor"].tolist() == [
        v for v, t in zip(values, ALL, strict=True) if not t.failed
    ]


def test_columns_and_labels_may_be_named(path: Path) -> None:
    frame = table(ID2=["image-0003"], dens=["x"], other=["y"], Birads=["B"])
    updated = update(path, frame, {"id": "ID2", "split": "other"}, ["Birads"])
    assert (updated.changed, updated.added) == ({"split": 1, "Birads": 1}, ("Birads",))
    assert "dens" not in Store.open(path).labels


def test_the_manifest_of_extract_can_be_given(path: Path) -> None:
    names = [f"films/{t.id}.png" for t in ALL]
    frame = table(image=names, density=["A"] * N)
    assert update(path, frame).changed == {"density": 30}


def test_nothing_to_change_is_no_commit(path: Path) -> None:
    root = (path / "zarr.json").read_bytes()
    updated = update(path, table(id=["image-0001"], density=["B"]))
    assert updated.changed == {"density": 0}
    assert (path / "zarr.json").read_bytes() == root


def test_a_blank_cell_says_nothing_unless_it_is_to_erase(path: Path) -> None:
    frame = table(
        id=["image-0001", "image-0002", "image-0003"], density=["", None, "A"], view=["CC", "", ""]
    )
    updated = update(path, frame)
    assert (updated.changed, updated.blank) == ({"view": 1, "density": 1}, 4)
    found = columns(path)
    assert [found["density"][f"image-000{n}"] for n in (1, 2, 3)] == ["B", "C", "A"]
    updated = update(path, frame, erase=True)
    assert (updated.changed, updated.blank) == ({"view": 2, "density": 2}, 0)
    found = columns(path)
    assert [found["density"][f"image-000{n}"] for n in (1, 2, 3)] == ["", "", "A"]
    assert [found["view"][f"image-000{n}"] for n in (1, 2, 3)] == ["CC", "", ""]


def test_ids_that_are_not_there_are_told_and_left_out(path: Path) -> None:
    delete(path, ["image-0002"])
    frame = table(id=["image-0001", "other", "image-0002"], density=["D", "D", "D"])
    updated = update(path, frame)
    assert (updated.changed, updated.unknown) == ({"density": 1}, ("other", "image-0002"))
    assert Store.open(path).deleted == {"image-0002"}
    with pytest.raises(
        ManifestError,
        match=r"none of the 2 ids .* first is 'a', the store's look like 'image-0000'",
    ):
        update(path, table(id=["a", "b"], density=["D", "D"]))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (table(id=["image-0001"]), "nothing in it but ids"),
        (table(density=["A"]), "no column of ids among density; name it with --column id=NAME"),
        (table(id=[], density=[]), "no rows"),
        (table(id=["image-0001", ""], density=["A", "B"]), "row 2 has no id"),
        (
            table(id=["image-0001", "x", "image-0001"], density=["A", "B", "B"]),
            "rows 1 and 3 are both of 'image-0001', and say 'A' and 'B' for density",
        ),
        (table(**{"id": ["image-0001"], "a/b": ["x"]}), "label column 'a/b': rename it"),
    ],
)
def test_a_table_that_cannot_be_used_changes_nothing(
    path: Path, frame: pl.DataFrame, words: str
) -> None:
    with pytest.raises(ManifestError, match=re.escape(words)):
        update(path, frame)
    verify(Store.open(path), ALL)


def test_two_rows_that_agree_are_one(path: Path) -> None:
    frame = table(id=["image-0001"] * 2, density=["D"] * 2)
    assert update(path, frame).changed == {"density": 1}


def hashed(tmp_path: Path) -> tuple[Path, list[Sample]]:
    path = tmp_path / "h.zarr"
    plain = [
        Sample(f"{p}{e}", Path("x"), group=p, exam=f"{p}/{e}", labels={"d": "A"})
        for p in ("Anna", "Berta")
        for e in "12"
    ]
    hidden = pseudonymise(plain, path)
    with Writer(path) as writer:
        writer.add_samples(hidden)
        writer.commit()
    return path, hidden


def test_patients_and_exams_are_hashed_with_the_stores_own_key(tmp_path: Path) -> None:
    path, hidden = hashed(tmp_path)
    # Berta's second image is Anna's first exam, and Berta's first of somebody new
    frame = table(
        id=["Berta2", "Berta1", "Anna2"], patient=["Anna", "Cleo", "Anna"], exam=["1", "1", "2"]
    )
    assert update(path, frame).changed == {"group": 2, "exam": 2}
    found = columns(path)
    assert found["group"]["Berta2"] == hidden[0].group
    assert found["exam"]["Berta2"] == hidden[0].exam
    cleo = pseudonymise([Sample("x", Path("x"), group="Cleo", exam="Cleo/1")], path)[0]
    assert (found["group"]["Berta1"], found["exam"]["Berta1"]) == (cleo.group, cleo.exam)
    everything = b"".join(f.read_bytes() for f in path.rglob("*") if f.is_file())
    assert not re.search(b"Cleo", everything)


def test_the_stores_own_hashes_given_back_stay_what_they_are(tmp_path: Path) -> None:
    path, hidden = hashed(tmp_path)
    before = columns(path)
    frame = table(
        id=[s.id for s in hidden],
        group=[s.group for s in hidden],
        exam=[s.exam for s in hidden],
        d=list("ABCD"),
    )
    assert update(path, frame).changed == {"group": 0, "exam": 0, "d": 3}
    assert columns(path) == before | {"d": dict(zip([s.id for s in hidden], "ABCD", strict=True))}


def test_without_the_key_no_patient_is_changed(tmp_path: Path) -> None:
    path, _ = hashed(tmp_path)
    (tmp_path / "h.zarr.key").unlink()
    with pytest.raises(StoreError, match="the key of the patient hashes is missing"):
        update(path, table(id=["Anna1"], patient=["Berta"]))
    assert update(path, table(id=["Anna1"], d=["B"])).changed == {"d": 1}


def test_exam_numbers_that_would_join_patients_are_refused(path: Path) -> None:
    frame = table(id=["image-0001", "image-0009"], exam=["1", "1"])
    with pytest.raises(ManifestError, match="exam '1' is of several patients"):
        update(path, frame)
    one = table(id=["image-0001", "image-0002"], exam=["1", "1"])
    assert update(path, one).changed == {"exam": 2}


def survive(folder: Path) -> list[bool]:
    """Update and be killed, a little later each time; say what kills met."""
    path, versions = folder / "s.zarr", []
    write(path, ALL)
    for name in ("x", "y"):
        # read in the child: polars brings threads
        table = folder / f"{name}.csv"
        rows = [f"{t.id},{name},{name}" for t in ALL]
        table.write_text("\n".join(["id,density,view", *rows]))
        changed = {"view": name}
        expected = [replace(t, columns=t.columns | changed, labels={"density": name}) for t in ALL]
        versions.append((table, expected))
    (back, before), (table, after) = versions
    seen, flush, known = set(), 1, ALL
    while killed_at(flush, lambda: update(path, table)):
        done = set(Store.open(path).column("density").tolist()) == {"y"}
        verify(Store.open(path), after if done else known)
        assert not check(path).damage
        seen.add(done)
        killed_at(0, lambda: update(path, back))
        verify(Store.open(path), known := before)
        flush += 1 + flush // 4
    return sorted(seen)


def test_killed_at_any_moment_all_columns_changed_or_none(tmp_path: Path) -> None:
    assert apart("test_update", "survive", tmp_path) == [False, True]


def test_the_command_says_how_many_values_of_which_column_changed(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.csv"
    file.write_text("id,density,vendor,view\nimage-0001,D,V,\nimage-0002,,V,MLO\nother,A,V,CC\n")
    code = _run(["update", str(path), str(file)], debug=False)
    out, err = capsys.readouterr()
    assert code == 0
    assert out.splitlines() == [
        "view: 1 of 2 values changed",
        "density: 1 of 2 values changed",
        "vendor: 2 of 2 values changed (a new label)",
        f"{path}: 4 values changed",
    ]
    assert "note: 1 ids of the table are not in the store: other" in err
    assert "note: 2 blank cells leave what is known as it is (--erase erases it)" in err
    code = _run(["update", str(path), str(file), "--label", "density", "--erase"], debug=False)
    assert "density: 1 of 2 values changed" in capsys.readouterr().out
    assert Store.open(path).column("density").tolist()[:4] == ["A", "D", "", "D"]
    code = _run(["update", str(path), str(file), "--column", "id"], debug=False)
    assert (code, capsys.readouterr().err) == (2, "error: --column takes ROLE=NAME, not 'id'\n")


def test_extract_refuses_a_contradiction_and_goes_on_after_the_update(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "s.zarr")
    extract = [
        "extract",
        str(films),
        "--store",
        store,
        "--backbone",
        "statistics",
        "--workers",
        "0",
    ]
    assert _run(extract, False) == 0
    frame = pl.read_csv(films).with_columns(
        pl.when(pl.col("patient") == "pat1")
        .then(pl.lit("pat0"))
        .otherwise("patient")
        .alias("patient"),
        pl.lit("other").alias("tissue"),
    )
    frame.write_csv(films)
    capsys.readouterr()
    assert _run(extract, False) == 2
    assert "embedstore update" in capsys.readouterr().err
    assert _run(["update", store, str(films)], False) == 0
    assert "patient: 2 of 12 values changed" in capsys.readouterr().out
    assert _run(extract, False) == 0
    groups = Store.open(store).column("group")
    assert len(set(groups.tolist())) == len(set(frame["patient"]))
    np.testing.assert_array_equal(Store.open(store).column("tissue"), ["other"] * 12)


def test_what_is_deleted_stays_so_when_the_manifest_still_has_it(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "s.zarr")
    extract = [
        "extract",
        str(films),
        "--store",
        store,
        "--backbone",
        "statistics",
        "--workers",
        "0",
    ]
    assert _run(extract, False) == 0
    assert _run(["delete", store, "--id", "film03", "--patient", "pat0"], False) == 0
    capsys.readouterr()
    assert _run(extract, False) == 0
    assert (
        "3 images of the manifest were deleted from the store and stay so"
        in capsys.readouterr().err
    )
    there = {f"film{n:02d}" for n in range(12)} - {"film00", "film01", "film03"}
    assert set(Store.open(store).column("id").tolist()) == there
    assert _run(["delete", store, *(a for i in there for a in ("--id", i))], False) == 0
    assert _run(extract, False) == 0
    assert len(Store.open(store)) == 0
    assert not check(store).damage
    assert _run(["compact", store], False) == 0
    assert _run(extract, False) == 0
    assert len(Store.open(store)) == 12
    assert check(store).findings == []

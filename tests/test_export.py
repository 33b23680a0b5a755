"""Exports, read by what people read them with: numpy, pandas, polars, pyarrow, FiftyOne."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from notebook_store import LATE, WHOLE, Made, make
from test_cli import cli

import embedstore
from embedstore.errors import DataError, StoreBusy, StoreError, UsageError
from embedstore.export import FORMATS, export
from embedstore.lock import write_lock
from embedstore.types import Recipe, Sample, Spec
from embedstore.writer import Writer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made") / "s.zarr")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an export of a few rows be one of several blocks."""
    monkeypatch.setattr("embedstore.selection.BLOCK", 50)


def of_whole(made: Made) -> tuple[list[str], np.ndarray]:
    there = made.visible()
    return [f"i{n}" for n in there], made.vectors["whole"][there]


def of_both(made: Made) -> tuple[list[str], np.ndarray, np.ndarray]:
    there = made.visible(sorted(made.late))
    whole, late = (made.vectors[s.backbone][there] for s in (WHOLE, LATE))
    return [f"i{n}" for n in there], whole, late


def test_parquet_as_polars_pandas_and_pyarrow_read_it(made: Made, tmp_path: Path) -> None:
    file, store = tmp_path / "v.parquet", embedstore.open(made.path)
    export(store, file, "parquet", ["whole"])
    ids, vectors = of_whole(made)
    read = pl.read_parquet(file)
    assert read.drop("embedding").equals(store.table("whole"))
    assert read["id"].to_list() == ids
    np.testing.assert_array_equal(read["embedding"].to_numpy(), vectors)
    pandas = pytest.importorskip("pandas")
    np.testing.assert_array_equal(np.stack(pandas.read_parquet(file)["embedding"]), vectors)
    arrow = pytest.importorskip("pyarrow")
    schema = pytest.importorskip("pyarrow.parquet").read_schema(file)
    assert schema.field("embedding").type == arrow.list_(arrow.float32(), 512)


def test_parquet_of_several_backbones_has_a_column_and_a_spec_of_each(
    made: Made, tmp_path: Path
) -> None:
    file = tmp_path / "v.parquet"
    export(embedstore.open(made.path), file, "parquet")
    ids, whole, late = of_both(made)
    read = pl.read_parquet(file)
    assert read["id"].to_list() == ids
    np.testing.assert_array_equal(read["embedding_whole"].to_numpy(), whole)
    np.testing.assert_array_equal(read["embedding_vit_late_x"].to_numpy(), late)
    specs = json.loads(pl.read_parquet_metadata(file)["embedstore"])
    assert {k: v["key"] for k, v in specs.items()} == {
        "embedding_whole": WHOLE.key,
        "embedding_vit_late_x": LATE.key,
    }


def test_npy_as_numpy_and_pandas_read_it(made: Made, tmp_path: Path) -> None:
    export(embedstore.open(made.path), tmp_path / "v", "npy", [WHOLE])
    ids, vectors = of_whole(made)
    np.testing.assert_array_equal(np.load(tmp_path / "v" / "vectors.npy"), vectors)
    with (tmp_path / "v" / "table.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    given = [made.samples[n] for n in made.visible()]
    assert [row["id"] for row in rows] == ids
    assert [row["path"] for row in rows] == [str(s.path) for s in given]
    assert [row["density"] for row in rows] == [s.labels["density"] for s in given]
    pandas = pytest.importorskip("pandas")
    assert pandas.read_csv(tmp_path / "v" / "table.csv")["id"].tolist() == ids
    assert json.loads((tmp_path / "v" / "spec.json").read_text())["embedding"]["key"] == WHOLE.key


def test_npy_of_several_backbones_keeps_their_types(made: Made, tmp_path: Path) -> None:
    export(embedstore.open(made.path), tmp_path / "v", "npy")
    _, whole, late = of_both(made)
    for name, expected in (("whole", whole), ("vit_late_x", late)):
        found = np.load(tmp_path / "v" / f"vectors_{name}.npy", mmap_mode="r")
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("backbone", ["whole", "vit:late@x"])
def test_csv_holds_every_bit(made: Made, tmp_path: Path, backbone: str) -> None:
    export(embedstore.open(made.path), tmp_path / "v.csv", "csv", [backbone])
    with (tmp_path / "v.csv").open(newline="") as handle:
        header, *rows = csv.reader(handle)
    there = made.visible(sorted(made.late) if backbone == "vit:late@x" else range(240))
    expected = made.vectors[backbone][there]
    assert header == ["id", *(f"e{i}" for i in range(expected.shape[1]))]
    assert [row[0] for row in rows] == [f"i{n}" for n in there]
    found = np.array([row[1:] for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_a_label_called_embedding_stays_a_label(tmp_path: Path) -> None:
    spec = Spec("toy", "0", Recipe(), "pooled", 3)
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples([Sample("a", Path("a.png"), labels={"embedding": "good"})])
        writer.add_spec(spec, {})
        writer.append(spec, np.array([0]), np.ones((1, 3)), np.zeros((1, 16), np.uint8))
        writer.commit()
    export(embedstore.open(tmp_path / "s.zarr"), tmp_path / "v.parquet", "parquet")
    read = pl.read_parquet(tmp_path / "v.parquet")
    assert read["embedding"].to_list() == ["good"]
    assert read["embedding_toy"].to_list() == [[1, 1, 1]]


@pytest.mark.parametrize("form", ["npy", "csv"])
def test_vectors_are_never_all_in_memory(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedstore.selection.BLOCK", 256)
    n, dim = 6_000, 512
    spec = Spec("big", "0", Recipe(), "pooled", dim)
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples([Sample(f"{i}", Path("x")) for i in range(n)])
        writer.add_spec(spec, {})
        values = np.zeros((n, dim), np.float32)
        writer.append(spec, np.arange(n), values, np.zeros((n, 16), np.uint8))
        writer.commit()
    store = embedstore.open(tmp_path / "s.zarr")
    tracemalloc.start()
    export(store, tmp_path / "out", form)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < values.nbytes / 2  # most of it text of the table


@pytest.mark.parametrize("form", ["parquet", "npy", "csv"])
def test_what_is_there_is_replaced_only_when_told_to(made: Made, tmp_path: Path, form: str) -> None:
    store, out = embedstore.open(made.path), tmp_path / "out"
    export(store, out, form, ["whole"])
    before = {p.name: p.read_bytes() for p in ([out] if out.is_file() else out.iterdir())}
    with pytest.raises(UsageError, match="is there already; give another name, or --force"):
        export(store, out, form, [LATE])
    assert before == {p.name: p.read_bytes() for p in ([out] if out.is_file() else out.iterdir())}
    export(store, out, form, [LATE], replace=True)
    fresh = tmp_path / "fresh"
    export(store, fresh, form, [LATE])
    for one, other in (
        [(out, fresh)]
        if out.is_file()
        else zip(sorted(out.iterdir()), sorted(fresh.iterdir()), strict=True)
    ):
        assert one.read_bytes() == other.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh", "out"]  # and nothing else


def test_nobody_s_folder_is_replaced(made: Made, tmp_path: Path) -> None:
    store, mine = embedstore.open(made.path), tmp_path / "thesis"
    mine.mkdir()
    (mine / "table.csv").write_text("x")
    (mine / "chapter1.tex").write_text("x")
    for form, words in (("npy", "holds 'chapter1.tex'"), ("parquet", "is a folder")):
        with pytest.raises(UsageError, match=words):
            export(store, mine, form, ["whole"], replace=True)
    with pytest.raises(UsageError, match="is a file"):
        export(store, mine / "table.csv", "npy", ["whole"], replace=True)
    for inside in (made.path, made.path / "v.parquet", made.path / "samples" / "v"):
        with pytest.raises(UsageError, match="is the store, or in it"):
            export(store, inside, "parquet", ["whole"], replace=True)
    assert sorted(p.name for p in mine.iterdir()) == ["chapter1.tex", "table.csv"]


_KILLED = """
import os, signal, sys
import embedstore, embedstore.selection as selection
from embedstore.export import export
selection.BLOCK = 16
export(embedstore.open(sys.argv[1]), sys.argv[2], sys.argv[3], ["whole"], True,
       lambda done, total: done > 100 and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.parametrize("form", ["parquet", "npy", "csv"])
def test_a_killed_export_leaves_what_was_there_and_the_next_one_cleans_up(
    made: Made, tmp_path: Path, form: str
) -> None:
    out = tmp_path / "out"
    if form == "npy":
        out.mkdir()
        (out / "table.csv").write_text("earlier")
    else:
        out.write_text("earlier")
    command = [sys.executable, "-c", _KILLED, str(made.path), str(out), form]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert (out / "table.csv" if form == "npy" else out).read_text() == "earlier"
    assert len(list(tmp_path.iterdir())) > 1
    export(embedstore.open(made.path), out, form, ["whole"], replace=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_second_export_to_the_same_place_is_refused(made: Made, tmp_path: Path) -> None:
    with (
        write_lock(tmp_path / ".writing-out.lock"),
        pytest.raises(StoreBusy, match=f"process {os.getpid()} on"),
    ):
        export(embedstore.open(made.path), tmp_path / "out", "csv", ["whole"])


@pytest.mark.parametrize("form", ["parquet", "npy", "csv"])
def test_a_full_disk_is_one_line_and_leaves_nothing(made: Made, tmp_path: Path, form: str) -> None:
    store, (soft, hard) = embedstore.open(made.path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StoreError, match=r"out: cannot be written: .*too large") as caught:
            export(store, tmp_path / "out", form, ["whole"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_damaged_store_gives_no_export(tmp_path: Path) -> None:
    made = make(tmp_path / "s.zarr")
    (made.path / "embeddings" / WHOLE.key / "vectors" / "c" / "0" / "0").unlink()
    for form in ("parquet", "npy", "csv"):
        with pytest.raises(StoreError, match="chunk of the store is missing"):
            export(embedstore.open(made.path), tmp_path / "out", form, ["whole"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.zarr"]


def test_samples_without_a_common_vector_are_said(tmp_path: Path) -> None:
    specs = [Spec(name, name, Recipe(), "pooled", 3) for name in ("a", "b")]
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples([Sample("0", Path("x")), Sample("1", Path("x"))])
        for n, spec in enumerate(specs):
            writer.add_spec(spec, {})
            writer.append(spec, np.array([n]), np.ones((1, 3)), np.zeros((1, 16), np.uint8))
        writer.commit()
    with pytest.raises(DataError, match="no sample has a vector of each of a, b"):
        export(embedstore.open(tmp_path / "s.zarr"), tmp_path / "out", "npy")


def test_the_command_says_what_it_wrote_and_what_it_left_out(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    run = cli("export", made.path, "--format", "parquet", "--out", out, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "203 of 237 samples, whole (512), vit:late@x (7)" in run.stdout
    assert "note: 34 samples left out: no vector of vit:late@x" in run.stderr
    assert pl.read_parquet(out).height == 203
    again = cli("export", made.path, "--format", "parquet", "--out", out, cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert cli("export", made.path, "--format", "xls", "--out", out, cwd=tmp_path).returncode == 2


def test_fiftyone_that_is_not_there_is_named(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(UsageError, match=r"pip install 'embedstore\[fiftyone\]'"):
        export(embedstore.open(made.path), tmp_path / "out", "fiftyone")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")  # FiftyOne's own
def test_fiftyone_has_the_fields_and_imports_the_folder(made: Made, tmp_path: Path) -> None:
    fo: Any = pytest.importorskip("fiftyone")
    from embedstore.fiftyone import to_fiftyone

    store = embedstore.open(made.path)
    ids, vectors = of_whole(made)
    given = [made.samples[n] for n in made.visible()]
    export(store, tmp_path / "out", "fiftyone", ["whole"])
    kind = fo.types.FiftyOneDataset
    imported = fo.Dataset.from_dir(dataset_dir=str(tmp_path / "out"), dataset_type=kind)
    for dataset in (to_fiftyone(store, ["whole"]), imported):
        assert dataset.values("image_id") == ids
        np.testing.assert_array_equal(np.stack(dataset.values("embedding")), vectors)
        assert dataset.values("filepath") == [str(Path(s.path).absolute()) for s in given]
        assert dataset.values("group") == [s.group for s in given]
        assert dataset.values("density.label") == [s.labels["density"] or None for s in given]
        assert dataset.values("score") == [float(s.labels["score"]) for s in given]
        assert dataset.count_sample_tags() == {
            split: sum(s.split == split for s in given) for split in ("train", "test")
        }
        dataset.delete()


def test_every_format_is_tested_here() -> None:
    assert FORMATS == ("parquet", "npy", "csv", "fiftyone")

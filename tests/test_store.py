from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import textwrap
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from embedstore.check import repair
from embedstore.chunks import Layout, read_chunk, read_rows
from embedstore.commit import read_root, stamp_of
from embedstore.delete import compact
from embedstore.errors import SpecMismatch, StoreBusy, StoreError, UsageError
from embedstore.store import FAILURE_COLUMNS, Failure, Store
from embedstore.types import Recipe, Sample, Spec
from embedstore.writer import Writer


def spec_of(dim: int = 8, **changes: object) -> Spec:
    return Spec("toy", "00", Recipe(), "pooled", dim, **changes)  # type: ignore[arg-type]


def samples_of(n: int, start: int = 0) -> list[Sample]:
    return [
        Sample(f"i{i}", Path(f"{i}.png"), group=f"p{i // 4}", labels={"density": "ABCD"[i % 4]})
        for i in range(start, start + n)
    ]


def vectors_of(n: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def digests_of(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, 16), dtype=np.uint8)


def filled(path: Path, n: int = 10, dim: int = 8) -> tuple[Spec, np.ndarray]:
    spec, vectors = spec_of(dim), vectors_of(n, dim)
    with Writer(path) as writer:
        writer.add_samples(samples_of(n))
        writer.add_spec(spec, {"device": "cpu"})
        writer.append(spec, np.arange(n), vectors, digests_of(n))
        writer.commit()
    return spec, vectors


def test_images_without_a_vector_are_said_wherever_vectors_are_shown(tmp_path: Path) -> None:
    spec, _ = filled(tmp_path / "s.zarr")
    assert Store.open(tmp_path / "s.zarr").notes(spec) == ()
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples([Sample(f"late{n}", Path("x.png")) for n in range(3)])
        writer.commit()
    (note,) = Store.open(tmp_path / "s.zarr").notes(spec)
    assert note.startswith("3 of 13 images have no vector of ")


def test_zarr_alone_reads_vectors_and_text(tmp_path: Path) -> None:
    spec, vectors = filled(tmp_path / "s.zarr")
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    np.testing.assert_array_equal(group[f"embeddings/{spec.key}/vectors"][:], vectors)
    assert group["samples/id"][:].tolist() == [f"i{i}" for i in range(10)]
    assert group["samples/labels/density"][:].tolist() == list("ABCDABCDAB")


def test_zarr_reads_the_same_without_consolidated_metadata(tmp_path: Path) -> None:
    spec, vectors = filled(tmp_path / "s.zarr")
    group = zarr.open_group(tmp_path / "s.zarr", mode="r", use_consolidated=False)
    np.testing.assert_array_equal(group[f"embeddings/{spec.key}/vectors"][:], vectors)
    assert dict(group.members()).keys() == {"samples", "embeddings"}


def test_zarr_opens_a_store_with_labels_and_failures(tmp_path: Path) -> None:
    spec, _ = filled(tmp_path / "s.zarr")
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_failures([])
        assert not list((tmp_path / "s.zarr").rglob("failures"))
        writer.add_failures([Failure("i9", "9.png", "read", "gone", spec.key)])
        writer.commit()
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    assert group["failures/reason"][:].tolist() == ["gone"]
    assert dict(group.members()).keys() == {"samples", "embeddings", "failures"}


@pytest.mark.parametrize("array", ["vectors", "rows", "digests"])
def test_tensorstore_reads_every_array_of_numbers(tmp_path: Path, array: str) -> None:
    spec, _ = filled(tmp_path / "s.zarr", n=10)
    path = tmp_path / "s.zarr" / "embeddings" / spec.key / array
    kvstore = {"driver": "file", "path": str(path)}
    read = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
    expected = {"vectors": vectors_of(10), "rows": np.arange(10), "digests": digests_of(10)}
    np.testing.assert_array_equal(read, expected[array])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_gathered_over_many_chunks_equal_numpy(tmp_path: Path, dtype: str) -> None:
    spec = spec_of(600, dtype=dtype)
    step = Layout("x", dtype, (600,)).chunk_rows
    n = 2 * step + 77
    vectors = vectors_of(n, 600).astype(dtype)
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples(samples_of(n))
        writer.add_spec(spec, {})
        for start in range(0, n, 1000):
            block = vectors[start : start + 1000]
            rows = np.arange(start, start + len(block))
            writer.append(spec, rows, block, digests_of(len(block)))
            writer.commit()
    store = Store.open(tmp_path / "s.zarr")
    wanted = np.random.default_rng(2).integers(0, n, 500)
    np.testing.assert_array_equal(store.vectors(spec), vectors)
    np.testing.assert_array_equal(
        store.array(f"embeddings/{spec.key}/vectors", wanted), vectors[wanted]
    )


def test_text_of_any_script_survives(tmp_path: Path) -> None:
    words = ["", "Mamografía", "乳房", 'a,b\n"c"', "x" * 5000]
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples([Sample(f"{i}", Path("x"), exam=w) for i, w in enumerate(words)])
        writer.commit()
    assert Store.open(tmp_path / "s.zarr").column("exam").tolist() == words
    assert zarr.open_group(tmp_path / "s.zarr", mode="r")["samples/exam"][:].tolist() == words


def test_what_was_not_committed_does_not_exist(tmp_path: Path) -> None:
    spec, vectors = filled(tmp_path / "s.zarr", n=10)
    with Writer(tmp_path / "s.zarr") as writer:
        writer.append(spec, np.arange(3), vectors_of(3, seed=9), digests_of(3))
    np.testing.assert_array_equal(Store.open(tmp_path / "s.zarr").vectors(spec), vectors)


def test_appending_in_two_sessions_equals_one(tmp_path: Path) -> None:
    spec, vectors = filled(tmp_path / "s.zarr", n=10)
    more = vectors_of(7, seed=5)
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples(samples_of(7, start=10))
        writer.append(spec, np.arange(10, 17), more, digests_of(7))
        writer.commit()
    read = Store.open(tmp_path / "s.zarr").read(spec)
    np.testing.assert_array_equal(read.vectors, np.concatenate([vectors, more]))
    assert read.ids.tolist() == [f"i{i}" for i in range(17)]


def test_vectors_come_in_the_order_of_the_samples(tmp_path: Path) -> None:
    spec, vectors = spec_of(), vectors_of(5)
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples(samples_of(5))
        writer.add_spec(spec, {})
        shuffled = np.array([3, 0, 4, 1])
        writer.append(spec, shuffled, vectors[shuffled], digests_of(4))
        writer.commit()
    read = Store.open(tmp_path / "s.zarr").read(spec)
    assert read.ids.tolist() == ["i0", "i1", "i3", "i4"]
    np.testing.assert_array_equal(read.vectors, vectors[[0, 1, 3, 4]])


def test_a_label_that_comes_later_is_empty_before(tmp_path: Path) -> None:
    filled(tmp_path / "s.zarr", n=2)
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples([Sample("new", Path("n"), labels={"vendor": "V"})])
        writer.commit()
    store = Store.open(tmp_path / "s.zarr")
    assert store.column("vendor").tolist() == ["", "", "V"]
    assert store.column("density").tolist() == ["A", "B", ""]


def test_a_reader_keeps_its_commit_while_a_writer_goes_on(tmp_path: Path) -> None:
    spec, vectors = filled(tmp_path / "s.zarr", n=10)
    before = Store.open(tmp_path / "s.zarr")
    with Writer(tmp_path / "s.zarr") as writer:
        writer.append(spec, np.arange(5), vectors_of(5, seed=3), digests_of(5))
        writer.commit()
        np.testing.assert_array_equal(before.vectors(spec), vectors)
        assert len(Store.open(tmp_path / "s.zarr").vectors(spec)) == 15


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with (
        Writer(tmp_path / "s.zarr"),
        pytest.raises(StoreBusy, match=f"process {os.getpid()} on "),
        Writer(tmp_path / "s.zarr"),
    ):
        pass


CRASH = """
import sys, os, signal
import numpy as np
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_store import spec_of, samples_of, vectors_of, digests_of
from embedstore.writer import Writer
spec = spec_of()
with Writer(Path({path!r})) as w:
    done = w.store().rows(f"embeddings/{{spec.key}}/vectors")
    if not len(w.store()):
        w.add_samples(samples_of(4000))
    w.add_spec(spec, {{}})
    vectors = vectors_of(4000)
    print("ready", flush=True)
    for i in range(done, 4000, 20):
        w.append(spec, np.arange(i, i + 20), vectors[i:i + 20], digests_of(4000)[i:i + 20])
        w.commit()
"""


def test_killed_at_any_moment_every_row_is_there_once(tmp_path: Path) -> None:
    path, spec = tmp_path / "s.zarr", spec_of()
    code = CRASH.format(tests=str(Path(__file__).parent), path=str(path))
    rng = np.random.default_rng(0)
    for _ in range(6):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        try:
            child.wait(timeout=float(rng.uniform(0.02, 0.4)))
        except subprocess.TimeoutExpired:
            child.kill()
        child.communicate()
        store = Store.open(path)
        rows = store.array(f"embeddings/{spec.key}/rows") if store.specs else np.empty(0)
        np.testing.assert_array_equal(rows, np.arange(len(rows)))
        if len(rows):
            np.testing.assert_array_equal(store.vectors(spec), vectors_of(4000)[: len(rows)])
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    np.testing.assert_array_equal(Store.open(path).vectors(spec), vectors_of(4000))


def test_a_full_disk_leaves_the_last_commit(tmp_path: Path) -> None:
    spec, vectors = filled(tmp_path / "s.zarr", n=10)
    code = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        import resource, signal
        from pathlib import Path
        import numpy as np
        from test_store import spec_of, vectors_of, digests_of
        from embedstore.errors import StoreError
        from embedstore.writer import Writer
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with Writer(Path({str(tmp_path / "s.zarr")!r})) as w:
            w.append(spec_of(), np.arange(10, 30), vectors_of(20), digests_of(20))
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
            try:
                w.commit()
            except StoreError as error:
                print(error)
    """)
    assert resource.RLIMIT_FSIZE is not None
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "the disk is full" in run.stdout
    assert len(run.stdout.splitlines()) == 1
    np.testing.assert_array_equal(Store.open(tmp_path / "s.zarr").vectors(spec), vectors)
    assert not list((tmp_path / "s.zarr").rglob(".writing-*"))


def test_a_flipped_bit_is_found_when_the_chunk_is_checked(tmp_path: Path) -> None:
    spec, _ = filled(tmp_path / "s.zarr")
    layout = Layout(f"embeddings/{spec.key}/vectors", "float32", (8,))
    file = layout.chunk_file(tmp_path / "s.zarr", 0)
    data = bytearray(file.read_bytes())
    data[17] ^= 4
    file.write_bytes(data)
    with pytest.raises(StoreError, match="checksum"):
        read_chunk(tmp_path / "s.zarr", layout, 0)


def test_a_missing_or_cut_chunk_is_named(tmp_path: Path) -> None:
    spec, _ = filled(tmp_path / "s.zarr")
    layout = Layout(f"embeddings/{spec.key}/vectors", "float32", (8,))
    file = layout.chunk_file(tmp_path / "s.zarr", 0)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"vectors/c/0/0: the chunk is cut short"):
        read_rows(tmp_path / "s.zarr", layout, 10)
    file.unlink()
    with pytest.raises(StoreError, match=r"vectors/c/0/0: a chunk of the store is missing"):
        read_rows(tmp_path / "s.zarr", layout, 10)


@pytest.mark.parametrize("array", ["samples/id", "embeddings/{}/rows"])
def test_more_rows_than_were_written_are_refused_before_memory_is_taken(
    tmp_path: Path, array: str
) -> None:
    spec, _ = filled(tmp_path / "s.zarr")
    root = json.loads((tmp_path / "s.zarr" / "zarr.json").read_text())
    shape = root["consolidated_metadata"]["metadata"][array.format(spec.key)]["shape"]
    shape[0] = 2**40
    (tmp_path / "s.zarr" / "zarr.json").write_text(json.dumps(root))
    store = Store.open(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="a chunk of the store is missing"):
        len(store) + store.count(spec)


def test_only_an_empty_or_new_place_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    zarr.open_group(tmp_path / "other.zarr", mode="w", attributes={"a": 1})
    for name in ("file", "folder", "other.zarr"):
        with pytest.raises(StoreError, match=name), Writer(tmp_path / name):
            pass
        with pytest.raises(StoreError, match=name):
            Store.open(tmp_path / name)
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "mine"
    with pytest.raises(StoreError, match="folder: is not an embedstore store"):
        Store.open(tmp_path / "folder")
    below = tmp_path / "file" / "s.zarr"
    with pytest.raises(StoreError, match=f"^{below}: cannot be written: "), Writer(below):
        pass
    for name in ("empty", "begun"):
        (tmp_path / name).mkdir()
    (tmp_path / "begun" / ".writing-zarr.json").write_text("{")
    for name in ("empty", "begun"):
        filled(tmp_path / name)
        assert len(Store.open(tmp_path / name)) == 10
    with pytest.raises(StoreError, match="no such store"):
        Store.open(tmp_path / "nothing")


def test_folders_above_a_new_store_are_made(tmp_path: Path) -> None:
    filled(tmp_path / "a" / "b" / "s.zarr")
    assert len(Store.open(tmp_path / "a" / "b" / "s.zarr")) == 10


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "s.zarr")
    root = json.loads((tmp_path / "s.zarr" / "zarr.json").read_text())
    root["attributes"]["embedstore"]["format"] = 99
    for _ in range(2):
        (tmp_path / "s.zarr" / "zarr.json").write_text(json.dumps(root))
        with pytest.raises(StoreError, match="store format 99"):
            Store.open(tmp_path / "s.zarr")
        root.pop("consolidated_metadata", None)  # which it may have elsewhere


@pytest.mark.parametrize("name", ["samples/labels/../../../out", "/tmp/embedstore-out", ".."])
def test_a_store_that_names_arrays_outside_of_it_is_refused(tmp_path: Path, name: str) -> None:
    filled(tmp_path / "s.zarr")
    root = json.loads((tmp_path / "s.zarr" / "zarr.json").read_text())
    arrays = root["consolidated_metadata"]["metadata"]
    arrays[name] = arrays["samples/view"]
    (tmp_path / "s.zarr" / "zarr.json").write_text(json.dumps(root))
    for use in (Store.open, repair, compact, lambda path: Writer(path).__enter__()):
        with pytest.raises(StoreError, match="outside"):
            use(tmp_path / "s.zarr")
    assert [p.name for p in tmp_path.iterdir() if p.name != "s.zarr.lock"] == ["s.zarr"]


def test_an_image_that_failed_and_then_succeeded_is_no_failure(tmp_path: Path) -> None:
    spec, path = spec_of(), tmp_path / "s.zarr"
    with Writer(path) as writer:
        writer.add_samples(samples_of(2))
        writer.add_spec(spec, {})
        writer.add_failures([Failure(i, i, "read", "gone", spec.key) for i in ("i0", "i1")])
        writer.append(spec, np.array([1]), vectors_of(1), digests_of(1))
        writer.commit()
    assert [f.id for f in Store.open(path).failures()] == ["i0"]


def test_backbones_are_found_by_name_key_or_leading_digits(tmp_path: Path) -> None:
    spec, _ = filled(tmp_path / "s.zarr")
    store = Store.open(tmp_path / "s.zarr")
    for text in ("toy", spec.key, spec.key[:5]):
        assert store.find(text) == spec
    with pytest.raises(UsageError, match=f"toy \\({spec.key}, mammography\\)"):
        store.find("convnext")


def test_a_mismatch_names_the_field_that_differs() -> None:
    spec = spec_of()
    spec.require(spec_of())
    with pytest.raises(SpecMismatch, match=r"recipe\.resize is 'pad' in one and 'squash'"):
        spec.require(Spec("toy", "00", Recipe(resize="squash"), "pooled", 8))
    with pytest.raises(SpecMismatch, match="weights_sha256"):
        spec.require(Spec("toy", "01", Recipe(), "pooled", 8))


@pytest.mark.parametrize("dim", [8, 3, 37_969])  # the last: chunks that are no whole pages
def test_rows_are_read_in_any_order_from_chunks_of_any_size(tmp_path: Path, dim: int) -> None:
    spec, vectors = filled(tmp_path / "s.zarr", 40, dim)
    store = Store.open(tmp_path / "s.zarr")
    wanted = np.random.default_rng(0).integers(0, 40, 100)
    np.testing.assert_array_equal(store.vectors(spec), vectors)
    np.testing.assert_array_equal(
        store.array(f"embeddings/{spec.key}/vectors", wanted), vectors[wanted]
    )


def test_runs_are_noted_once_each_in_the_order_they_ended(tmp_path: Path) -> None:
    spec, _ = filled(tmp_path / "s.zarr")
    with Writer(tmp_path / "s.zarr") as writer:
        for started, images in (("mon", 0), ("tue", 5), ("mon", 9)):
            writer.note_run(spec, {"started": started, "images": images})
        writer.note_text(spec, {"context": 77})
        writer.commit()
    root = json.loads((tmp_path / "s.zarr" / "zarr.json").read_text())
    assert root["attributes"]["embedstore"]["embeddings"][spec.key]["provenance"] == {
        "device": "cpu",
        "runs": [{"started": "tue", "images": 5}, {"started": "mon", "images": 9}],
        "text": {"context": 77},
    }


def test_blanks_of_a_label_are_filled_in_and_what_is_known_stays(tmp_path: Path) -> None:
    filled(tmp_path / "s.zarr", n=4)
    with Writer(tmp_path / "s.zarr") as writer:
        with pytest.raises(StoreError, match="3 values of 'vendor', not one for each sample"):
            writer.add_label("vendor", ["", "V", ""])
        writer.add_label("vendor", ["", "V", "", "W"])
        writer.commit()
        for wrong in (["U", "X", "", "W"], ["U", "", "", "W"]):
            with pytest.raises(StoreError, match="values of 'vendor' would change"):
                writer.fill_label("vendor", wrong)
        writer.fill_label("vendor", ["U", "V", "", "W"])
        writer.commit()
    labels = zarr.open_group(tmp_path / "s.zarr", mode="r")["samples/labels"]
    assert labels["vendor"][:].tolist() == ["U", "V", "", "W"]
    assert labels["density"][:].tolist() == list("ABCD")


def test_what_is_dropped_is_hidden_where_nothing_ever_failed(tmp_path: Path) -> None:
    spec, vectors = filled(tmp_path / "s.zarr", n=4)
    with Writer(tmp_path / "s.zarr") as writer:
        writer.drop(np.array([1, 3]))
        writer.append(spec, np.array([3]), -vectors[3:], digests_of(1))
        writer.commit()
    read = Store.open(tmp_path / "s.zarr").read(spec)
    assert read.ids.tolist() == ["i0", "i2", "i3"]
    np.testing.assert_array_equal(read.vectors, [vectors[0], vectors[2], -vectors[3]])


def test_what_is_hidden_twice_is_listed_once(tmp_path: Path) -> None:
    spec, vectors = filled(tmp_path / "s.zarr", n=4)
    for _ in range(2):
        with Writer(tmp_path / "s.zarr") as writer:
            writer.drop(np.array([1, 3]))
            writer.delete(np.array([3, 0]))
            writer.delete(np.array([0]))
            writer.commit()
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    assert sorted(group["samples/deleted"][:]) == [0, 3]
    assert sorted(group[f"embeddings/{spec.key}/dropped"][:]) == [1, 3]
    np.testing.assert_array_equal(Store.open(tmp_path / "s.zarr").read(spec).vectors, vectors[2:3])


def test_cut_and_stat_are_as_given_and_zeros_where_they_are_not(tmp_path: Path) -> None:
    spec, cut = spec_of(), np.array([0.25, 0.5], np.float32)
    stat = np.array([[2**40, 2**62], [7, 8]])
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples(samples_of(4))
        writer.add_spec(spec, {})
        writer.append(spec, np.arange(2), vectors_of(2), digests_of(2), cut, stat)
        writer.append(spec, np.arange(2, 4), vectors_of(2), digests_of(2))
        with pytest.raises(StoreError, match="2 rows, 3 vectors, 2 digests, 2 cut, 2 stat"):
            writer.append(spec, np.arange(2), vectors_of(3), digests_of(2))
        writer.commit()
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")[f"embeddings/{spec.key}"]
    np.testing.assert_array_equal(group["cut"][:], [0.25, 0.5, 0, 0])
    np.testing.assert_array_equal(group["stat"][:], [*stat, [0, 0], [0, 0]])


VECTORS = f"embeddings/{spec_of().key}/vectors"


@pytest.mark.parametrize(
    ("what", "path", "values"),
    [
        ("the store", ["attributes", "embedstore", "commit"], ["1", 1.5, True, None]),
        (VECTORS, ["consolidated_metadata", "metadata", VECTORS], [[], {}, None, 3]),
        (
            VECTORS,
            ["consolidated_metadata", "metadata", VECTORS, "shape"],
            [[-1, 8], [1.5, 8], [True, 8], [2**40 + 1, 8], [10, -8], [10, 8.5], [], 10]
            + [[10, 2**27, 3], [2**40 + 1, 2**29]],
        ),
        (
            VECTORS,
            ["consolidated_metadata", "metadata", VECTORS, "data_type"],
            ["complex64", "bool", "object", "float33", None, 4],
        ),
        (
            "samples/view",
            ["consolidated_metadata", "metadata", "samples/view", "attributes"],
            [{"rewrites": "x"}, {"rewrites": None}, []],
        ),
    ],
    ids=["commit", "array", "shape", "type", "rewrites"],
)
def test_a_root_that_no_commit_wrote_is_refused_by_name(
    tmp_path: Path, what: str, path: list[str], values: list[object]
) -> None:
    filled(tmp_path / "s.zarr")
    file = tmp_path / "s.zarr" / "zarr.json"
    written = file.read_text()
    for value in values:
        root = json.loads(written)
        *above, last = path
        reduce(getitem, above, root)[last] = value
        file.write_text(json.dumps(root))
        with pytest.raises(StoreError) as caught:
            read_root(tmp_path / "s.zarr")
        assert str(caught.value).startswith(f"{file}: damaged: what it says of {what} is not"), (
            value
        )


def test_an_array_may_be_as_large_as_it_is_said_to_be(tmp_path: Path) -> None:
    filled(tmp_path / "s.zarr")
    root = read_root(tmp_path / "s.zarr")
    root["consolidated_metadata"]["metadata"][VECTORS]["shape"] = [2**40, 2**28]
    (tmp_path / "s.zarr" / "zarr.json").write_text(json.dumps(root))
    assert read_root(tmp_path / "s.zarr") == root


def test_every_node_says_what_it_is_and_the_root_says_the_same_of_each(tmp_path: Path) -> None:
    filled(tmp_path / "s.zarr")
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_label("vendor", [""] * 10)
        writer.commit()
    told = {
        file.parent.relative_to(tmp_path / "s.zarr").as_posix(): json.loads(file.read_text())
        for file in (tmp_path / "s.zarr").rglob("zarr.json")
    }
    root = told.pop(".")
    inline = {"kind": "inline", "must_understand": False, "metadata": told}
    assert root.pop("attributes").keys() == {"embedstore"}
    assert root == {"zarr_format": 3, "node_type": "group", "consolidated_metadata": inline}
    for name, node in told.items():
        kind = "array" if (tmp_path / "s.zarr" / name / "c").exists() else "group"
        assert (node["zarr_format"], node["node_type"]) == (3, kind)


def test_a_private_path_is_nowhere_and_odd_bytes_of_a_name_are_shown(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(b"film\xff.png"))
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples([Sample("a", Path("Zyxwanda.dcm"), private=True), Sample("b", odd)])
        writer.commit()
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    assert group["samples/path"][:].tolist() == ["", r"film\xff.png"]
    files = [file for file in (tmp_path / "s.zarr").rglob("*") if file.is_file()]
    assert not any(b"Zyxwanda" in file.read_bytes() for file in files)


def test_the_stamp_of_a_store_is_its_root_files_and_zeros_where_there_is_none(
    tmp_path: Path,
) -> None:
    assert stamp_of(tmp_path / "s.zarr") == (0, 0)
    filled(tmp_path / "s.zarr")
    found = os.stat(tmp_path / "s.zarr" / "zarr.json")
    assert stamp_of(tmp_path / "s.zarr") == (found.st_ino, found.st_mtime_ns)


def test_rows_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    spec, _ = filled(tmp_path / "s.zarr")
    said = re.escape("embeddings/" + spec.key + "/vectors: rows are (8,), not (7,)")
    with Writer(tmp_path / "s.zarr") as writer, pytest.raises(StoreError, match=f"^{said}$"):
        writer.append(spec, np.arange(2), vectors_of(2, 7), digests_of(2))


def test_a_commit_writes_no_chunk_anew_that_did_not_change(tmp_path: Path) -> None:
    def chunk_files() -> dict[Path, int]:
        found = [p for p in (tmp_path / "s.zarr").rglob("c/**/*") if p.is_file()]
        return {p: p.stat().st_ino for p in found}

    spec, _ = filled(tmp_path / "s.zarr")
    with Writer(tmp_path / "s.zarr") as writer:
        writer.append(spec, np.arange(3), vectors_of(3), digests_of(3))
        writer.commit()
        before = chunk_files()
        writer.add_failures([Failure("i9", "9.png", "read", "gone", spec.key)])
        writer.commit()
    after = chunk_files()
    assert {p: after[p] for p in before} == before
    assert {p.parents[1].name for p in after.keys() - before.keys()} == set(FAILURE_COLUMNS)

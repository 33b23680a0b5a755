"""Stores merged: everything of both, nothing twice, and no patient made two."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from toy_stores import MADE, ONE, TWO, Toy, apart, killed_at, toys, verify, write

from embedstore import chunks
from embedstore.check import check
from embedstore.cli import _run
from embedstore.delete import delete
from embedstore.errors import StoreError, UsageError
from embedstore.merge import merge
from embedstore.privacy import link, linkage_file, pseudonymise
from embedstore.store import Store
from embedstore.types import Recipe, Sample, Spec
from embedstore.writer import Writer


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1024)
    monkeypatch.setattr(chunks, "TEXT_ROWS", 16)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def made(folder: Path, **stores: Iterable[Toy]) -> list[Path]:
    for name, samples in stores.items():
        write(folder / f"{name}.zarr", samples)
    return [folder / f"{name}.zarr" for name in stores]


@pytest.mark.parametrize("sizes", [(40, 30), (30, 50, 20), (1, 1)])
def test_the_samples_of_all_are_there_in_order(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    starts = np.cumsum((0, *sizes))
    parts = {f"s{n}": toys(size, int(starts[n])) for n, size in enumerate(sizes)}
    merged = merge(made(tmp_path, **parts), tmp_path / "all.zarr")
    assert (merged.samples, merged.twice, merged.shared) == (sum(sizes), [], 0)
    verify(Store.open(tmp_path / "all.zarr"), toys(sum(sizes)))
    assert check(tmp_path / "all.zarr").findings == []


def test_zarr_alone_reads_a_merged_store(tmp_path: Path) -> None:
    merge(made(tmp_path, a=toys(20), b=toys(20, 20)), tmp_path / "all.zarr")
    group, every = zarr.open_group(tmp_path / "all.zarr", mode="r"), toys(40)
    assert group["samples/id"][:].tolist() == [t.id for t in every]
    there = group[f"embeddings/{TWO.key}"]
    for row, vector in zip(there["rows"][:], there["vectors"][:], strict=True):
        np.testing.assert_array_equal(vector, every[row].vector(TWO))
    assert len(set(there["rows"][:].tolist())) == sum(not t.failed for t in every)


def test_what_one_store_leaves_out_another_fills_in(tmp_path: Path) -> None:
    """The same samples: other Specs, other labels, failures that succeeded elsewhere."""
    every = toys(30)
    first = [replace(t, specs=(ONE,), labels={}) for t in every[:20]]
    second = [replace(t, specs=(TWO,), columns={}, failed=False) for t in every[10:]]
    merged = merge(made(tmp_path, a=first, b=second), tmp_path / "all.zarr")
    assert (merged.samples, merged.shared) == (30, 10)
    store = Store.open(tmp_path / "all.zarr")
    ids = {spec.key: set(store.read(spec).ids.tolist()) for spec in (ONE, TWO)}
    assert ids[ONE.key] == {t.id for t in first if not t.failed}
    assert ids[TWO.key] == {t.id for t in second}
    assert store.column("density").tolist() == [""] * 10 + [t.labels["density"] for t in second]
    groups = [t.columns["group"] for t in every[:20]] + [""] * 10
    assert store.column("group").tolist() == groups
    assert {(f.id, f.spec) for f in store.failures()} == {
        (t.id, ONE.key) for t in first if t.failed
    }
    np.testing.assert_array_equal(store.read(TWO).vectors, [t.vector(TWO) for t in second])
    assert check(tmp_path / "all.zarr").findings == []


def test_an_image_of_two_names_is_taken_once_and_named(tmp_path: Path) -> None:
    every = toys(12)
    copies = [replace(every[n], id=f"copy-{n}", failed=False) for n in (1, 5)]
    second = [replace(c, specs=(ONE, TWO)) for c in copies] + toys(4, 12)
    first = [replace(t, specs=(ONE,), failed=False) for t in every]
    paths = made(tmp_path, a=first, b=second, c=[replace(copies[0], id="again")])
    merged = merge(paths, tmp_path / "all.zarr")
    assert merged.twice == [
        (paths[1], "copy-1", every[1].id),
        (paths[1], "copy-5", every[5].id),
        (paths[2], "again", every[1].id),
    ]
    store = Store.open(tmp_path / "all.zarr")
    assert store.column("id").tolist() == [t.id for t in every] + [t.id for t in second[2:]]
    # what only the copy had goes by the first one's name
    good = [every[1], every[5]] + [t for t in second[2:] if not t.failed]
    assert store.read(TWO).ids.tolist() == [t.id for t in good]
    np.testing.assert_array_equal(store.read(TWO).vectors, [t.vector(TWO) for t in good])
    assert check(tmp_path / "all.zarr").findings == []


def test_two_copies_within_one_store_become_one_where_another_store_has_it(tmp_path: Path) -> None:
    (toy,) = toys(1)
    twins = [replace(toy, id="twin-1"), replace(toy, id="twin-2")]
    merge(made(tmp_path, a=twins, b=toys(2, 4)), tmp_path / "ab.zarr")
    assert len(Store.open(tmp_path / "ab.zarr")) == 4  # these are their owner's
    paths = made(tmp_path, c=[replace(toy, specs=(ONE,))]) + [tmp_path / "a.zarr"]
    assert len(merge(paths, tmp_path / "ca.zarr").twice) == 2
    verify(Store.open(tmp_path / "ca.zarr"), [toy])
    assert check(tmp_path / "ca.zarr").findings == []


def test_frames_of_one_file_are_images_of_their_own(tmp_path: Path) -> None:
    (toy,) = toys(1)
    frames = [replace(toy, id=f"tomo#{n}") for n in (0, 4, 8)]
    merged = merge(made(tmp_path, a=frames[:2], b=frames[2:]), tmp_path / "all.zarr")
    assert (merged.samples, merged.twice) == (3, [])
    other = [replace(frames[1], id="other#4")]
    merged = merge([tmp_path / "all.zarr", *made(tmp_path, c=other)], tmp_path / "more.zarr")
    assert [names[1:] for names in merged.twice] == [("other#4", "tomo#4")]


def test_what_is_deleted_or_dropped_is_not_taken(tmp_path: Path) -> None:
    paths = made(tmp_path, a=toys(20), b=toys(20, 20))
    gone = random.Random(0).sample([t.id for t in toys(20)], 6)
    delete(paths[0], gone)
    with Writer(paths[1]) as opened:
        opened.drop(np.arange(5))
        opened.commit()
    merge(paths, tmp_path / "all.zarr")
    store = Store.open(tmp_path / "all.zarr")
    stay = [t for t in toys(40) if t.id not in gone]
    assert store.column("id").tolist() == [t.id for t in stay]
    dropped = {t.id for t in toys(5, 20)}
    assert store.read(ONE).ids.tolist() == [
        t.id for t in stay if not t.failed and t.id not in dropped
    ]
    assert check(tmp_path / "all.zarr").findings == []
    everything = b"".join(f.read_bytes() for f in (tmp_path / "all.zarr").rglob("*") if f.is_file())
    assert not [t for t in toys(40) if t.id in gone and t.digest in everything]


def other(toy: Toy, **columns: str) -> Toy:
    return replace(toy, id="other", columns=toy.columns | columns)


BASE = toys(8)
REFUSED: dict[str, tuple[list[Toy], str]] = {
    "content": ([BASE[1].with_content("new")], "'image-0001' of .*b.zarr is another image"),
    "label": (
        [replace(BASE[1], labels={"density": "D"})],
        "density of 'image-0001' is 'D' in .*b.zarr and 'B' in .*a.zarr .`embedstore update`",
    ),
    "patient": (
        [replace(BASE[1], columns=BASE[1].columns | {"group": "p"})],
        "patient of 'image-0001' is 'p' in .*b.zarr and 'patient-0'",
    ),
    "patient of a copy": ([other(BASE[1], group="p")], "patient of 'image-0001' is 'p' in"),
    "exam of a copy": ([other(BASE[1], exam="e")], "exam of 'image-0001' is 'e' in"),
    "many": ([replace(t, labels={"density": "x"}) for t in BASE], r"\(and 5 more\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_stores_that_contradict_each_other_are_not_merged(tmp_path: Path, case: str) -> None:
    second, words = REFUSED[case]
    paths = made(tmp_path, a=BASE, b=second)
    before = set(tmp_path.iterdir())
    with pytest.raises(StoreError, match=f"nothing is merged: .*{words}") as caught:
        merge(paths, tmp_path / "all.zarr")
    assert "\n" not in str(caught.value)
    assert set(tmp_path.iterdir()) == before


def test_two_precisions_do_not_meet_under_one_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = made(tmp_path, a=toys(4))
    monkeypatch.setitem(MADE, "precision", "bfloat16")
    paths += made(tmp_path, b=toys(4, 4))
    with pytest.raises(StoreError, match="were made in bfloat16, those of .*a.zarr in float32"):
        merge(paths, tmp_path / "all.zarr")


def test_provenance_tells_what_made_the_vectors_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = made(tmp_path, a=toys(4))
    monkeypatch.setitem(MADE, "device", "cuda")
    paths += made(tmp_path, b=toys(4, 4))
    merge(paths, tmp_path / "all.zarr")
    found = Store.open(tmp_path / "all.zarr").provenance[ONE.key]
    assert (found["device"], [m["device"] for m in found["merged"]]) == ("cpu", ["cuda"])


def test_where_stores_may_be_and_what_they_may_be(tmp_path: Path) -> None:
    a, b = made(tmp_path, a=toys(2), b=toys(2, 2))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("x")
    for sources, target, words in (
        ([a], "c.zarr", "two or more"),
        ([a, a], "c.zarr", "each once"),
        ([a, b], "a.zarr", "one of the stores to merge"),
        ([a, tmp_path / "no.zarr"], "c.zarr", "no.zarr: no such store"),
        ([a, b], "folder", "a folder that is not a store"),
    ):
        with pytest.raises((UsageError, StoreError), match=words):
            merge(sources, tmp_path / target)
    merge([a, b], tmp_path / "c.zarr")
    with pytest.raises(UsageError, match="c.zarr: is a store already"):
        merge([a, b], tmp_path / "c.zarr")
    assert {p.name for p in tmp_path.iterdir()} == {"a.zarr", "b.zarr", "c.zarr", "folder"}


def patients(path: Path, names: str, start: int, hide: bool = True) -> list[Sample]:
    plain = [Sample(f"{n}{start}", Path(f"{n}.dcm"), group=n, exam=f"{n}/1") for n in names]
    samples = pseudonymise(plain, path) if hide else plain
    if hide:
        link(plain, samples, path)
    with Writer(path) as opened:
        opened.add_samples(samples)
        opened.commit()
    return samples


def test_one_key_goes_on_with_the_merged_store(tmp_path: Path) -> None:
    a, b, c = (tmp_path / f"{n}.zarr" for n in "abc")
    (tmp_path / "b.zarr.key").write_text("11" * 32)
    (tmp_path / "a.zarr.key").write_text("11" * 32)
    samples = patients(a, "AB", 0) + patients(b, "BC", 1)
    merge([a, b], c)
    groups = Store.open(c).column("group").tolist()
    assert groups == [s.group for s in samples]
    assert len(set(groups)) == 3
    new = pseudonymise([Sample("x", Path("x"), group="B")], c)[0]
    assert new.group == samples[1].group
    assert (tmp_path / "c.zarr.key").stat().st_mode & 0o077 == 0
    assert linkage_file(c).stat().st_mode & 0o077 == 0
    assert linkage_file(c).read_text().count(".dcm") == 4


@pytest.mark.parametrize("how", ["two keys", "key and none", "key lost", "both lost"])
def test_patients_that_may_be_one_are_not_made_two(tmp_path: Path, how: str) -> None:
    a, b, c = (tmp_path / f"{n}.zarr" for n in "abc")
    samples = patients(a, "AB", 0) + patients(b, "BC", 1, hide=how != "key and none")
    for lost in {"key lost": "b", "both lost": "ab"}.get(how, ""):
        (tmp_path / f"{lost}.zarr.key").unlink()
    with pytest.raises(StoreError, match="a patient of two of them would become two patients"):
        merge([a, b], c)
    assert not c.exists()
    merged = merge([a, b], c, different_patients=True)
    assert merged.keyless
    assert Store.open(c).column("group").tolist() == [s.group for s in samples]
    assert not (tmp_path / "c.zarr.key").exists()
    with pytest.raises(StoreError, match="key of the patient hashes is missing"):
        pseudonymise([Sample("x", Path("x"), group="B")], c)


def test_an_image_in_both_belies_that_the_patients_are_different(tmp_path: Path) -> None:
    for name in "ab":
        toy = replace(BASE[0], columns={})
        hidden = pseudonymise([replace(toy.sample(), group="A")], tmp_path / f"{name}.zarr")
        write(tmp_path / f"{name}.zarr", [replace(toy, columns={"group": hidden[0].group})])
    with pytest.raises(StoreError, match=r"a\.zarr and \S*b\.zarr are hashed with different keys"):
        merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "c.zarr", True)
    assert not (tmp_path / "c.zarr").exists()
    (tmp_path / "a.zarr.key").write_bytes((tmp_path / "b.zarr.key").read_bytes())
    with pytest.raises(StoreError, match="patient of 'image-0000' is"):
        merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "c.zarr", True)


def test_a_damaged_chunk_is_not_copied(tmp_path: Path) -> None:
    a, b = made(tmp_path, a=toys(30), b=toys(30, 30))
    for member in ("vectors", "digests", "rows", "cut", "stat"):
        file = next((b / f"embeddings/{ONE.key}/{member}/c").glob("0*"))
        file = file / "0" if file.is_dir() else file
        whole = file.read_bytes()
        file.write_bytes(whole[:9] + bytes([whole[9] ^ 16]) + whole[10:])
        with pytest.raises(StoreError, match=f"{file}: checksum differs"):
            merge([a, b], tmp_path / "c.zarr")
        file.write_bytes(whole)
    merge([a, b], tmp_path / "c.zarr")  # what stopped it does not stand in its way
    verify(Store.open(tmp_path / "c.zarr"), toys(60))
    assert not check(tmp_path / "c.zarr").damage


def survive(folder: Path) -> list[bool]:
    """Merge and be killed, a little later each time, and merge again; say what kills met."""
    paths, flush, seen = made(folder, a=toys(24), b=toys(24, 24)), 1, set()
    while killed_at(flush, partial(merge, paths, target := folder / f"{flush}.zarr")):
        there = (target / "zarr.json").exists() and len(Store.open(target)) > 0
        seen.add(there)
        if there:
            verify(Store.open(target), toys(48))
        else:
            merge(paths, target)
            verify(Store.open(target), toys(48))
            assert check(target).findings == []
        assert not check(target).damage
        flush += 1 + flush // 6
    return sorted(seen)


def test_killed_at_any_moment_the_same_command_does_it(tmp_path: Path) -> None:
    assert apart("test_merge", "survive", tmp_path) == [False, True]


def test_stores_larger_than_memory_may_be_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 20)
    monkeypatch.setattr(chunks, "TEXT_ROWS", 8192)
    spec, n = Spec("big", "00", Recipe(), "pooled", 2048), 5000
    block = np.random.default_rng(0).standard_normal((500, 2048)).astype(np.float32)
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    for k, path in enumerate(paths):
        with Writer(path) as opened:
            opened.add_samples([Sample(f"{k}/{i}", Path("x")) for i in range(n)])
            opened.add_spec(spec, MADE)
            for start in range(0, n, 500):
                digests = np.random.default_rng(n * k + start).integers(0, 256, (500, 16))
                opened.append(spec, np.arange(start, start + 500), block + start + k, digests)
                opened.commit()
    tracemalloc.start()
    merge(paths, tmp_path / "c.zarr")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6  # of 82 MB
    found = Store.open(tmp_path / "c.zarr").read(spec).vectors
    expected = [block + start + k for k in (0, 1) for start in range(0, n, 500)]
    np.testing.assert_array_equal(found, np.concatenate(expected))


def say(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    code = _run([str(a) for a in arguments], debug=False)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_names_what_was_there_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = [replace(t, id=f"copy-{t.id}") for t in toys(8) if not t.failed]
    a, b = made(tmp_path, a=toys(8), b=copies + toys(2))
    c = tmp_path / "c.zarr"
    code, out, err = say(capsys, "merge", a, b, "--store", c)
    assert (code, out) == (0, f"{c}: 8 samples\n")
    assert (
        f"copy-image-0000 of {b} is the same image as image-0000: taken once, as image-0000" in err
    )
    assert "… and 2 more images that are there twice" in err
    assert "note: 2 samples are in several stores under one id" in err
    code, out, err = say(capsys, "merge", a, b, "--store", c)
    assert (code, out) == (2, "")
    assert err == f"error: {c}: is a store already; give a new --store\n"

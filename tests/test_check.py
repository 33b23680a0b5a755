"""`embedstore check`: all that is wrong is found, all that is not is left, and repair is safe."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from embedstore import chunks
from embedstore.check import check, repair
from embedstore.cli import _run
from embedstore.errors import StoreBusy, StoreError
from embedstore.kept import Kept
from embedstore.leftovers import Checked
from embedstore.store import Failure, Store
from embedstore.types import Recipe, Sample, Spec
from embedstore.writer import Writer

SPEC = Spec("toy", "00", Recipe(), "pooled", 8)
EMBEDDINGS = f"embeddings/{SPEC.key}"
PIXELS = f"pixels/{SPEC.recipe.pixel_key}/uint8"
N = 150
ORDER = np.random.default_rng(5).permutation(N)
VECTORS = np.random.default_rng(0).standard_normal((N, 8)).astype(np.float32)
DIGESTS = np.random.default_rng(1).integers(1, 256, (N, 16), dtype=np.uint8)
PICTURES = np.random.default_rng(2).integers(0, 256, (N, 4, 6), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _few_rows_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(chunks, "TEXT_ROWS", 16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with a few chunks of every kind: 64 rows of numbers in each, 16 of text."""
    path = tmp_path / "s.zarr"
    write(path, 0, 100)
    write(path, 100, N)
    return path


def write(path: Path, start: int, stop: int) -> None:
    """Commit these samples, and vectors and pictures of as many in a shuffled order."""
    with Writer(path) as writer:
        fresh = range(len(writer.store()), N)
        if fresh:
            texts = {i: {"d": "AB"[i % 2]} for i in fresh}
            writer.add_samples([Sample(f"i{i}", Path("x"), labels=texts[i]) for i in fresh])
        writer.add_spec(SPEC, {})
        rows = ORDER[start:stop]
        writer.append(SPEC, rows, VECTORS[rows], DIGESTS[rows])
        pictures = [Kept(DIGESTS[i].tobytes(), PICTURES[i], 0.5) for i in rows]
        writer.keep(SPEC.recipe, rows, pictures)
        writer.add_failures([Failure(f"i{i}", "x", "read", "gone", "other") for i in rows[:9]])
        writer.commit()


def chunk_files(path: Path) -> list[Path]:
    found = (f for f in path.rglob("*") if f.is_file() and re.search(r"/c/\d", f.as_posix()))
    return sorted(found)


def together(files: list[Path]) -> list[list[Path]]:
    """Damage a tenth of the files at once: each must be told of beside the others."""
    return [files[k::10] for k in range(10)]


def hashes(files: list[Path]) -> dict[Path, str]:
    return {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def kinds(checked: Checked) -> list[str]:
    return [f.kind for f in checked.findings]


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values, indent=1))


def set_rows(path: Path, array: str, rows: int) -> None:
    """Change a count as one would who knows where all of it stands."""
    edit(path / array / "zarr.json", lambda own: own["shape"].__setitem__(0, rows))
    edit(
        path / "zarr.json",
        lambda root: root["consolidated_metadata"]["metadata"][array]["shape"].__setitem__(0, rows),
    )


def test_a_store_as_it_was_written_has_no_findings(path: Path) -> None:
    checked = check(path)
    files = chunk_files(path)
    assert checked.findings == []
    assert checked.chunks == len(files) > 100
    assert checked.bytes == sum(f.stat().st_size for f in files)


def test_progress_counts_every_chunk(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    checked = check(path, lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, checked.chunks) for i in range(checked.chunks)]


def test_every_flipped_bit_of_every_chunk_is_found(path: Path) -> None:
    rng = np.random.default_rng(0)
    for files in together(chunk_files(path)):
        whole = {file: file.read_bytes() for file in files}
        # anywhere, and the ends: the first byte, the checksum
        for place in (0, -1, None, None, None):
            for file, data in whole.items():
                changed = bytearray(data)
                at = int(rng.integers(len(data))) if place is None else place
                changed[at] ^= 1 << int(rng.integers(8))
                file.write_bytes(changed)
            found = sorted((f.where, f.kind) for f in check(path).findings)
            assert found == sorted((str(file), "checksum") for file in files)
        for file, data in whole.items():
            file.write_bytes(data)
        assert check(path).findings == []


@pytest.mark.parametrize(
    ("what", "kind"),
    [("gone", "missing"), ("empty", ""), ("zeros", ""), ("short", ""), ("long", ""), ("blank", "")],
)
def test_a_chunk_missing_cut_or_blank_is_named(path: Path, what: str, kind: str) -> None:
    for files in together(chunk_files(path)):
        expected, wholes = [], {file: file.read_bytes() for file in files}
        for file, whole in wholes.items():
            made = {"empty": b"", "zeros": bytes(4), "short": whole[:-1], "long": whole + b"\0"}
            made["blank"] = bytes(len(whole))
            file.unlink()
            if what != "gone":
                file.write_bytes(made[what])
            text = file.parts[file.parts.index("s.zarr") + 1] in {"samples", "failures"}
            # four zeros are the checksum of nothing
            cut = "checksum" if what == "blank" or (text and what != "zeros") else "cut"
            expected.append((str(file), kind or cut))
        assert sorted((f.where, f.kind) for f in check(path).damage) == sorted(expected)
        for file, whole in wholes.items():
            file.write_bytes(whole)


@pytest.mark.parametrize("member", ["vectors", "digests", "cut"])
def test_damage_names_the_samples_it_is_of(path: Path, member: str) -> None:
    file = path / EMBEDDINGS / member / "c/1" / ("" if member == "cut" else "0")
    file.write_bytes(file.read_bytes()[::-1])
    (found,) = check(path).damage
    assert found.ids == tuple(f"i{row}" for row in ORDER[64:128])
    assert f"i{ORDER[64]}, i{ORDER[65]}, i{ORDER[66]} and 61 more" in str(found)
    assert "rows 64 to 127" in str(found)


def test_where_the_ids_are_damaged_too_rows_are_named(path: Path) -> None:
    for name in (f"{EMBEDDINGS}/vectors/c/2/0", "samples/id/c/1"):
        (path / name).unlink()
    vectors = next(f for f in check(path).damage if "vectors" in f.where)
    lost = range(16, 32)
    expected = [f"row {row}" if row in lost else f"i{row}" for row in ORDER[128:]]
    assert list(vectors.ids) == expected
    (path / EMBEDDINGS / "rows/c/2").unlink()
    vectors = next(f for f in check(path).damage if "vectors" in f.where)
    assert vectors.ids == ()
    assert "cannot be told" in str(vectors)


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (f"{EMBEDDINGS}/rows/c/0", f"{EMBEDDINGS}/rows/c/2", {"rows"}),
        (f"{EMBEDDINGS}/digests/c/0/0", f"{EMBEDDINGS}/digests/c/2/0", {"values"}),
        (f"{EMBEDDINGS}/vectors/c/0/0", f"{EMBEDDINGS}/vectors/c/2/0", {"zeros"}),
        (f"{EMBEDDINGS}/vectors/c/0/0", f"{EMBEDDINGS}/digests/c/0/0", {"cut"}),
        (f"{EMBEDDINGS}/rows/c/0", f"{EMBEDDINGS}/cut/c/0", {"cut"}),
        ("samples/id/c/0", "samples/id/c/9", {"ids"}),
        ("samples/id/c/0", "samples/view/c/0", {"ids"}),
    ],
)
def test_chunks_that_changed_places_are_found_by_what_they_hold(
    path: Path, one: str, other: str, expected: set[str]
) -> None:
    swap(path / one, path / other)
    assert set(kinds(check(path))) == expected


def test_a_chunk_of_an_earlier_commit_is_found(path: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.zarr"
    write(earlier, 0, 100)
    for member, expected in (("rows/c/1", "rows"), ("digests/c/1/0", "values")):
        file = path / EMBEDDINGS / member
        whole = file.read_bytes()
        shutil.copy(earlier / EMBEDDINGS / member, file)
        assert expected in {f.kind for f in check(path).damage}
        file.write_bytes(whole)


def arrays(path: Path) -> list[str]:
    return [n for n, m in Store.open(path).arrays.items() if m["node_type"] == "array"]


def test_counts_that_disagree_are_found_whatever_array_they_are_of(path: Path) -> None:
    for name in arrays(path):
        rows = Store.open(path).rows(name)
        for wrong in (0, rows - 1, rows + 1, rows + 1000):
            set_rows(path, name, wrong)
            found = [f for f in check(path).damage if f.kind == "counts"]
            assert len(found) == 1, (name, wrong)
            assert f"{wrong} {name.rpartition('/')[2]}" in found[0].what.replace("labels/", "")
        set_rows(path, name, rows)
    assert check(path).findings == []


@pytest.mark.parametrize("more", [1, 100])
def test_counts_that_agree_on_too_much_are_found(path: Path, more: int) -> None:
    for member in ("vectors", "rows", "digests", "cut"):
        set_rows(path, f"{EMBEDDINGS}/{member}", N + more)
    assert {f.kind for f in check(path).damage} >= {"rows", "values"}


def test_an_array_that_is_not_in_the_root_is_missed(path: Path) -> None:
    name = f"{PIXELS}/digests"
    edit(path / "zarr.json", lambda r: r["consolidated_metadata"]["metadata"].pop(name))
    (found,) = check(path).damage
    assert (found.kind, found.where) == ("counts", str(path / PIXELS))


@pytest.mark.parametrize(
    ("rows", "words"),
    [([7, 8, 7], "1 samples are there twice, the first is row 7"), ([7, N], f"row {N} is not in")],
)
def test_rows_twice_or_of_no_sample_are_found(path: Path, rows: list[int], words: str) -> None:
    other = Spec("other", "01", Recipe(), "pooled", 8)
    with Writer(path) as writer:
        writer.add_spec(other, {})
        writer.append(other, np.array(rows), VECTORS[: len(rows)], DIGESTS[: len(rows)])
        writer.commit()
    (found,) = check(path).damage
    assert found.kind == "rows"
    assert words in found.what


def test_negative_rows_are_found(path: Path) -> None:
    other = Spec("other", "01", Recipe(), "pooled", 8)
    with Writer(path) as writer:
        writer.add_spec(other, {})
        writer.append(other, np.array([-1]), VECTORS[:1], DIGESTS[:1])
        writer.commit()
    assert [f.kind for f in check(path).damage] == ["rows"]


def test_an_id_that_is_there_twice_is_found(path: Path) -> None:
    with Writer(path) as writer:
        writer.add_samples([Sample("i3", Path("x"))])
        writer.commit()
    (found,) = check(path).damage
    assert found.kind == "ids"
    assert "'i3'" in found.what


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_found(path: Path, wrong: float) -> None:
    other, vectors = Spec("other", "01", Recipe(), "pooled", 8), VECTORS.copy()
    vectors[70, 3] = wrong
    with Writer(path) as writer:
        writer.add_spec(other, {})
        writer.append(other, np.arange(N), vectors, DIGESTS)
        writer.commit()
    (found,) = check(path).damage
    assert found.kind == "values"
    assert "the first at row 70" in found.what


def test_metadata_that_runs_ahead_is_damage_and_behind_is_not(path: Path) -> None:
    own = path / EMBEDDINGS / "vectors" / "zarr.json"
    for rows, kind, damaged in ((N + 1, "metadata", 1), (N - 1, "behind", 0)):
        edit(own, lambda values, rows=rows: values["shape"].__setitem__(0, rows))  # type: ignore[misc]
        checked = check(path)
        assert kinds(checked) == [kind]
        assert len(checked.damage) == damaged
    own.unlink()
    assert (kinds(check(path)), check(path).damage) == (["behind"], [])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"x"', "{}", '{"node_type": "array"}', "null"]
    + ['{"node_type": "array", "shape": 7}'],
)
def test_metadata_that_is_none_is_damage_and_the_next_run_heals_it(path: Path, text: str) -> None:
    (path / EMBEDDINGS / "vectors" / "zarr.json").write_text(text)
    (found,) = check(path).findings
    assert (found.kind == "behind") == (text == "null")
    with Writer(path) as writer:
        writer.commit()
    assert check(path).findings == []


def test_a_root_of_an_earlier_commit_is_found(path: Path, tmp_path: Path) -> None:
    write(tmp_path / "earlier.zarr", 0, 100)
    shutil.copy(tmp_path / "earlier.zarr" / "zarr.json", path / "zarr.json")
    checked = check(path)
    assert {f.kind for f in checked.damage} == {"metadata"}


def test_a_changed_spec_is_found(path: Path) -> None:
    state = ("attributes", "embedstore", "embeddings", SPEC.key, "spec")

    def change(root: dict[str, Any]) -> None:
        for name in state:
            root = root[name]
        root["pooling"] = "other"

    edit(path / "zarr.json", change)
    assert kinds(check(path)) == ["spec"]


def test_a_root_with_a_flipped_bit_is_one_error_or_a_finding_never_a_crash(path: Path) -> None:
    whole, rng = (path / "zarr.json").read_bytes(), np.random.default_rng(0)
    found, errors = 0, []
    for _ in range(300):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        (path / "zarr.json").write_bytes(changed)
        try:
            found += bool(check(path).damage)
        except StoreError as error:
            errors.append(str(error))
    # the rest is in white space and in free text, such as a name or a command
    assert found + len(errors) > 150
    assert all(len(error.splitlines()) == 1 for error in errors)


class Killed(BaseException):
    """What stops a writer here, with nothing tidied up that a kill would leave."""


def stop_after(flushes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a writer flush so many files and folders, and stop it before the next."""
    done = count()

    def fsync(handle: int) -> None:
        if next(done) == flushes:
            raise Killed

    monkeypatch.setattr(os, "fsync", fsync)


def grow(path: Path) -> None:
    """Commit more of what there is, and what there was not: a label, a Spec, pictures of a kind."""
    other, rows = Spec("other", "01", Recipe(), "pooled", 8), ORDER[100:]
    with Writer(path) as writer:
        writer.add_label("late", [f"l{i}" for i in range(N)])
        writer.add_spec(other, {})
        writer.append(other, rows, VECTORS[rows], DIGESTS[rows])
        writer.append(SPEC, rows, VECTORS[rows], DIGESTS[rows])
        deep = [Kept(DIGESTS[i].tobytes(), PICTURES[i].astype(np.uint16), 0.5) for i in rows]
        writer.keep(SPEC.recipe, rows, deep)
        writer.commit()


def contents(path: Path) -> dict[str, list[Any]]:
    """All that zarr-python reads, with no help from embedstore."""
    group = zarr.open_group(path, mode="r")
    members = group.members(max_depth=None)
    return {name: node[:].tolist() for name, node in members if isinstance(node, zarr.Array)}


def committed(path: Path) -> set[Path]:
    """The files of the commit, worked out from the root's text alone."""
    nodes = json.loads((path / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    files = {path / "zarr.json"} | {path / name / "zarr.json" for name in nodes}
    for name, node in nodes.items():
        if node["node_type"] == "array":
            length, step = node["shape"][0], node["chunk_grid"]["configuration"]["chunk_shape"][0]
            rest = ["0"] * (len(node["shape"]) - 1)
            files |= {path.joinpath(name, "c", str(c), *rest) for c in range(-(-length // step))}
    return files


def assert_repair_is_exact(path: Path, zarr_too: bool) -> None:
    """Repair must remove what is not of the commit, say so, and touch nothing else."""
    before = hashes([f for f in committed(path) if f.exists()])
    read = contents(path) if zarr_too else {}
    everything = {f for f in path.rglob("*") if f.is_file()}
    repaired = repair(path)
    assert repaired.damage == []
    assert set(repaired.leftovers) == everything - set(before)
    assert {f for f in path.rglob("*") if f.is_file()} == set(before)
    assert hashes(list(before)) == before
    assert not zarr_too or contents(path) == read
    assert not [f for f in path.rglob("*") if f.is_dir() and not any(f.iterdir())]
    assert not set(kinds(check(path))) - {"behind"}


def test_stopped_anywhere_in_a_commit_repair_leaves_exactly_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "TEXT_ROWS", 128)
    earlier, met = tmp_path / "earlier.zarr", set()
    write(earlier, 0, 100)
    for flushes in count():
        copy = tmp_path / f"{flushes}.zarr"
        shutil.copytree(earlier, copy)
        with pytest.MonkeyPatch.context() as patch:
            stop_after(flushes, patch)
            try:
                grow(copy)
                break
            except Killed:
                pass
        checked = check(copy)
        assert checked.damage == []
        met |= set(kinds(checked))
        assert_repair_is_exact(copy, zarr_too=flushes % 4 == 0)
        if flushes % 4 == 0:
            if Store.open(copy).commit == Store.open(earlier).commit:
                grow(copy)
            np.testing.assert_array_equal(Store.open(copy).read(SPEC).vectors, VECTORS)
        shutil.rmtree(copy)
    assert met == {"leftover", "behind"}
    assert flushes > 60


def test_repair_leaves_damage_and_what_is_not_ours(path: Path) -> None:
    file = path / EMBEDDINGS / "vectors/c/0/0"
    file.write_bytes(bytes(100))
    notes = [path / "notes.txt", path / "samples/.DS_Store", path / EMBEDDINGS / "c/readme"]
    for note in notes:
        note.parent.mkdir(exist_ok=True)
        note.write_text("mine")
    strays = [path / EMBEDDINGS / "vectors/c/3/0", path / "samples/labels/x/c/0"]
    strays += [path / EMBEDDINGS / "rows/c/.writing-2", path / "pixels/x/uint8/values/c/0/0/0"]
    for stray in strays:
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.write_bytes(b"x")
    assert sorted(check(path).leftovers) == sorted(strays)
    repaired = repair(path)
    assert sorted(repaired.leftovers) == sorted(strays)
    assert [f.where for f in repaired.damage] == [str(file)]
    assert kinds(repaired).count("foreign") == 3
    assert all(n.read_text() == "mine" for n in notes)
    assert file.read_bytes() == bytes(100)
    assert not any(s.exists() for s in strays)


def test_repair_follows_no_link_out_of_the_store(path: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "c"
    outside.mkdir(parents=True)
    (outside / "0").write_text("mine")
    (path / "samples" / "linked").symlink_to(outside.parent)
    (path / "samples" / "x").mkdir()
    (path / "samples" / "x" / ".writing-0").symlink_to(outside / "0")
    repair(path)
    assert (outside / "0").read_text() == "mine"
    assert not (path / "samples" / "x").exists()


def test_a_writer_at_work_is_named_and_its_files_are_its_own(path: Path) -> None:
    lock = path.with_name("s.zarr.lock")
    with Writer(path):
        (path / "samples" / "id" / "c" / ".writing-9").write_bytes(b"x")
        checked = check(path)
        assert (kinds(checked), checked.leftovers) == (["writing"], [])
        named = f"process {os.getpid()} on {socket.gethostname()}"
        assert f"{named}; 1 files belong to no commit yet" in checked.findings[0].what
        with pytest.raises(StoreBusy, match=named):
            repair(path)
    assert kinds(check(path)) == ["leftover"]
    lock.write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname()}))
    assert kinds(check(path)) == ["leftover", "lock"]
    assert repair(path).findings == []
    assert not lock.exists()
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    assert "process 1 on elsewhere" in check(path).findings[0].what


@pytest.mark.parametrize("act", [check, repair])
def test_what_is_no_store_is_one_line_and_gets_no_lock(
    tmp_path: Path, act: Callable[[Path], Checked]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("nothing", "folder", "file", "no/where"):
        with pytest.raises(StoreError, match=name):
            act(tmp_path / name)
    assert {p.name for p in tmp_path.iterdir()} == {"folder", "file"}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str], str]:
    code = _run(["check", *map(str, arguments)], debug=True)
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_the_command_says_one_line_of_a_clean_store(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = chunk_files(path)
    size = sum(f.stat().st_size for f in files)
    said = f"{path}: {len(files)} chunks, {size} bytes, all as they were written"
    for options in ([], ["--repair"]):
        code, lines, _ = run(capsys, path, *options)
        assert (code, lines) == (0, [said])


def test_the_command_names_damage_and_ends_with_1(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for chunk in range(8):
        (path / f"samples/exam/c/{chunk}").unlink()
    file = path / EMBEDDINGS / "vectors/c/0/0"
    file.write_bytes(file.read_bytes()[::-1])
    (path / "samples/exam/c/.writing-0").write_bytes(b"x")
    code, lines, _ = run(capsys, path)
    assert code == 1
    assert [line for line in lines if line.startswith(f"damaged: {file}: the checksum differs")]
    assert "… and 3 more such; --json lists them all" in lines
    assert lines[-2].endswith("left by a stopped run; harmless, --repair removes it")
    assert lines[-1].startswith(f"{path}: damaged: 9 findings in ")
    code, lines, _ = run(capsys, path, "--repair", "--json")
    told = json.loads("\n".join(lines))
    assert (code, told["damaged"]) == (1, True)
    assert told["removed"] == [str(path / "samples/exam/c/.writing-0")]
    (found,) = (f for f in told["findings"] if f["where"] == str(file))
    assert found["ids"] == [f"i{row}" for row in ORDER[:64]]


def test_the_command_says_what_it_removed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stray = path / "samples/exam/c/77"
    stray.write_bytes(b"x")
    code, lines, _ = run(capsys, path)
    assert code == 0
    assert lines[0] == f"note: {stray}: left by a stopped run; harmless, --repair removes it"
    code, lines, _ = run(capsys, path, "--repair")
    assert (code, lines[0]) == (0, f"removed: {stray}")
    assert lines[1].endswith("all as they were written")

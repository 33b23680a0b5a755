"""Deleting and compacting: who sees what, what is left in the folder, and kills meanwhile."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from toy_stores import ONE, TWO, Toy, apart, killed_at, toys, verify, write

from embedstore import chunks
from embedstore.check import check
from embedstore.cli import _run
from embedstore.delete import Compacted, Deleted, compact, delete
from embedstore.errors import StoreError, UsageError
from embedstore.privacy import link, linkage_file, pseudonymise
from embedstore.store import Store
from embedstore.types import Sample
from embedstore.writer import Writer

N = 90
ALL = toys(N)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1024)
    monkeypatch.setattr(chunks, "TEXT_ROWS", 16)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "s.zarr", ALL)
    return tmp_path / "s.zarr"


def some(share: float, of: list[Toy] = ALL) -> list[str]:
    return random.Random(0).sample([t.id for t in of], int(share * len(of)))


def without(gone: Iterable[str], of: list[Toy] = ALL) -> list[Toy]:
    return [t for t in of if t.id not in set(gone)]


def bytes_of(folder: Path) -> bytes:
    names = "\n".join(str(f) for f in folder.rglob("*"))
    return names.encode() + b"".join(f.read_bytes() for f in folder.rglob("*") if f.is_file())


def traces(toy: Toy) -> list[bytes]:
    """All that could give a sample away: names, vectors, pictures, digest, stat."""
    found = [toy.id.encode(), toy.digest, np.array(toy.stat).tobytes()]
    found += [toy.vector(spec).tobytes() for spec in toy.specs]
    return found + [toy.picture.tobytes()] * (not toy.failed)


def left(folder: Path, gone: Iterable[Toy]) -> list[bytes]:
    everything = bytes_of(folder)
    return [trace for toy in gone for trace in traces(toy) if trace in everything]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.95, 1.0])
def test_nobody_sees_a_deleted_sample_and_compacting_leaves_no_byte(
    path: Path, share: float
) -> None:
    gone = some(share)
    verify(Store.open(path), ALL)
    assert delete(path, gone) == Deleted(
        len(gone), len({t.columns["group"] for t in ALL if t.id in gone}), 0
    )
    verify(Store.open(path), without(gone))
    assert Store.open(path).deleted == set(gone)
    assert check(path).findings == []
    dead = [t for t in ALL if t.id in gone]
    assert left(path, dead)
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    done = compact(path)
    good = sum(not t.failed for t in dead)
    assert (done.samples, done.vectors, done.pictures) == (len(gone), 2 * good, 2 * good)
    assert done.bytes == size - sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    verify(Store.open(path), without(gone))
    assert left(path, dead) == []
    assert check(path).findings == []
    assert Store.open(path).deleted == frozenset()
    assert Store.open(path).rows("samples/id") == N - len(gone)


def test_zarr_reads_a_compacted_store_alone(path: Path) -> None:
    gone = some(0.4)
    delete(path, gone)
    compact(path)
    stay = without(gone)
    for consolidated in (None, False):
        group = zarr.open_group(path, mode="r", use_consolidated=consolidated)
        assert group["samples/id"][:].tolist() == [t.id for t in stay]
        for spec in (ONE, TWO):
            there = group[f"embeddings/{spec.key}"]
            found = {
                stay[row].id: v
                for row, v in zip(there["rows"][:], there["vectors"][:], strict=True)
            }
            assert found.keys() == {t.id for t in stay if not t.failed}
            for toy in stay:
                if not toy.failed:
                    np.testing.assert_array_equal(found[toy.id], toy.vector(spec))


def test_deleting_and_compacting_over_and_over_with_new_samples_between(path: Path) -> None:
    there, chance = list(ALL), random.Random(1)
    for turn in range(6):
        gone = chance.sample([t.id for t in there], 9)
        delete(path, gone[:5])
        delete(path, gone[3:])
        there = [t for t in there if t.id not in gone]
        if turn % 3:
            compact(path)
        fresh = toys(11, 1000 + 100 * turn)
        write(path, fresh)
        there += fresh
        verify(Store.open(path), there)
        assert not check(path).damage
    compact(path)
    verify(Store.open(path), there)
    assert check(path).findings == []


def test_what_was_dropped_is_gone_and_what_came_after_is_there(path: Path) -> None:
    """Files that changed: first dropped in a commit, then embedded anew, some in one step."""
    changed = {t.id: t.with_content(f"new {t.content}") for t in ALL[::5]}
    ids = Store.open(path).array("samples/id").tolist()
    rows = np.array([ids.index(i) for i in changed])
    with Writer(path) as writer:
        writer.drop(rows)
        writer.commit()
    store = Store.open(path)
    assert len(store) == N
    untouched = [t for t in ALL if t.id not in changed]
    for spec in (ONE, TWO):
        assert set(store.read(spec).ids.tolist()) == {t.id for t in untouched if not t.failed}
    assert not {f.id for f in store.failures()} & changed.keys()  # to be tried again
    anew = [replace(changed.get(t.id, t), failed=t.failed and t.id not in changed) for t in ALL]
    write(path, [t for t in anew if t.id in changed], register=False)
    verify(Store.open(path), anew)
    assert check(path).findings == []
    compact(path)
    verify(Store.open(path), anew)
    assert check(path).findings == []
    replaced = [t for t in ALL if t.id in changed and not t.failed]
    everything = bytes_of(path)
    assert not [
        t for t in replaced if t.digest in everything or t.vector(ONE).tobytes() in everything
    ]


def test_dropping_and_appending_may_be_one_commit(tmp_path: Path) -> None:
    path, old = tmp_path / "s.zarr", toys(4)
    write(path, old)
    new = [replace(t, content="other", failed=False) for t in old]
    vectors = np.stack([t.vector(ONE) for t in new])
    digests = np.frombuffer(b"".join(t.digest for t in new), np.uint8).reshape(-1, 16)
    with Writer(path) as writer:
        writer.append(ONE, np.arange(4), vectors, digests)
        writer.drop(np.arange(4))  # what was appended before it goes too
        writer.append(ONE, np.arange(4), vectors + 1, digests)
        writer.commit()
    np.testing.assert_array_equal(Store.open(path).read(ONE).vectors, vectors + 1)
    assert Store.open(path).count(TWO) == 0
    assert check(path).findings == []


def test_compacting_twice_or_for_nothing_changes_no_file(path: Path) -> None:
    def files() -> dict[Path, tuple[int, int]]:
        return {f: (f.stat().st_mtime_ns, f.stat().st_ino) for f in path.rglob("*") if f.is_file()}

    before = files()
    assert compact(path) == Compacted(0, 0, 0, 0, 0)
    assert files() == before
    delete(path, [ALL[0].id])
    compact(path)
    before = files()
    assert compact(path) == Compacted(0, 0, 0, 0, 0)
    assert files() == before


def survive(folder: Path) -> list[bool]:
    """Compact and be killed, a little later each time, and compact again; say what kills met."""
    path, copy, few = folder / "s.zarr", folder / "copy.zarr", ALL[:40]
    gone = some(0.3, few)
    write(path, few)
    delete(path, gone)
    dead, stay, seen, flush = [t for t in few if t.id in gone], without(gone, few), set(), 1
    while True:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(path, copy)
        if not killed_at(flush, lambda: compact(copy)):
            break
        store = Store.open(copy)
        verify(store, stay)
        assert not check(copy).damage
        seen.add(bool(store.deleted))
        compact(copy)
        verify(Store.open(copy), stay)
        assert left(copy, dead) == []
        assert check(copy).findings == []
        flush += 1 + flush // 6
    return sorted(seen)


def test_killed_at_any_moment_compacting_again_does_the_rest(tmp_path: Path) -> None:
    assert apart("test_delete", "survive", tmp_path) == [False, True]


def killed_removing(folder: Path) -> list[int]:
    """Kill a compaction in the midst of removing the old files; return what it freed in the end."""
    path, gone, removed, unlink = folder / "s.zarr", some(0.3), 0, Path.unlink
    write(path, ALL)
    delete(path, gone)

    def counted(self: Path, missing_ok: bool = False) -> None:
        nonlocal removed
        removed += 1
        if removed == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        unlink(self, missing_ok)

    def work() -> None:
        Path.unlink = counted  # type: ignore[method-assign]
        compact(path)

    assert killed_at(0, work)
    verify(Store.open(path), without(gone))
    assert Store.open(path).deleted == frozenset()
    dead = [t for t in ALL if t.id in gone]
    traced, freed = len(left(path, dead)), compact(path).bytes
    assert left(path, dead) == []
    assert check(path).findings == []
    return [traced, freed]


def test_killed_while_removing_files_the_rest_goes_next_time(tmp_path: Path) -> None:
    traced, freed = apart("test_delete", "killed_removing", tmp_path)
    assert traced > 0
    assert freed > 0


def full(folder: Path) -> list[str]:
    """Compact where no file may have over 300 bytes; return what it complains of."""
    path, gone = folder / "s.zarr", some(0.3)
    write(path, ALL)
    delete(path, gone)

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        try:
            compact(path)
        except StoreError as error:
            os.write(said, str(error).encode())
            os.kill(os.getpid(), signal.SIGKILL)

    there, said = os.pipe()
    assert killed_at(0, work)
    os.close(said)
    verify(Store.open(path), without(gone))
    assert not check(path).damage
    compact(path)
    verify(Store.open(path), without(gone))
    assert check(path).findings == []
    return os.read(there, 10_000).decode().splitlines()


def test_a_full_disk_is_one_line_and_compacting_again_does_it(tmp_path: Path) -> None:
    (line,) = apart("test_delete", "full", tmp_path)
    assert "the disk is full" in line


def test_a_reader_of_before_is_told_to_open_the_store_again(path: Path) -> None:
    before = Store.open(path)
    delete(path, some(0.5))
    verify(before, ALL)
    compact(path)
    with pytest.raises(StoreError, match="open it again"):
        before.column("id")
    assert len(Store.open(path)) == N - N // 2


def test_a_damaged_store_is_not_compacted(path: Path) -> None:
    delete(path, [ALL[0].id])
    file = path / f"embeddings/{ONE.key}/vectors/c/1/0"
    whole = file.read_bytes()
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(StoreError, match=f"{file}: checksum differs"):
        compact(path)
    file.write_bytes(whole)
    verify(Store.open(path), ALL[1:])
    compact(path)
    verify(Store.open(path), ALL[1:])


def test_patients_go_by_their_own_id_or_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    plain = [
        Sample(f"{p}-{i}", Path("x"), group=p) for p in ("Anna", "Berta", "Cleo") for i in "12"
    ]
    hidden = pseudonymise(plain, path)
    with Writer(path) as writer:
        writer.add_samples(hidden)
        writer.commit()
    assert delete(path, patients=["Anna"]).samples == 2
    assert Store.open(path).column("id").tolist() == ["Berta-1", "Berta-2", "Cleo-1", "Cleo-2"]
    assert delete(path, patients=[hidden[2].group]) == Deleted(2, 1, 0)
    assert Store.open(path).column("id").tolist() == ["Cleo-1", "Cleo-2"]
    assert delete(path, ["Cleo-1"], ["Anna"]) == Deleted(1, 1, 2)
    (tmp_path / "s.zarr.key").unlink()
    with pytest.raises(StoreError, match="the key of the patient hashes is missing"):
        delete(path, patients=["Cleo"])


@pytest.mark.parametrize(
    ("ids", "patients"), [(["image-0001", "no"], []), (["image-0001"], ["no"]), ([], [""])]
)
def test_what_is_not_there_is_named_and_nothing_is_deleted(
    path: Path, ids: list[str], patients: list[str]
) -> None:
    with pytest.raises(
        UsageError, match=r"s\.zarr: no (sample 'no'|patient '(no)?'); nothing is deleted"
    ):
        delete(path, ids, patients)
    verify(Store.open(path), ALL)


def test_the_linkage_forgets_the_deleted_too(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    plain = [Sample(f"1.2.{i}", Path(f"scan{i}.dcm"), group=f"Name{i}") for i in range(4)]
    hidden = pseudonymise(plain, path, ids=True)
    link(plain, hidden, path)
    with Writer(path) as writer:
        writer.add_samples(hidden)
        writer.commit()
    delete(path, [hidden[1].id])
    assert "Name1" in linkage_file(path).read_text()
    assert compact(path).links == 1
    text = linkage_file(path).read_text()
    assert [f"Name{i}" in text for i in range(4)] == [True, False, True, True]
    assert [f"scan{i}" in text for i in range(4)] == [True, False, True, True]
    assert linkage_file(path).stat().st_mode & 0o077 == 0


def test_damaged_tombstones_are_found(path: Path) -> None:
    delete(path, some(0.3))
    with Writer(path) as writer:
        writer.drop(np.arange(10))
        writer.commit()
    assert check(path).findings == []
    for array in ("samples/deleted", f"embeddings/{ONE.key}/dropped", "failures/dropped"):
        values = zarr.open_array(path / array)
        first = values[0]
        for wrong in (N, -1, values[1] if values.shape[0] > 1 else N):
            values[0] = wrong
            assert {f.kind for f in check(path).damage} == {"rows"}, (array, wrong)
        values[0] = first
        assert check(path).damage == []
        file = path / array / "c/0"
        whole = file.read_bytes()
        file.write_bytes(whole[:8] + bytes([whole[8] ^ 1]) + whole[9:])
        (found,) = check(path).damage
        assert (found.kind, found.where, found.ids) == ("checksum", str(file), ())
        with pytest.raises(StoreError, match=f"{array}/c/0: checksum differs"):
            Store.open(path, verify=True).array(array)
        file.write_bytes(whole)


def say(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = _run([str(a) for a in arguments], debug=False)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_commands_say_what_they_did(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = path.rename(tmp_path / "a store.zarr")  # commands to paste are quoted
    (tmp_path / "ids.csv").write_text("note,image_id,patient\nx,image-0001,\ny,image-0002,\n")
    (tmp_path / "patients.csv").write_text("patient_id,why\npatient-3,withdrew\n")
    (tmp_path / "ids.txt").write_text("image-0020\n\nimage-0021\n")
    code, out, err = say(
        capsys, "delete", path, "--id", "image-0000", "--from", tmp_path / "ids.csv"
    )
    assert (code, out) == (0, f"{path}: 3 samples deleted, of 1 patient\n")
    assert f"their bytes are there until `embedstore compact '{path}'`" in err
    code, out, _ = say(
        capsys, "delete", path, "--patient", "patient-0", "--from", tmp_path / "patients.csv"
    )
    assert (code, out) == (0, f"{path}: 5 samples deleted, of 2 patients; 3 had been before\n")
    code, out, _ = say(capsys, "delete", path, "--from", tmp_path / "ids.txt")
    assert out == f"{path}: 2 samples deleted, of 1 patient\n"
    code, out, _ = say(capsys, "info", path)
    assert "80 samples" in out
    assert f"10 deleted samples until `embedstore compact '{path}'`" in out
    told = json.loads(say(capsys, "info", path, "--json")[1])
    assert (told["samples"], told["deleted"]) == (80, 10)
    code, out, err = say(capsys, "compact", path)
    assert code == 0
    assert re.fullmatch(
        rf"{path}: 10 samples, \d+ vectors, \d+ pictures dropped for good, \d+ bytes freed\n", out
    )
    assert "exports and copies of the store are not touched" in err
    assert json.loads(say(capsys, "info", path, "--json")[1])["deleted"] == 0
    assert say(capsys, "check", path)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to delete: --id, --patient or --from FILE"),
        (["--id", "no"], "no sample 'no'; nothing is deleted; the ids look like 'image-0000'"),
        (["--from", "gone.csv"], "gone.csv: no such file"),
        (["--from", "gone.txt"], "gone.txt: cannot be read"),
        (["--from", "empty.txt"], "empty.txt: names nothing to delete"),
        (["--from", "other.csv"], "other.csv: no column of ids or patients among a, b"),
    ],
)
def test_a_wrong_request_is_one_line(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(path.parent)
    Path("empty.txt").write_text("\n")
    Path("other.csv").write_text("a,b\n1,2\n")
    code, out, err = say(capsys, "delete", path, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    verify(Store.open(path), ALL)


@pytest.mark.parametrize("command", [["delete", "--id", "x"], ["compact"], ["update", "t.csv"]])
def test_no_store_is_made_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (tmp_path / "t.csv").write_text("id,d\nx,1\n")
    first, *rest = command
    rest = [str(tmp_path / r) if r == "t.csv" else r for r in rest]
    code, out, err = say(capsys, first, tmp_path / "no.zarr", *rest)
    assert (code, out) == (1, "")
    assert "no.zarr: no such store" in err
    assert {p.name for p in tmp_path.iterdir()} == {"t.csv"}

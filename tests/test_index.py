"""An index beside its vectors: made, extended, stale, damaged, read while it is replaced."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from vector_stores import clustered, spec_of, unit, write

from embedstore.check import check, repair
from embedstore.cli import _run
from embedstore.delete import compact, delete
from embedstore.errors import DataError, StoreError, UsageError
from embedstore.index import EXACT, Effort, Index, choose, recall
from embedstore.indexing import drop_index, make_index
from embedstore.saved_index import load
from embedstore.search_tables import tables_of
from embedstore.splits import linked
from embedstore.store import Store
from embedstore.update import update

KIND = "IVF4,RaBitQfs"


@pytest.fixture
def path(tmp_path):
    vectors = clustered(0, 400, 8)
    write(tmp_path / "s.zarr", vectors, [f"p{j // 2}" for j in range(400)])
    return tmp_path / "s.zarr"


@pytest.fixture(autouse=True)
def few_queries(monkeypatch):
    """Nothing here is about how good the recall is."""
    monkeypatch.setattr("embedstore.indexing.QUERIES", 30)


def made(path, kind=KIND, **options):
    store = Store.open(path)
    return make_index(store, store.find("texture"), kind, **options)


def folder(path):
    return path / "index" / Store.open(path).find("texture").key


def searched(path, exact=False):
    return Store.open(path).search("texture", ["i7"], k=5, exact=exact)


@pytest.mark.parametrize(
    ("n", "d", "kind"),
    [
        (100_000, 512, EXACT),
        (131_072, 512, EXACT),
        (131_073, 512, "RR512,IVF2048,RaBitQfs"),
        (1_000_000, 512, "RR512,IVF4096,RaBitQfs"),
        (10_000_000, 768, "RR768,IVF8192,RaBitQfs"),
        (1_400_000, 46, EXACT),
    ],
)
def test_the_kind_is_chosen_by_size(n, d, kind):
    assert choose(n, d, 1 << 40) == (kind, False)


def test_lists_go_to_the_disk_where_they_would_fill_half_the_memory():
    lists = 10_000_000 * (512 // 8 + 20)
    assert choose(10_000_000, 512, 4 * lists) == ("RR512,IVF8192,RaBitQfs", False)
    assert choose(10_000_000, 512, 4 * lists - 4) == ("RR512,IVF8192,RaBitQ", True)
    assert choose(10_000_000, 512, 4 * lists, on_disk=True) == ("RR512,IVF8192,RaBitQ", True)
    assert choose(10_000_000, 512, lists, on_disk=False) == ("RR512,IVF8192,RaBitQfs", False)


def test_more_vectors_than_a_search_can_know_of_are_refused_with_both_figures():
    with pytest.raises(DataError, match=r"10000000 vectors takes 0.6 GB of memory, and 0.5 GB"):
        choose(10_000_000, 512, 500_000_000)


def test_the_file_takes_what_is_said_of_memory(tmp_path):
    # the estimate that a kind is chosen by, against what FAISS writes
    x = unit(0, 20_000, 64)
    index = Index.trained("RR64,IVF64,RaBitQfs", 64, lambda most: x[:most])
    index.add([x])
    index.to_file(tmp_path / "x.faiss")
    overhead = 64 * 64 * 4 * 2  # centroids and the turning
    size = (tmp_path / "x.faiss").stat().st_size - overhead
    assert size == pytest.approx(20_000 * (64 // 8 + 20), rel=0.2)


def test_made_extended_and_as_it_was(path):
    first, done = made(path)
    assert (done, first.kind, first.rows, first.recall >= 0.99) == ("built", KIND, 400, True)
    assert made(path) == (first, "as it was")
    assert made(path, kind="auto") == (first, "as it was")
    write(path, clustered(1, 100, 8), start=400)
    more, done = made(path, kind="auto")
    assert (done, more.kind, more.rows, more.learnt) == ("extended", KIND, 500, 400)
    assert Store.open(path).search("texture", ["i7"], k=3).notes == ()
    write(path, clustered(2, 400, 8), start=500)
    again, done = made(path)
    assert (done, again.rows, again.learnt) == ("built", 900, 900)  # outgrown: learnt anew
    other, done = made(path, kind="HNSW8")
    assert (done, other.kind) == ("built", "HNSW8")
    plain, done = made(path, kind="auto", rebuild=True)
    assert (done, plain.kind, plain.bytes) == ("built", EXACT, 0)


def test_an_extended_index_answers_as_one_of_all(path):
    vectors = np.concatenate([clustered(0, 400, 8), clustered(1, 100, 8)])
    made(path, kind="IVF4,Flat")
    write(path, vectors[400:], start=400)
    assert made(path, kind="IVF4,Flat")[1] == "extended"
    store = Store.open(path)
    index = load(store, store.find("texture")).index
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert len(index) == 500
    index.effort = Effort(4, 4)
    rows = index.propose(units.astype(np.float32), 5)
    truth = np.argsort(-(units.astype(np.float64) @ units.T.astype(np.float64)), axis=1)[:, :5]
    assert recall(rows, truth) > 0.999


DISK_KINDS = ["IVF4,RaBitQ", "RR8,IVF4,RaBitQ", "IVF4,SQ8", "IVF4,Flat", "OPQ4_8,IVF4,PQ4x4"]


@pytest.mark.parametrize("kind", DISK_KINDS)
def test_lists_on_the_disk_propose_what_lists_in_memory_propose(tmp_path, kind):
    # FAISS' own, in memory, against pieces of 7 and 40 vectors put together on the disk
    x = clustered(0, 400, 8)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    index = Index.trained(kind, 8, lambda most: x[:most])
    inner = faiss.clone_index(index.inner)
    inner.add(x)
    wanted = Index(inner, Effort(2, 4)).propose(x[:50], 9)
    width = faiss.extract_index_ivf(inner).code_size + 8
    for piece in (7 * width, 40 * width):
        index.use_lists(None)
        index.added_on_disk(np.split(x[:300], 60), tmp_path / "a", tmp_path, piece=piece)
        index.added_on_disk(
            np.split(x[300:], 20), tmp_path / "b", tmp_path, tmp_path / "a", piece=piece
        )
        assert sorted(f.name for f in tmp_path.iterdir()) == ["a", "b"]
        assert len(index) == 400
        index.effort = Effort(2, 4)
        np.testing.assert_array_equal(index.propose(x[:50], 9), wanted)


def test_an_index_on_the_disk_is_made_extended_and_moved_to_memory(path):
    first, done = made(path, kind="IVF4,RaBitQ", on_disk=True)
    assert (done, first.on_disk, first.recall >= 0.99) == ("built", True, True)
    assert made(path, kind="auto") == (first, "as it was")
    lists = folder(path) / "lists.faiss"
    width = 8 // 8 + 8 + 8  # bits, factors, number
    assert lists.stat().st_size == 400 * width + 4 * 8
    searcher = Store.open(path).searcher("texture")
    before = searcher.index.propose(unit(0, 5, 8), 9)
    write(path, clustered(1, 100, 8), [f"q{j}" for j in range(100)], start=400)
    more, done = made(path, kind="auto")
    assert (done, more.on_disk, more.rows, more.learnt) == ("extended", True, 500, 400)
    assert lists.stat().st_size == 500 * width + 4 * 8
    for sample in ("i7", "i450"):
        found = Store.open(path).search("texture", [sample], k=5)
        exact = Store.open(path).search("texture", [sample], k=5, exact=True)
        assert (found.kind, found.notes) == ("IVF4,RaBitQ", ())
        assert found.ids.tolist() == exact.ids.tolist()
    # who has the earlier one open keeps it
    np.testing.assert_array_equal(searcher.index.propose(unit(0, 5, 8), 9), before)
    moved, done = made(path, kind="IVF4,RaBitQ", on_disk=False)
    assert (done, moved.on_disk, lists.exists()) == ("built", False, False)
    assert not check(path).findings


def test_sets_in_the_tables_are_those_that_a_split_keeps_together(tmp_path):
    rng = np.random.default_rng(0)
    groups = [f"p{g}" if g else "" for g in rng.integers(0, 60, 200)]
    exams = [f"e{g}" if g else "" for g in rng.integers(0, 90, 200)]
    files = rng.integers(0, 300, 200).tolist()
    order = rng.permutation(200)
    store = write(tmp_path / "s.zarr", unit(0, 200, 4), groups, exams, files, order=order)
    spec = store.find("texture")
    sets = tables_of(store, spec).sets
    place = np.argsort(order)
    theirs = linked(store.read(spec))
    pairs = set(zip(sets[place].tolist(), theirs.tolist(), strict=True))
    assert len(pairs) == len(np.unique(sets)) == len(np.unique(theirs))
    lengths = 1 / tables_of(store, spec).inverse
    np.testing.assert_allclose(lengths, np.linalg.norm(unit(0, 200, 4)[order], axis=1), rtol=1e-6)


def test_an_index_of_vectors_written_anew_is_not_used_and_goes_with_the_deleted(path):
    made(path)
    delete(path, ids=["i3"])
    kept = searched(path)
    assert (kept.kind, kept.notes) == (KIND, ())  # hidden at once, and the index still serves
    codes = (folder(path) / "vectors.faiss").read_bytes()
    compact(path)
    assert not (path / "index").exists()
    found = searched(path)
    assert (found.kind, found.notes) == (EXACT, ())
    assert codes not in [f.read_bytes() for f in path.rglob("*") if f.is_file()]
    # put back, as a copy of the folder might: it is of other places
    assert made(path)[1] == "built"


def test_an_index_put_back_after_compaction_is_stale_and_says_so(path, tmp_path):
    made(path)
    shutil.copytree(path / "index", tmp_path / "kept")
    delete(path, ids=["i3"])
    compact(path)
    shutil.copytree(tmp_path / "kept", path / "index")
    found = searched(path)
    assert found.kind == EXACT
    assert "written anew since they were indexed" in found.notes[0]
    assert found.ids.tolist() == searched(path, exact=True).ids.tolist()
    assert [f.kind for f in check(path).findings] == ["leftover"] * 3
    repair(path)
    assert not (path / "index").exists()


def test_changed_patients_are_kept_apart_though_the_index_is_of_before(path, tmp_path):
    made(path)
    near = searched(path).ids[0].tolist()
    table = tmp_path / "new.csv"
    rows = [f"{sample},p3" for sample in (near[0], "i7")]
    table.write_text("\n".join(["id,patient", *rows]))
    update(path, table)
    found = searched(path)
    assert found.kind == KIND
    assert near[0] not in found.ids[0]
    assert found.ids[0, 0] == near[1]


def damage(path, how):
    file = folder(path) / "vectors.faiss"
    data = bytearray(file.read_bytes())
    if how == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif how == "changed":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif how == "missing":
        file.unlink()
    elif how in ("lists cut", "lists changed"):
        lists = folder(path) / "lists.faiss"
        data = bytearray(lists.read_bytes())
        data[len(data) // 2] ^= 1
        lists.write_bytes(data if how == "lists changed" else data[:-8])
    elif how == "lists missing":
        (folder(path) / "lists.faiss").unlink()
    elif how == "tables":
        (folder(path) / "tables.safetensors").write_bytes(b"x" * 100)
    elif how == "no json":
        (folder(path) / "index.json").write_text("{")
    elif how == "other fields":
        (folder(path) / "index.json").write_text('{"kind": "Flat"}')
    elif how == "another version":
        said = json.loads((folder(path) / "index.json").read_text())
        (folder(path) / "index.json").write_text(json.dumps({**said, "format": 99}))
    elif how == "climbing":
        said = json.loads((folder(path) / "index.json").read_text())
        sums = {"../../zarr.json": hashlib.sha256((path / "zarr.json").read_bytes()).hexdigest()}
        (folder(path) / "index.json").write_text(json.dumps({**said, "sha256": sums}))


@pytest.mark.parametrize(
    "how",
    [
        *("cut", "changed", "missing", "tables"),
        *("no json", "other fields", "another version", "climbing"),
        *("lists cut", "lists changed", "lists missing"),
    ],
)
def test_a_damaged_index_is_refused_before_faiss_reads_it_and_made_anew(path, how, monkeypatch):
    disk = how.startswith("lists")
    made(path, kind="IVF4,RaBitQ" if disk else KIND, on_disk=disk)
    damage(path, how)
    read = []
    monkeypatch.setattr(faiss, "read_index", lambda *a: read.append(a))
    with pytest.raises(StoreError, match="make it anew: embedstore index .* --rebuild"):
        searched(path)
    with pytest.raises(StoreError, match="make it anew"):
        made(path)
    whole = searched(path, exact=True)  # which needs none
    assert not read
    monkeypatch.undo()
    found = check(path)
    assert found.findings
    assert not found.damage  # nothing that was committed is touched
    assert made(path, rebuild=True)[1] == "built"
    assert searched(path).ids.tolist() == searched(path, exact=True).ids.tolist()
    assert whole.ids.tolist() == searched(path, exact=True).ids.tolist()


def test_an_index_of_another_store_is_refused(path, tmp_path):
    other = tmp_path / "other.zarr"
    write(other, clustered(5, 400, 8), [f"p{j // 2}" for j in range(400)])
    made(path)
    made(other)
    shutil.rmtree(path / "index")
    shutil.copytree(other / "index", path / "index")
    with pytest.raises(StoreError, match="is an index of other vectors; make it anew"):
        searched(path)


def test_an_index_of_another_spec_is_refused(path):
    spec = spec_of(8, name="second")
    spec = type(spec)("second", "77", spec.recipe, spec.pooling, 8)
    write(path, clustered(3, 50, 8), start=400, spec=spec)
    made(path)
    shutil.copytree(folder(path), path / "index" / spec.key)
    with pytest.raises(StoreError, match="is of other vectors, or another version"):
        Store.open(path).search("second", ["i401"], k=3)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nonsense", "FAISS cannot make an index 'nonsense': could not parse"),
        ("IVF4000,Flat", "at least as large as number of clusters"),
        ("PQ4x4fs", "this kind of index cannot be filtered"),
        ("NSG16", "this kind of index cannot be filtered"),
        ("IDMap,Flat", "this kind of index does not grow"),
        ("on disk: HNSW8", "keeps no lists on the disk"),
        ("on disk: IVF4,RaBitQfs", "keeps no lists on the disk"),
    ],
)
def test_kinds_that_cannot_do_what_is_needed_are_refused_in_a_line(path, kind, said):
    disk = kind.startswith("on disk: ")
    with pytest.raises(UsageError, match=said) as caught:
        made(path, kind=kind.removeprefix("on disk: "), on_disk=disk)
    assert "\n" not in str(caught.value)
    assert not (path / "index").exists()


DYING = """
import os, signal, sys
from embedstore.store import Store
from embedstore.indexing import make_index
real, done = {name: getattr(os, name) for name in ("fsync", "rename")}, 0
def dying(name):
    def call(*arguments, **options):
        global done
        done += 1
        if done == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return real[name](*arguments, **options)
    return call
os.fsync, os.rename = dying("fsync"), dying("rename")
store = Store.open(sys.argv[1])
make_index(store, store.find("texture"), "Flat")
"""


@pytest.mark.parametrize("step", range(1, 8))
def test_killed_while_saving_an_index_leaves_the_earlier_or_the_new_one(path, step):
    made(path, kind="IVF4,Flat")
    run = subprocess.run([sys.executable, "-c", DYING, str(path), str(step)])
    assert run.returncode in (0, -9)
    there = searched(path)
    assert there.kind in {"IVF4,Flat", "Flat", EXACT}
    assert there.ids.tolist() == searched(path, exact=True).ids.tolist()
    made(path, kind="Flat")
    assert searched(path).kind == "Flat"
    assert not check(path).findings


def test_disk_full_is_one_line_and_the_earlier_index_stays(path, monkeypatch):
    import resource

    made(path)
    before = {f.name: f.read_bytes() for f in folder(path).iterdir()}
    code = (
        "import resource, signal, sys; from embedstore.store import Store\n"
        "from embedstore.indexing import make_index; from embedstore.errors import StoreError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = Store.open(sys.argv[1]); spec = store.find('texture')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "try: make_index(store, spec, 'Flat')\n"
        "except StoreError as error: print('refused:', error)"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert run.stdout.startswith("refused:"), run.stderr
    assert len(run.stdout.splitlines()) == 1
    assert {f.name: f.read_bytes() for f in folder(path).iterdir()} == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 3000


READER = """
import sys; from embedstore.store import Store
for _ in range(40):
    found = Store.open(sys.argv[1]).search("texture", ["i7", "i8"], k=5)
    assert found.ids.shape == (2, 5), found
    print(",".join(found.ids[0]), found.kind)
"""


def test_readers_in_other_processes_never_see_half_an_index(path):
    made(path, kind="Flat")
    wanted = ",".join(searched(path, exact=True).ids[0])
    run = [sys.executable, "-c", READER, str(path)]
    readers = [
        subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    kinds = 0
    while any(reader.poll() is None for reader in readers):
        made(path, kind=("Flat", "IVF4,Flat")[kinds % 2])
        kinds += 1
    for reader in readers:
        told, trouble = reader.communicate()
        assert reader.returncode == 0, trouble
        assert {line.split()[0] for line in told.splitlines()} == {wanted}
    assert kinds > 2


def test_no_vectors_no_index(tmp_path):
    store = write(tmp_path / "s.zarr", unit(0, 3, 4))
    delete(store.path, ids=["i0", "i1", "i2"])
    with pytest.raises(DataError, match="holds no vectors of texture yet"):
        made(store.path)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_handful_of_vectors_can_be_indexed(tmp_path, n):
    store = write(tmp_path / "s.zarr", unit(0, n, 4))
    assert made(store.path, kind="Flat")[0].recall == 1
    found = Store.open(store.path).search("texture", vectors=unit(0, n, 4)[:1], k=n)
    assert found.ids[0, 0] == "i0"


def test_dropped_and_nothing_else_is_lost(path):
    made(path)
    store = Store.open(path)
    before = searched(path).ids
    assert drop_index(store, store.find("texture"))
    assert not drop_index(store, store.find("texture"))
    assert searched(path).kind == EXACT
    np.testing.assert_array_equal(searched(path).ids, before)


def test_a_store_that_cannot_be_written_is_searched_but_not_indexed(path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            made(path)
        assert searched(path).kind == EXACT
    finally:
        path.chmod(0o700)


@pytest.mark.skipif(not hasattr(faiss, "get_num_gpus") or not faiss.get_num_gpus(), reason="no GPU")
def test_lists_learnt_on_a_gpu_find_what_lists_learnt_here_find():
    x = clustered(0, 20_000, 32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    index = Index.trained("IVF32,Flat", 32, lambda most: x[:most])
    index.add([x])
    index.effort = Effort(32, 4)
    truth = np.argsort(-(x[:50] @ x.T), axis=1)[:, :10]
    assert recall(index.propose(x[:50], 10), truth) > 0.99


def test_the_layout_of_the_folder_is_as_documented(path: Path) -> None:
    made(path)
    assert sorted(f.name for f in folder(path).iterdir()) == [
        "index.json",
        "tables.safetensors",
        "vectors.faiss",
    ]
    said = json.loads((folder(path) / "index.json").read_text())
    for name, digest in said["sha256"].items():
        assert hashlib.sha256((folder(path) / name).read_bytes()).hexdigest() == digest


def test_an_index_of_which_every_list_is_searched_is_said_to_be_of_no_use(tmp_path, capsys):
    write(tmp_path / "s.zarr", unit(0, 400, 32), [f"p{j}" for j in range(400)])
    for lists, wanted in (("IVF4", 1), ("IVF64", 0.6)):
        words = ["index", str(tmp_path / "s.zarr"), "--kind", f"{lists},Flat", "--json"]
        assert _run([*words, "--recall", str(wanted)], False) == 0
        output = capsys.readouterr()
        told = "every list has to be searched" in output.err
        assert told == (json.loads(output.out)["probes"] >= int(lists[3:])) == (wanted == 1)

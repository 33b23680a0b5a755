"""The sentences a store keeps: each encoded once, for one Spec, through kills and changes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from text_stores import clip, other_recipe, said, write

from embedstore.backbones import load_backbone
from embedstore.check import check, repair
from embedstore.chunks import Layout
from embedstore.delete import compact, delete
from embedstore.encode_texts import encode_texts
from embedstore.errors import BackboneError, SpecMismatch, StoreError, UsageError
from embedstore.kept_texts import layouts
from embedstore.lock import lock_of, write_lock
from embedstore.merge import merge
from embedstore.phantomclip import FOLDER
from embedstore.store import Store
from embedstore.types import Spec, unit_rows
from embedstore.writer import Writer

SENTENCES = [f"The breasts are {w} dense, film {n}." for w in ("not", "very") for n in range(60)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    rng = np.random.default_rng(0)
    write(tmp_path / "s.zarr", rng.standard_normal((8, clip().spec.dim)), ["A", "B"] * 4)
    return Store.open(tmp_path / "s.zarr")


def kept(path: Path, spec: Spec | None = None) -> dict[str, np.ndarray]:
    """Read what is kept by zarr-python, nothing of ours between."""
    group = zarr.open_group(str(path), mode="r")
    prefix = f"texts/{(spec or clip().spec).key}"
    names, rows = group[f"{prefix}/sentence"][:], group[f"{prefix}/vectors"][:]
    assert len(set(names.tolist())) == len(names) == len(rows)
    return dict(zip(names.tolist(), rows, strict=True))


def test_vectors_are_the_backbone_s_own_and_are_kept_as_plain_zarr(store: Store) -> None:
    found = encode_texts(store, clip().spec, SENTENCES * 2)
    assert (found.encoded, found.notes) == (len(SENTENCES), ())
    expected = said(SENTENCES)
    np.testing.assert_allclose([found.texts[s] for s in SENTENCES], expected, atol=1e-5)
    there = kept(store.path)
    assert list(there) == SENTENCES
    np.testing.assert_allclose(list(there.values()), expected, atol=1e-5)
    scale = float(clip().model.logit_scale.exp())  # type: ignore[attr-defined]
    assert found.logit_scale == pytest.approx(scale)


def test_what_is_kept_is_not_encoded_again_and_needs_no_model(tmp_path: Path) -> None:
    model = tmp_path / "carried"
    shutil.copytree(FOLDER, model)
    spec = load_backbone(str(model), clip().spec.recipe).spec
    assert spec.backbone == "carried"
    write(tmp_path / "s.zarr", np.ones((4, spec.dim)), ["A", "B"] * 2, spec)
    first = encode_texts(Store.open(tmp_path / "s.zarr"), spec, SENTENCES, str(model))
    root = (tmp_path / "s.zarr" / "zarr.json").read_bytes()
    shutil.rmtree(model)
    again = encode_texts(Store.open(tmp_path / "s.zarr"), spec, SENTENCES[::-3])
    assert (again.encoded, again.logit_scale) == (0, first.logit_scale)
    assert (tmp_path / "s.zarr" / "zarr.json").read_bytes() == root
    for sentence in SENTENCES[::-3]:
        np.testing.assert_array_equal(again.texts[sentence], first.texts[sentence])
    with pytest.raises((BackboneError, UsageError), match="carried"):
        encode_texts(Store.open(tmp_path / "s.zarr"), spec, ["a new one"])


def test_only_what_is_new_is_encoded(store: Store) -> None:
    encode_texts(store, clip().spec, SENTENCES[:7])
    steps: list[tuple[int, int]] = []
    found = encode_texts(
        Store.open(store.path), clip().spec, SENTENCES, on_progress=lambda *s: steps.append(s)
    )
    assert found.encoded == len(SENTENCES) - 7
    assert steps[-1] == (found.encoded, found.encoded)
    # one that opened the store before takes what others kept meanwhile
    assert encode_texts(store, clip().spec, SENTENCES).encoded == 0
    assert list(kept(store.path)) == SENTENCES


def test_sentences_of_another_spec_are_never_used(tmp_path: Path, store: Store) -> None:
    other = load_backbone("phantom-clip", other_recipe()).spec
    assert other.key != clip().spec.key
    with Writer(store.path) as writer:
        writer.add_spec(other, dict(store.provenance[clip().spec.key]))
        named, of_them = layouts(other)
        writer.extend(named, [np.array(SENTENCES, dtype=object)])
        writer.extend(of_them, [np.full((len(SENTENCES), other.dim), 7, np.float32)])
        writer.commit()
    found = encode_texts(Store.open(store.path), clip().spec, SENTENCES)
    assert found.encoded == len(SENTENCES)
    np.testing.assert_allclose([found.texts[s] for s in SENTENCES], said(SENTENCES), atol=1e-5)
    assert all((row == 7).all() for row in kept(store.path, other).values())


def test_another_model_is_refused(store: Store) -> None:
    with pytest.raises(SpecMismatch, match="cannot be mixed"):
        encode_texts(store, clip().spec, SENTENCES, "open_clip:RN50@random")
    assert "texts" not in zarr.open_group(str(store.path), mode="r")


def test_the_same_weights_behind_another_vocabulary_are_told_apart(
    tmp_path: Path, store: Store
) -> None:
    encode_texts(store, clip().spec, SENTENCES)
    model = tmp_path / "phantom-clip"
    shutil.copytree(FOLDER, model)
    for file in ("tokenizer.json", "vocab.txt"):
        if (model / file).exists():
            text = (model / file).read_text()
            swapped = text.replace("dense", "\0").replace("breasts", "dense")
            (model / file).write_text(swapped.replace("\0", "breasts"))
    changed = load_backbone(str(model), clip().spec.recipe)
    assert changed.spec.key == clip().spec.key  # weights alone do not tell
    assert not np.allclose(said(SENTENCES[:1], changed), said(SENTENCES[:1]), atol=1e-2)
    found = encode_texts(Store.open(store.path), clip().spec, SENTENCES[:9], str(model))
    assert found.encoded == 9
    assert len(found.notes) == 1
    assert "another tokenizer" in found.notes[0]
    there = kept(store.path)
    assert list(there) == SENTENCES[:9]
    np.testing.assert_allclose(list(there.values()), said(SENTENCES[:9], changed), atol=1e-5)
    assert not check(store.path).damage


def test_a_sentence_that_would_be_cut_is_refused_and_nothing_is_kept(store: Store) -> None:
    root = (store.path / "zarr.json").read_bytes()
    with pytest.raises(UsageError, match="tokens long and the model reads 48"):
        encode_texts(store, clip().spec, [*SENTENCES, "dense " * 60])
    assert (store.path / "zarr.json").read_bytes() == root


def test_a_model_without_a_text_side_is_refused(tmp_path: Path) -> None:
    spec = replace(clip().spec, backbone="statistics", text=False)
    write(tmp_path / "s.zarr", np.ones((4, spec.dim)), ["A", "B"] * 2, spec)
    with pytest.raises(BackboneError, match="statistics has no text side"):
        encode_texts(Store.open(tmp_path / "s.zarr"), spec, SENTENCES)


def test_a_store_that_another_writes_to_is_left_alone_and_everything_is_encoded(
    store: Store,
) -> None:
    encode_texts(store, clip().spec, SENTENCES[:5])
    root = (store.path / "zarr.json").read_bytes()
    with write_lock(lock_of(store.path)):
        found = encode_texts(Store.open(store.path), clip().spec, SENTENCES)
    assert found.encoded == len(SENTENCES) - 5
    assert len(found.notes) == 1
    assert f"not kept: {store.path}: being written by process {os.getpid()}" in found.notes[0]
    np.testing.assert_allclose([found.texts[s] for s in SENTENCES], said(SENTENCES), atol=1e-5)
    assert (store.path / "zarr.json").read_bytes() == root


def test_a_place_that_cannot_be_written_is_no_reason_to_stop(store: Store) -> None:
    lock_of(store.path).mkdir()  # as good as a read-only disk, also for root
    found = encode_texts(store, clip().spec, SENTENCES)
    assert "not kept" in found.notes[0]
    assert "cannot be written" in found.notes[0]
    np.testing.assert_allclose([found.texts[s] for s in SENTENCES], said(SENTENCES), atol=1e-5)


WORK = """
import json, sys
from embedstore.encode_texts import encode_texts
from embedstore.store import Store
store = Store.open(sys.argv[1])
encode_texts(store, store.find("phantom-clip"), json.load(sys.stdin), seconds=0)
"""


def at_work(path: Path, sentences: list[str]) -> subprocess.Popen[str]:
    """Start encoding in a process of its own, a commit a batch."""
    command = [sys.executable, "-c", WORK, str(path)]
    run = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.stdin is not None
    run.stdin.write(json.dumps(sentences))
    run.stdin.close()
    run.stdin = None
    return run


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Hold this process to a size of files, which Python tells of as an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_no_answer_and_nothing_kept_before(store: Store) -> None:
    encode_texts(store, clip().spec, SENTENCES[:3])
    with no_file_larger_than(1 << 20):  # a chunk of vectors is 4 MiB
        found = encode_texts(Store.open(store.path), clip().spec, SENTENCES, seconds=0)
    assert len(found.notes) == 1
    assert "the disk is full" in found.notes[0]
    np.testing.assert_allclose([found.texts[s] for s in SENTENCES], said(SENTENCES), atol=1e-5)
    assert list(kept(store.path)) == SENTENCES[:3]
    assert not repair(store.path).damage
    assert list(kept(store.path)) == SENTENCES[:3]


def test_killed_in_the_middle_it_loses_a_batch_and_goes_on(store: Store) -> None:
    many = [f"{s} Seen {n} times." for n in range(30) for s in SENTENCES]
    run = at_work(store.path, many)
    there, deadline = 0, time.monotonic() + 100
    while there < 200 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        there = Store.open(store.path).rows(f"texts/{clip().spec.key}/sentence")
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    before = kept(store.path)
    assert there <= len(before) < len(many)
    assert list(before) == many[: len(before)]
    some = list(before)[:: len(before) // 20]
    np.testing.assert_allclose([before[s] for s in some], said(some), atol=1e-5)
    assert not check(store.path).damage
    more = many[: len(before) + 70]
    assert encode_texts(Store.open(store.path), clip().spec, more).encoded == 70
    assert list(kept(store.path)) == more
    assert not repair(store.path).findings


def test_deleting_and_compacting_keep_sentences(store: Store) -> None:
    encode_texts(store, clip().spec, SENTENCES)
    before = kept(store.path)
    delete(store.path, ["i0", "i3"])
    compact(store.path)
    after = kept(store.path)
    assert list(after) == list(before)
    np.testing.assert_array_equal(list(after.values()), list(before.values()))
    assert len(Store.open(store.path)) == 6
    assert not check(store.path).findings
    assert encode_texts(Store.open(store.path), clip().spec, SENTENCES).encoded == 0


def test_merging_takes_the_sentences_of_both_once(tmp_path: Path, store: Store) -> None:
    write(tmp_path / "b.zarr", np.ones((2, clip().spec.dim)), ["A", "B"])
    encode_texts(store, clip().spec, SENTENCES[:50])
    encode_texts(Store.open(tmp_path / "b.zarr"), clip().spec, SENTENCES[40:])
    # of one id in both stores the first is another file: other ids
    target = tmp_path / "m.zarr"
    with Writer(tmp_path / "b.zarr") as writer:
        writer.rewrite("samples/id", [np.array(["x0", "x1"], dtype=object)])
        writer.commit()
    merge([store.path, tmp_path / "b.zarr"], target)
    there = kept(target)
    assert list(there) == SENTENCES
    np.testing.assert_allclose(list(there.values()), said(SENTENCES), atol=1e-5)
    assert not check(target).findings
    root = (target / "zarr.json").read_bytes()
    assert encode_texts(Store.open(target), clip().spec, SENTENCES).encoded == 0
    assert (target / "zarr.json").read_bytes() == root


def test_check_finds_what_is_wrong_with_sentences(store: Store) -> None:
    encode_texts(store, clip().spec, SENTENCES)
    assert not check(store.path).findings
    _, vectors = layouts(clip().spec)
    file = vectors.chunk_file(store.path, 0)
    whole = bytearray(file.read_bytes())
    whole[1000] ^= 1
    file.write_bytes(whole)
    (finding,) = check(store.path).damage
    assert finding.kind == "checksum"
    assert "texts/" in finding.where
    assert "copy of the store" in finding.todo
    with pytest.raises(StoreError, match="checksum differs"):
        Store.open(store.path, verify=True).texts(clip().spec)


def test_check_finds_more_sentences_than_vectors_and_a_spec_that_is_not_there(
    store: Store,
) -> None:
    encode_texts(store, clip().spec, SENTENCES)
    named, _ = layouts(clip().spec)
    stranger = Layout("texts/0123456789ab/sentence", "string")
    with Writer(store.path) as writer:
        writer.extend(named, [np.array(["one more"], dtype=object)])
        writer.extend(stranger, [np.array(["whose?"], dtype=object)])
        writer.commit()
    kinds = {f.kind for f in check(store.path).damage}
    assert kinds == {"counts", "spec"}


def test_check_finds_vectors_of_sentences_that_are_not_finite(store: Store) -> None:
    named, vectors = layouts(clip().spec)
    bad = unit_rows(np.ones((2, clip().spec.dim)))
    bad[1, 3] = np.inf
    with Writer(store.path) as writer:
        writer.extend(named, [np.array(["a", "b"], dtype=object)])
        writer.extend(vectors, [bad])
        writer.commit()
    (finding,) = check(store.path).damage
    assert finding.kind == "values"
    assert "row 1" in finding.what


def test_repair_removes_what_a_stopped_run_left_among_sentences(store: Store) -> None:
    encode_texts(store, clip().spec, SENTENCES)
    _, vectors = layouts(clip().spec)
    beyond = vectors.chunk_file(store.path, 1)
    beyond.parent.mkdir(parents=True, exist_ok=True)
    beyond.write_bytes(b"half")
    assert [f.kind for f in check(store.path).findings] == ["leftover"]
    repair(store.path)
    assert not beyond.exists()
    assert list(kept(store.path)) == SENTENCES

"""Random sequences of everything that changes a store, against dictionaries.

After each step all that `Store` shows must equal the model, and `check` must find no damage. A
step may be cut short at any flush, as by a kill or by a full disk: the store then holds all of it
or nothing. (Real processes are killed in `test_kills`.)

For long: ``python tests/test_store_machine.py 2000`` tries so many sequences, other ones each time.
"""

from __future__ import annotations

import copy
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from toy_stores import MADE, ONE, TWO, Toy

from embedstore import chunks
from embedstore.check import check, repair
from embedstore.delete import compact, delete
from embedstore.errors import StoreError, UsageError
from embedstore.kept import Kept
from embedstore.kept_texts import layouts
from embedstore.merge import merge
from embedstore.store import Failure, Store
from embedstore.types import Sample, Spec
from embedstore.update import update
from embedstore.writer import Writer

THREE = Spec("three", "02", ONE.recipe, "pooled", 3)  # its pictures are those of ONE
SPECS = (ONE, TWO, THREE)
COLUMNS = ("group", "exam", "view", "laterality", "split")
ROLES = {"group": "patient"}
LABELS = ("density", "vendor", "乳房")
WORDS = ("A", "b c", 'é,\n"x"', "乳", "0", "x" * 40)
MOST = 60  # samples

words = st.sampled_from(WORDS)
some = st.lists(st.integers(0, MOST), min_size=1, max_size=25)


class Killed(BaseException):
    """The end of a process, which no handler of errors sees."""


@dataclass
class Model:
    """What a store must show, by sample ids; `columns` has the order of the table."""

    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)
    contents: dict[str, str] = field(default_factory=dict)
    vectors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    pictures: dict[str, set[str]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    sentences: dict[str, list[str]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)

    def forget(self, gone: set[str], samples: bool) -> None:
        """Drop what was made of samples, and the samples themselves if need be."""
        for made in (*self.vectors.values(), *([self.columns] if samples else [])):
            for i in gone & made.keys():
                del made[i]
        for kept in self.pictures.values():
            kept -= gone
        self.failures = {k: v for k, v in self.failures.items() if k[0] not in gone}

    def add_vector(self, spec: Spec, sample_id: str) -> None:
        toy = Toy(sample_id, self.contents[sample_id])
        self.vectors[spec.key][sample_id] = toy.vector(spec)
        self.failures.pop((sample_id, spec.key), None)

    def has_content(self, sample_id: str) -> bool:
        """Say whether the store has a digest of the sample's file."""
        return any(sample_id in made for made in (*self.vectors.values(), *self.pictures.values()))


def matches(store: Store, model: Model) -> None:
    """Compare all that a store shows with the model."""
    ids = list(model.columns)
    assert len(store) == len(ids)
    assert store.column("id").tolist() == ids
    assert set(store.labels) == model.labels
    for name in (*COLUMNS, *model.labels):
        expected = [columns.get(name, "") for columns in model.columns.values()]
        assert store.column(name).tolist() == expected, name
    assert store.specs.keys() == model.vectors.keys()
    for key, vectors in model.vectors.items():
        shown = [i for i in ids if i in vectors]
        read = store.read(key)
        assert read.ids.tolist() == shown
        assert read.groups.tolist() == [model.columns[i].get("group", "") for i in shown]
        expected = np.array([vectors[i] for i in shown]).reshape(read.vectors.shape)
        np.testing.assert_array_equal(read.vectors, expected)
        np.testing.assert_array_equal(store.vectors(key), expected)
        assert [d.tobytes() for d in read.digests] == [_toy(model, i).digest for i in shown]
        assert list(store.texts(key)) == model.sentences.get(key, [])
        for sentence, vector in store.texts(key).items():
            np.testing.assert_array_equal(vector, _sentence(key, sentence))
    raw = store.array("samples/id")
    for spec in (ONE, TWO):
        kept = store.kept(spec.recipe)
        rows = kept.rows.tolist()
        assert sorted(raw[rows].tolist()) == sorted(
            model.pictures.get(spec.recipe.pixel_key, set())
        )
        for row, found in zip(rows, kept.read(rows), strict=True):
            toy = _toy(model, str(raw[row]))
            np.testing.assert_array_equal(found.picture, toy.picture)
            assert (found.digest, found.stat) == (toy.digest, toy.stat)
    assert {(f.id, f.spec): f.reason for f in store.failures()} == model.failures


def _toy(model: Model, sample_id: str) -> Toy:
    return Toy(sample_id, model.contents[sample_id])


def _sentence(key: str, sentence: str) -> np.ndarray:
    dim = next(s.dim for s in SPECS if s.key == key)
    return np.full(dim, float(len(sentence) + 1), np.float32)


@contextmanager
def ending_at(flush: int, error: Callable[[], BaseException]) -> Iterator[None]:
    """Raise at the n-th flush, before or after the rename it is there for."""
    done, real = 0, os.fsync

    def fsync(handle: int) -> None:
        nonlocal done
        done += 1
        if done == flush:
            raise error()

    os.fsync = fsync
    try:
        yield
    finally:
        os.fsync = real


def _full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


# most steps go through; of the rest, most flushes are near the beginning
endings = st.one_of(
    st.none(),
    st.none(),
    st.none(),
    st.tuples(st.integers(1, 60), st.sampled_from(["kill", "full disk"])),
)


class StoreMachine(RuleBasedStateMachine):
    """A store in a folder, its model, and readers of earlier commits with what they saw."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.path = self.folder / "0.zarr"
        self.model = Model()
        self.readers: list[tuple[Store, Model]] = []
        self.made = 0  # ids and contents, none twice
        self.real = os.fsync, chunks.CHUNK_BYTES, chunks.TEXT_ROWS
        os.fsync = lambda handle: None
        chunks.CHUNK_BYTES, chunks.TEXT_ROWS = 1, 4  # 16 rows of numbers, 4 of text

    def teardown(self) -> None:
        os.fsync, chunks.CHUNK_BYTES, chunks.TEXT_ROWS = self.real
        shutil.rmtree(self.folder)

    @initialize(count=st.integers(0, 30))
    def begin(self, count: int) -> None:
        """Start with something to change: most sequences are short."""
        ids = self.new_ids(count)
        _enter(self.model, tables := _tables(ids, ("group", "density"), WORDS))
        _add(self.path, tables)
        self.model.vectors[ONE.key] = {}
        self.model.pictures[ONE.recipe.pixel_key] = set(ids[::2])
        with Writer(self.path) as writer:
            for i in ids[::-1]:
                self.model.add_vector(ONE, i)
            _embed(writer, self.rows_of(self.path), self.model, ONE, ids[::-1], ids[::2])
            writer.commit()

    # what is done, and what it makes of the model

    def attempt(
        self,
        work: Callable[[], object],
        after: Model,
        ending: tuple[int, str] | None,
    ) -> None:
        """Do something, perhaps not to its end; then the store is as before or as after."""
        if ending is None:
            work()
            self.model = after
            return
        flush, how = ending
        try:
            with ending_at(flush, Killed if how == "kill" else _full):
                work()
        except Killed:
            pass
        except StoreError as error:
            if how == "kill" or "the disk is full" not in str(error):
                raise
        else:
            self.model = after
            return
        try:
            matches(Store.open(self.path), self.model)
        except AssertionError:
            matches(Store.open(self.path), after)
            self.model = after

    def new_ids(self, count: int) -> list[str]:
        self.made += count
        return [f"i{n}" for n in range(self.made - count, self.made)]

    def chosen(self, places: Sequence[int]) -> list[str]:
        """Samples there are, by any numbers, each once."""
        ids = list(self.model.columns)
        return list(dict.fromkeys(ids[p % len(ids)] for p in places)) if ids else []

    def rows_of(self, path: Path) -> dict[str, int]:
        store = Store.open(path)
        return dict(zip(store.column("id").tolist(), store.visible.tolist(), strict=True))

    def room(self) -> bool:
        return len(self.model.columns) < MOST

    def anything(self) -> bool:
        return bool(self.model.columns)

    @precondition(room)
    @rule(
        count=st.integers(1, 20),
        given=st.lists(st.sampled_from((*COLUMNS, *LABELS)), unique=True, max_size=5),
        values=st.lists(words, min_size=1, max_size=7),
        ending=endings,
    )
    def add_samples(self, count: int, given: list[str], values: list[str], ending: Any) -> None:
        after = copy.deepcopy(self.model)
        fresh = _tables(self.new_ids(count), given, values)
        _enter(after, fresh)
        self.attempt(lambda: _add(self.path, fresh), after, ending)

    @precondition(anything)
    @rule(
        name=st.sampled_from(LABELS), values=st.lists(words, min_size=1, max_size=5), ending=endings
    )
    def add_or_fill_label(self, name: str, values: list[str], ending: Any) -> None:
        after = copy.deepcopy(self.model)
        given: dict[str, str] = {}
        for n, (i, columns) in enumerate(after.columns.items()):
            given[i] = columns.get(name) or values[n % len(values)]
            columns[name] = given[i]
        after.labels.add(name)
        new = name not in self.model.labels

        def work() -> None:
            with Writer(self.path) as writer:
                store = writer.store()
                raw = (
                    [""] * store.rows("samples/id")
                    if new
                    else store.array(f"samples/labels/{name}").tolist()
                )
                for i, row in self.rows_of(self.path).items():
                    raw[row] = given[i]
                (writer.add_label if new else writer.fill_label)(name, raw)
                writer.commit()

        self.attempt(work, after, ending)

    @precondition(anything)
    @rule(
        spec=st.sampled_from(SPECS),
        places=some,
        pictures=st.booleans(),
        changed=st.booleans(),
        ending=endings,
    )
    def embed(
        self, spec: Spec, places: list[int], pictures: bool, changed: bool, ending: Any
    ) -> None:
        """Append vectors, in any order; of files that `changed` all that was there goes first."""
        after = copy.deepcopy(self.model)
        ids = self.chosen(places)
        after.vectors.setdefault(spec.key, {})
        if changed:
            after.forget(set(ids), samples=False)
            after.contents |= {i: f"{i} anew {self.made}" for i in ids}
            self.made += 1
        ids = [i for i in ids if i not in after.vectors[spec.key]]
        for i in ids:
            after.add_vector(spec, i)
        kept: list[str] = []
        if pictures:
            there = after.pictures.setdefault(spec.recipe.pixel_key, set())
            kept = [i for i in ids if i not in there]
            there |= set(kept)

        def work() -> None:
            with Writer(self.path) as writer:
                rows = self.rows_of(self.path)
                if changed:
                    gone = self.chosen(places)
                    writer.drop(np.array([rows[i] for i in gone], np.int64))
                _embed(writer, rows, after, spec, ids, kept)
                writer.commit()

        self.attempt(work, after, ending)

    @precondition(anything)
    @rule(spec=st.sampled_from(SPECS), places=some, reason=words, ending=endings)
    def fail(self, spec: Spec, places: list[int], reason: str, ending: Any) -> None:
        after = copy.deepcopy(self.model)
        ids = [i for i in self.chosen(places) if i not in after.vectors.get(spec.key, {})]
        after.failures |= {(i, spec.key): reason for i in ids}

        def work() -> None:
            with Writer(self.path) as writer:
                writer.add_failures([Failure(i, "", "read", reason, spec.key) for i in ids])
                writer.commit()

        self.attempt(work, after, ending)

    @precondition(lambda self: bool(self.model.vectors))
    @rule(spec=st.sampled_from(SPECS), sentences=st.lists(words, unique=True), ending=endings)
    def keep_texts(self, spec: Spec, sentences: list[str], ending: Any) -> None:
        if spec.key not in self.model.vectors:
            return
        after = copy.deepcopy(self.model)
        there = after.sentences.setdefault(spec.key, [])
        fresh = [s for s in sentences if s not in there]
        there += fresh
        if fresh:
            self.attempt(lambda: _keep_texts(self.path, spec, fresh), after, ending)

    @precondition(anything)
    @rule(
        places=some,
        names=st.lists(
            st.sampled_from(("group", "view", "split", *LABELS)),
            min_size=1,
            max_size=3,
            unique=True,
        ),
        values=st.lists(st.one_of(st.just(""), words), min_size=1, max_size=5),
        erase=st.booleans(),
        ending=endings,
    )
    def change(
        self, places: list[int], names: list[str], values: list[str], erase: bool, ending: Any
    ) -> None:
        after = copy.deepcopy(self.model)
        ids = self.chosen(places)
        table: dict[str, list[str]] = {"id": ["nobody's", *ids]}
        for c, name in enumerate(names):
            cells = [values[(n + c) % len(values)] for n in range(len(ids))]
            table[ROLES.get(name, name)] = ["", *cells]
            for i, cell in zip(ids, cells, strict=True):
                if cell or erase:
                    after.columns[i][name] = cell
        labels = [n for n in names if n in LABELS]
        after.labels |= set(labels)
        self.attempt(
            lambda: update(self.path, pl.DataFrame(table), labels=labels, erase=erase),
            after,
            ending,
        )

    @precondition(anything)
    @rule(places=some, patient=st.booleans(), ending=endings)
    def delete_some(self, places: list[int], patient: bool, ending: Any) -> None:
        after = copy.deepcopy(self.model)
        gone = set(self.chosen(places[:6]))
        patients = {self.model.columns[i].get("group", "") for i in gone} - {""}
        if patient and patients:
            gone = {i for i, c in self.model.columns.items() if c.get("group") in patients}
            work = lambda: delete(self.path, patients=patients)  # noqa: E731
        else:
            work = lambda: delete(self.path, gone)  # noqa: E731
        after.forget(gone, samples=True)
        after.deleted |= gone
        self.attempt(work, after, ending)

    @rule(ending=endings)
    def compact_it(self, ending: Any) -> None:
        after = copy.deepcopy(self.model)
        after.deleted = set()
        self.attempt(lambda: compact(self.path), after, ending)
        if ending is None:
            assert {f.kind for f in check(self.path).findings} <= {"behind"}
            store = Store.open(self.path)
            assert store.array("samples/id").tolist() == list(self.model.columns)

    @precondition(room)
    @rule(
        shared=some,
        count=st.integers(1, 8),
        given=st.lists(st.sampled_from((*COLUMNS, *LABELS)), unique=True, max_size=4),
        values=st.lists(words, min_size=1, max_size=5),
        specs=st.lists(st.sampled_from(SPECS), unique=True, max_size=2),
        ending=endings,
    )
    def merge_with_another(
        self,
        shared: list[int],
        count: int,
        given: list[str],
        values: list[str],
        specs: list[Spec],
        ending: Any,
    ) -> None:
        """Another store has some of the samples, blanks filled in, and others; go on with both."""
        ids = [*self.chosen(shared[:4]), *self.new_ids(count)]
        other = Model(contents={i: self.model.contents.get(i, i) for i in ids})
        tables = _tables(ids, given, values)
        for i, columns in tables.items():
            known = {k: v for k, v in self.model.columns.get(i, {}).items() if v}
            columns |= {k: v for k, v in known.items() if k in columns}
        _enter(other, tables)
        number = int(self.path.stem)
        there = self.folder / f"{number}-other.zarr"
        _add(there, tables)
        with Writer(there) as writer:
            rows = self.rows_of(there)
            for spec in specs:
                other.vectors[spec.key] = {}
                other.pictures.setdefault(spec.recipe.pixel_key, set())
                ours = [i for n, i in enumerate(ids) if n % 3]
                for i in ours:
                    other.add_vector(spec, i)
                fresh = [i for i in ours if i not in other.pictures[spec.recipe.pixel_key]]
                other.pictures[spec.recipe.pixel_key] |= set(fresh)
                _embed(writer, rows, other, spec, ours, fresh)
            failed = {(i, ONE.key): "other" for n, i in enumerate(ids) if not n % 3}
            other.failures |= failed
            writer.add_failures([Failure(i, "", "read", r, k) for (i, k), r in failed.items()])
            writer.commit()
        matches(Store.open(there), other)
        target = self.folder / f"{number + 1}.zarr"
        try:
            with ending_at(ending[0] if ending else 0, Killed):
                merge([self.path, there], target)
        except Killed:
            try:
                merge([self.path, there], target)
            except UsageError as error:  # killed after its only commit
                if "is a store already" not in str(error):
                    raise
        self.model = _merged(self.model, other)
        self.path = target

    @rule(ending=endings)
    def repair_it(self, ending: Any) -> None:
        self.attempt(lambda: repair(self.path), self.model, ending)
        if ending is None:
            assert {f.kind for f in check(self.path).findings} <= {"behind"}

    @rule()
    def move_it(self) -> None:
        """Copy the store elsewhere, as anyone may, and go on with the copy."""
        number = int(self.path.stem)
        copied = self.folder / f"{number + 1}.zarr"
        shutil.copytree(self.path, copied)
        shutil.rmtree(self.path)
        self.path, self.readers = copied, []

    @precondition(lambda self: len(self.readers) < 3)
    @rule(verify=st.booleans())
    def open_a_reader(self, verify: bool) -> None:
        self.readers.append((Store.open(self.path, verify), copy.deepcopy(self.model)))

    # what must be so after each step

    @invariant()
    def the_store_shows_the_model(self) -> None:
        if (self.path / "zarr.json").exists():
            matches(Store.open(self.path), self.model)

    @invariant()
    def check_finds_no_damage(self) -> None:
        if (self.path / "zarr.json").exists():
            found = check(self.path)
            assert found.damage == []
            assert {f.kind for f in found.findings} <= {"leftover", "behind"}

    @invariant()
    def readers_see_their_commit_or_are_told(self) -> None:
        for reader, seen in list(self.readers):
            try:
                matches(reader, seen)
            except StoreError as error:
                if "open it again" not in str(error):
                    raise
                self.readers.remove((reader, seen))


def _tables(ids: Sequence[str], given: Sequence[str], values: Sequence[str]) -> dict[str, Any]:
    """Say something of each sample in the columns `given`, blanks among it."""
    cells = ["", *values]
    return {
        i: {name: cells[(n * (c + 1)) % len(cells)] for c, name in enumerate(given)}
        for n, i in enumerate(ids)
    }


def _enter(model: Model, tables: dict[str, dict[str, str]]) -> None:
    for i, columns in tables.items():
        model.columns[i] = dict(columns)
        model.contents.setdefault(i, i)
        model.labels |= columns.keys() & set(LABELS)


def _add(path: Path, tables: dict[str, dict[str, str]]) -> None:
    samples = [
        Sample(
            i,
            Path(f"{i}.png"),
            **{k: v for k, v in columns.items() if k in COLUMNS},
            labels={k: v for k, v in columns.items() if k in LABELS},
        )
        for i, columns in tables.items()
    ]
    with Writer(path) as writer:
        writer.add_samples(samples)
        writer.commit()


def _embed(
    writer: Writer,
    rows: dict[str, int],
    model: Model,
    spec: Spec,
    ids: Sequence[str],
    kept: Sequence[str],
) -> None:
    writer.add_spec(spec, MADE)
    if ids:
        toys = [_toy(model, i) for i in ids]
        at = np.array([rows[i] for i in ids])
        digests = np.frombuffer(b"".join(t.digest for t in toys), np.uint8).reshape(-1, 16)
        writer.append(spec, at, np.stack([t.vector(spec) for t in toys]), digests)
    if kept:
        toys = [_toy(model, i) for i in kept]
        at = np.array([rows[i] for i in kept])
        writer.keep(spec.recipe, at, [Kept(t.digest, t.picture, 0.25, t.stat) for t in toys])


def _keep_texts(path: Path, spec: Spec, fresh: Sequence[str]) -> None:
    with Writer(path) as writer:
        sentence, vectors = layouts(spec)
        writer.extend(sentence, [np.array(fresh, dtype=object)])
        writer.extend(vectors, [np.stack([_sentence(spec.key, s) for s in fresh])])
        writer.commit()


def _merged(first: Model, second: Model) -> Model:
    both = copy.deepcopy(first)
    both.deleted = set()
    both.labels |= second.labels
    for i, columns in second.columns.items():
        known = both.columns.setdefault(i, {})
        known |= {k: v for k, v in columns.items() if v and not known.get(k)}
        both.contents.setdefault(i, second.contents[i])
    for key, vectors in second.vectors.items():
        both.vectors[key] = {**vectors, **both.vectors.get(key, {})}
    for key, pictures in second.pictures.items():
        both.pictures[key] = pictures | both.pictures.get(key, set())
    for key, sentences in second.sentences.items():
        both.sentences[key] = list(dict.fromkeys([*both.sentences.get(key, []), *sentences]))
    both.failures = {
        (i, key): reason
        for (i, key), reason in (first.failures | second.failures).items()
        if i not in both.vectors.get(key, {})
    }
    return both


def _settings(examples: int, **others: Any) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **others,
    )


def test_a_store_shows_what_dictionaries_do() -> None:
    run_state_machine_as_test(StoreMachine, settings=_settings(6, derandomize=True))


if __name__ == "__main__":
    run_state_machine_as_test(StoreMachine, settings=_settings(int(sys.argv[1])))

"""The same search in LanceDB: against cosines in float64, and filters against pandas by hand."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest
from vector_stores import clustered, spec_of, unit, write

pytest.importorskip("lancedb", reason="embedstore[lancedb] is not installed")

from embedstore.delete import compact, delete
from embedstore.engine import Engine, drop, fill
from embedstore.errors import DataError, StoreError, UsageError
from embedstore.privacy import alias_of, key_file
from embedstore.search import Asked
from embedstore.store import Store
from embedstore.update import update

N, D = 240, 8
HOSTILE = [
    "it's",
    "' OR 1=1 --",
    "a'); DROP TABLE x; --",
    'say "hi"',
    "back`tick",
    "back\\slash\\'",
    "NULL",
    "null",
    "true",
    "%",
    "Zürich 乳腺 🩻",
    "two\nlines",
    "c0",
    "",
]
NAMES = ["density", "we`ird", "a.b", "drop table", "c1"]


def labels():
    rng = np.random.default_rng(7)
    return {
        "age": [str(a) if a > 35 else "" for a in rng.integers(30, 90, N)],
        "score": [f"{s:.2f}" for s in rng.uniform(-1, 1, N)],
        "note": [HOSTILE[j % len(HOSTILE)] for j in range(N)],
        "nothing": [""] * N,
        **{name: rng.choice(["A", "B", ""], N).tolist() for name in NAMES},
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    vectors = clustered(0, N, D)
    vectors[11] = 0
    groups = [f"p{j // 4}" if j % 9 else "" for j in range(N)]
    exams = [f"e{j // 2}" for j in range(N)]
    order = np.random.default_rng(1).permutation(N)
    write(folder / "s.zarr", vectors, groups, exams, labels=labels(), order=order)
    store = Store.open(folder / "s.zarr")
    assert fill(store, store.find("texture"), str(folder / "db")) == (N, "built")
    return folder


def opened(folder):
    store = Store.open(folder / "s.zarr")
    spec = store.find("texture")
    return store.searcher(spec), Engine.open(store, spec, str(folder / "db"))


def asked(searcher, *ids):
    own = searcher.places_of(list(ids))[:, None]
    return Asked(searcher.vectors[own[:, 0]], list(own))


def sets(folder):
    """Return the images of the same patient or exam, in chains, by hand."""
    store = Store.open(folder / "s.zarr")
    groups, exams = store.column("group").tolist(), store.column("exam").tolist()
    same = np.array([[a == b and a != "" for a in groups] for b in groups])
    same |= np.array([[a == b and a != "" for a in exams] for b in exams])
    for _ in range(8):
        same = (same.astype(int) @ same.astype(int)) > 0
    return same


def truth(folder, query, keep, per=None):
    store = Store.open(folder / "s.zarr")
    x = store.vectors("texture").astype(np.float64)
    length = np.linalg.norm(x, axis=1)
    x /= np.where(length > 0, length, 1)[:, None]
    cosine = x @ x[query]
    rows = [int(j) for j in np.argsort(-cosine, kind="stable") if keep[j]]
    if per is not None:
        best: dict[str, int] = {}
        for j in rows:
            best.setdefault(per[j] or f"#{j}", j)
        rows = list(best.values())
    return rows, cosine


@pytest.mark.parametrize("same_patient", [False, True])
@pytest.mark.parametrize("query", [0, 101, 239])
def test_hits_are_the_most_alike_of_other_patients(place, query, same_patient):
    searcher, engine = opened(place)
    keep = np.arange(N) != query if same_patient else ~sets(place)[query]
    rows, cosine = truth(place, query, keep)
    found = engine.search(searcher, asked(searcher, f"i{query}"), 9, "", "image", same_patient)
    assert found.ids.tolist() == [[f"i{j}" for j in rows[:9]]]
    np.testing.assert_allclose(found.cosines[0], cosine[rows[:9]], atol=1e-5)
    every = engine.search(
        searcher, asked(searcher, f"i{query}"), len(rows), "", "image", same_patient
    )
    assert sorted(every.ids[0]) == sorted(f"i{j}" for j in rows)
    with pytest.raises(DataError, match=f"k is {len(rows) + 1}; there are {len(rows)} images to"):
        engine.search(
            searcher, asked(searcher, f"i{query}"), len(rows) + 1, "", "image", same_patient
        )


@pytest.mark.parametrize("per", ["patient", "exam"])
def test_one_answer_for_each_patient_or_exam(place, per):
    searcher, engine = opened(place)
    names = Store.open(place / "s.zarr").column("group" if per == "patient" else "exam").tolist()
    rows, _ = truth(place, 5, ~sets(place)[5], names)
    found = engine.search(searcher, asked(searcher, "i5"), len(rows), "", per)
    assert found.ids[0].tolist() == [f"i{j}" for j in rows]
    with pytest.raises(DataError, match=f"there are {len(rows)} {per}s to choose from"):
        engine.search(searcher, asked(searcher, "i5"), len(rows) + 1, "", per)


FILTERS = {
    "view == 'MLO' and age >= 50": lambda t: t["view"] == "MLO" and t["age"] >= 50,
    "not age >= 52": lambda t: t["age"] < 52,
    "not age < 52": lambda t: t["age"] >= 52,
    "not age > 52": lambda t: t["age"] <= 52,
    "not age <= 52": lambda t: t["age"] > 52,
    "not age == 52": lambda t: t["age"] != 52,
    "not age != 52": lambda t: t["age"] == 52,
    "50 <= age < 70 and density in ['A', 'B']": lambda t: (
        50 <= t["age"] < 70 and t["density"] in ("A", "B")
    ),
    "age == 50.5 or age in [51, 52.0, 53.5]": lambda t: t["age"] in (51, 52),
    "age > 60.5": lambda t: t["age"] > 60.5,
    "score < 0 and score > -0.5": lambda t: -0.5 < t["score"] < 0,
    "score in [0, 1] or score == 1e-7 or score > 0.9": lambda t: t["score"] > 0.9,
    "age > score": lambda t: t["age"] > t["score"],
    "density != 'A'": lambda t: t["density"] != "A",
    "density not in ['A']": lambda t: t["density"] not in ("A",),
    "`a.b` == `drop table`": lambda t: t["a.b"] == t["drop table"],
    "`drop table` == 'B' and c1 != 'A'": lambda t: t["drop table"] == "B" and t["c1"] != "A",
    "id in ['i3', 'i17', 'nope'] or path == 'films/9.png'": lambda t: (
        t["id"] in ("i3", "i17", "i9")
    ),
    "patient == 'p3' or exam in ['e40', 'e41']": lambda t: (
        t["group"] == "p3" or t["exam"] in ("e40", "e41")
    ),
    "id in []  or id > 'i2'": lambda t: t["id"] > "i2",
}


def rows_of(folder):
    """Return the table as dicts, with a value that no comparison holds of where it is unknown."""
    table = labels() | {
        "id": [f"i{j}" for j in range(N)],
        "path": [f"films/{j}.png" for j in range(N)],
        "group": [f"p{j // 4}" if j % 9 else "" for j in range(N)],
        "exam": [f"e{j // 2}" for j in range(N)],
        "view": [("CC", "MLO")[j % 2] for j in range(N)],
    }
    table["age"] = [int(a) if a else None for a in table["age"]]
    table["score"] = [float(s) for s in table["score"]]
    return [{n: (c[j] if c[j] != "" else None) for n, c in table.items()} for j in range(N)]


def passing(engine, searcher, where):
    """Return which rows an engine lets through."""
    condition = engine._condition(searcher, where)
    found = engine.table.search().where(condition).select(["place"]).limit(N).to_arrow()
    ids = searcher.store.array("samples/id", searcher.rows[found["place"].to_numpy()])
    return sorted(ids.tolist(), key=lambda i: int(i[1:]))


@pytest.mark.parametrize("where", FILTERS)
def test_a_filter_lets_through_what_python_says_and_nothing_unknown(place, where):
    searcher, engine = opened(place)
    used = [n for n in rows_of(place)[0] if n in where.replace("patient", "group")]
    expected = []
    for j, row in enumerate(rows_of(place)):
        try:
            passes = FILTERS[where](row)
        except TypeError:  # None compared
            passes = False
        known = all(row[n] is not None for n in used if n not in ("id", "path", "group", "exam"))
        if passes and known:
            expected.append(f"i{j}")
    assert expected
    assert passing(engine, searcher, where) == expected


@pytest.mark.parametrize(
    ("where", "keep"),
    [
        ("age is None", lambda t: t["age"] is None),
        ("age is not None and not density is None", lambda t: None not in (t["age"], t["density"])),
        ("density in ['A', None]", lambda t: t["density"] in ("A", None)),
        ("age >= 50 or density == 'A'", lambda t: (t["age"] or 0) >= 50 or t["density"] == "A"),
        ("nothing is None", lambda t: True),
        ("nothing == 'x' or nothing > 3 or nothing in ['x', 4]", lambda t: False),
        ("not nothing == 'x'", lambda t: False),
        ("nothing in ['x', None]", lambda t: True),
        ("not (age < 50 and density == 'A')", lambda t: kleene(t)),
        ("density in []", lambda t: False),
        ("not density in []", lambda t: t["density"] is not None),
    ],
)
def test_what_is_unknown_follows_sql(place, where, keep):
    searcher, engine = opened(place)
    expected = [f"i{j}" for j, row in enumerate(rows_of(place)) if keep(row)]
    assert passing(engine, searcher, where) == expected


def kleene(row):
    young = None if row["age"] is None else row["age"] < 50
    fatty = None if row["density"] is None else row["density"] == "A"
    return young is False or fatty is False


@pytest.mark.parametrize("value", HOSTILE[:-1])
def test_hostile_values_are_values(place, value):
    searcher, engine = opened(place)
    expected = [f"i{j}" for j in range(N) if labels()["note"][j] == value]
    assert passing(engine, searcher, f"note == {value!r}") == expected
    assert passing(engine, searcher, f"note in [{value!r}]") == expected
    others = [f"i{j}" for j in range(N) if labels()["note"][j] not in (value, "")]
    assert passing(engine, searcher, f"note != {value!r}") == others


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nope == 1", "no column 'nope'"),
        ("age == '50'", "column 'age' holds numbers, '50' is text"),
        ("density == 4", "column 'density' holds text, 4 is a number"),
        ("density in ['A', 3]", "column 'density' holds text, 3 is a number"),
        ("age == density", "compares a column of numbers with one of text"),
        ("view == 'MLO'; drop", "cannot be read"),
    ],
)
def test_what_is_refused_is_refused_here_too(place, where, said):
    searcher, engine = opened(place)
    with pytest.raises(UsageError, match=said):
        engine.search(searcher, asked(searcher, "i0"), 1, where)
    with pytest.raises(UsageError, match=said):
        searcher.search(asked(searcher, "i0"), 1, where)


def test_long_and_deep_filters_are_taken(place):
    searcher, engine = opened(place)
    ids = [f"x{j}" for j in range(8000)] + ["i5"]
    assert passing(engine, searcher, f"id in {ids}") == ["i5"]
    deep = "id == 'i5'"
    for n in range(13):
        deep = f"not (not ({deep}) and id != 'y{n}')"
    assert passing(engine, searcher, deep) == ["i5"]
    deep = "id == 'i4'"
    for n in range(10):
        deep = f"(id == 'i{2 * n + 6}' or view == 'CC' and {deep})"
    assert passing(engine, searcher, deep) == [f"i{n}" for n in (4, *range(6, 26, 2))]
    with pytest.raises(UsageError, match="an engine takes 20 brackets; write it flatter"):
        passing(engine, searcher, f"(id == 'i9' or view == 'CC' and {deep})")


def test_patients_are_named_as_the_hospital_does(tmp_path):
    write(tmp_path / "s.zarr", unit(0, 8, D), [f"{j % 4:016x}" for j in range(8)])
    path = tmp_path / "s.zarr"
    key_file(path).write_text("ab" * 32 + "\n")
    hashed = alias_of(path, [])("MRN 1")
    write(path, unit(1, 2, D), [hashed] * 2, start=8)
    store = Store.open(path)
    spec = store.find("texture")
    fill(store, spec, str(tmp_path / "db"))
    searcher, engine = opened(tmp_path)
    assert passing(engine, searcher, "patient == 'MRN 1'") == ["i8", "i9"]
    assert passing(engine, searcher, f"patient == '{hashed}'") == ["i8", "i9"]
    assert passing(engine, searcher, f"patient == '{1:016x}'") == ["i1", "i5"]
    key_file(path).unlink()
    with pytest.raises(StoreError, match="the key of the patient hashes is missing"):
        passing(engine, searcher, "patient == 'MRN 1'")


def test_float16_answers_are_ranked_by_the_stores_own_vectors(tmp_path):
    # vectors that differ by less than rounding their unit vectors changes
    rng = np.random.default_rng(3)
    base = rng.normal(size=D)
    near = (base + 2e-3 * rng.normal(size=(300, D))) * rng.uniform(0.5, 9, (300, 1))
    write(tmp_path / "s.zarr", near.astype(np.float32), spec=spec_of(D, "float16"))
    store = Store.open(tmp_path / "s.zarr")
    spec = store.find("texture")
    fill(store, spec, str(tmp_path / "db"))
    searcher, engine = opened(tmp_path)
    for query in (0, 150):
        rows, cosine = truth(tmp_path, query, np.arange(300) != query)
        found = engine.search(searcher, asked(searcher, f"i{query}"), 5)
        np.testing.assert_allclose(found.cosines[0], cosine[rows[:5]], atol=2e-7)


def changed(path, how, tmp_path):
    if how == "appended":
        write(path, unit(9, 5, D), start=60)
    elif how == "deleted":
        delete(path, ids=["i3"])
    elif how == "compacted":
        delete(path, ids=["i3"])
        compact(path)
    elif how == "relabelled":
        table = tmp_path / "new.csv"
        table.write_text("id,density\ni3,A\n")
        update(path, table)


@pytest.mark.parametrize("how", ["appended", "deleted", "compacted", "relabelled"])
def test_a_store_that_has_changed_since_is_noticed_and_filled_anew(tmp_path, how):
    path, uri = tmp_path / "s.zarr", str(tmp_path / "db")
    write(path, unit(0, 60, D), labels={"density": list("ABCD") * 15})
    store = Store.open(path)
    spec = store.find("texture")
    fill(store, spec, uri)
    assert fill(store, spec, uri) == (60, "as it was")
    changed(path, how, tmp_path)
    with pytest.raises(StoreError, match="holds another state of the store; fill it: embedstore"):
        opened(tmp_path)
    store = Store.open(path)
    left = {"appended": 65, "relabelled": 60}.get(how, 59)
    assert fill(store, spec, uri) == (left, "built")
    searcher, engine = opened(tmp_path)
    found = engine.search(searcher, asked(searcher, "i7"), left - 1)
    assert ("i3" in found.ids[0]) == (how not in ("deleted", "compacted"))
    if how == "relabelled":
        assert "i3" in passing(engine, searcher, "density == 'A'")
    import lancedb

    assert len(lancedb.connect(uri).list_tables().tables) == 1  # nothing of earlier is kept


def test_another_store_of_the_same_shape_is_noticed(tmp_path):
    (tmp_path / "other").mkdir()
    uri = str(tmp_path / "db")
    for folder, start in ((tmp_path, 0), (tmp_path / "other", 1000)):
        write(folder / "s.zarr", unit(start, 20, D), start=start)
    store = Store.open(tmp_path / "s.zarr")
    fill(store, store.find("texture"), uri)
    other = Store.open(tmp_path / "other" / "s.zarr")
    with pytest.raises(StoreError, match="holds another state of the store"):
        Engine.open(other, other.find("texture"), uri)


def test_a_copy_that_was_stopped_is_not_used_and_goes_on(tmp_path, monkeypatch):
    write(tmp_path / "s.zarr", clustered(0, 50, D))
    store, uri = Store.open(tmp_path / "s.zarr"), str(tmp_path / "db")
    spec = store.find("texture")
    monkeypatch.setattr("embedstore.engine._BLOCK", 16)

    def stop(done, total):
        if done == 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(store, spec, uri, on_progress=stop)
    with pytest.raises(StoreError, match="is not filled to its end; fill it"):
        opened(tmp_path)
    seen = []
    assert fill(store, spec, uri, on_progress=lambda done, total: seen.append(done)) == (
        50,
        "went on",
    )
    assert seen[0] == 32
    searcher, engine = opened(tmp_path)
    every = engine.search(searcher, asked(searcher, "i0"), 49)
    assert sorted(every.ids[0]) == sorted(f"i{j}" for j in range(1, 50))


def test_an_index_of_the_engines_own_only_proposes(tmp_path):
    vectors = clustered(0, 2000, 16)
    write(tmp_path / "s.zarr", vectors)
    store, uri = Store.open(tmp_path / "s.zarr"), str(tmp_path / "db")
    spec = store.find("texture")
    with pytest.raises(UsageError, match="no index 'NOPE'; there are IVF_FLAT"):
        fill(store, spec, uri, "NOPE")
    fill(store, spec, uri, "IVF_FLAT")
    searcher, engine = opened(tmp_path)
    assert engine.index == "IVF_FLAT"
    x = vectors.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = engine.search(searcher, asked(searcher, "i7"), 10)
    assert found.kind == "lancedb IVF_FLAT"
    rows = [int(i[1:]) for i in found.ids[0]]
    np.testing.assert_allclose(found.cosines[0], x[rows] @ x[7], atol=1e-5)
    exact = engine.search(searcher, asked(searcher, "i7"), 10, exact=True)
    order = np.argsort(-(x @ x[7]))
    assert exact.ids[0].tolist() == [f"i{j}" for j in order if j != 7][:10]
    assert exact.kind == "lancedb"


def test_nothing_is_sent_anywhere(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    write(tmp_path / "s.zarr", unit(0, 10, D))
    store = Store.open(tmp_path / "s.zarr")
    fill(store, store.find("texture"), str(tmp_path / "db"))
    searcher, engine = opened(tmp_path)
    assert engine.search(searcher, asked(searcher, "i0"), 3).ids.shape == (1, 3)


def test_removed_and_nothing_else(tmp_path):
    write(tmp_path / "s.zarr", unit(0, 10, D))
    store, uri = Store.open(tmp_path / "s.zarr"), str(tmp_path / "db")
    spec = store.find("texture")
    fill(store, spec, uri)
    assert drop(spec, uri)
    assert not drop(spec, uri)
    with pytest.raises(StoreError, match="holds no such vectors"):
        opened(tmp_path)


def test_as_it_is_typed(place, capsys):
    from embedstore.cli import _run

    path, uri = str(place / "s.zarr"), str(place / "db")
    capsys.readouterr()
    assert _run(["index", path, "--engine", uri, "--json"], False) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["engine"], told["rows"], told["done"]) == ("lancedb", N, "as it was")
    words = ["search", path, "--id", "i5", "-k", "4", "--where", "view == 'MLO'", "--json"]
    assert _run([*words, "--engine", uri], False) == 0
    by_engine = json.loads(capsys.readouterr().out)
    mlo = np.arange(N) % 2 == 1
    rows, cosine = truth(place, 5, ~sets(place)[5] & mlo)
    cases = by_engine["queries"][0]["cases"]
    assert [case["id"] for case in cases] == [f"i{j}" for j in rows[:4]]
    np.testing.assert_allclose([case["cosine"] for case in cases], cosine[rows[:4]], atol=1e-5)
    assert by_engine["index"] == "lancedb"
    assert _run(["index", path, "--engine", uri, "--on-disk"], False) == 2
    assert "are of an index" in capsys.readouterr().err
    assert _run([*words, "--engine", str(place / "none")], False) == 1
    assert "holds no such vectors; fill it: embedstore index" in capsys.readouterr().err

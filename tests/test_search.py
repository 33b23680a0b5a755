"""Cases like this one: against cosines in float64, sets by hand, and every index FAISS may make."""

import threading

import numpy as np
import pytest
from vector_stores import clustered, spec_of, unit, write

from embedstore.errors import DataError, UsageError
from embedstore.indexing import make_index
from embedstore.queries import like_and_unlike
from embedstore.search import Asked, Searcher
from embedstore.store import Store
from embedstore.writer import Writer


def cosines_of(vectors, query):
    x, q = vectors.astype(np.float64), np.asarray(query, dtype=np.float64)
    return x @ q / np.linalg.norm(x, axis=1) / np.linalg.norm(q)


@pytest.fixture
def mixed(tmp_path):
    """60 samples of some patients and files, of any length, lying in no order."""
    rng = np.random.default_rng(2)
    groups = [f"p{g}" if g else "" for g in rng.integers(0, 15, 60)]
    files = rng.integers(0, 200, 60).tolist()
    vectors = unit(0, 60, 6) * rng.uniform(0.5, 9, (60, 1)).astype(np.float32)
    density = rng.choice(list("ABCD"), 60).tolist()
    store = write(
        tmp_path / "s.zarr",
        vectors,
        groups,
        files=files,
        labels={"density": density},
        order=rng.permutation(60),
    )
    return store, vectors, groups, files, density


def linked_to(query, groups, files):
    links = {query}
    while True:
        near = {
            j
            for j in range(len(groups))
            for i in links
            if (groups[i] and groups[i] == groups[j]) or files[i] == files[j]
        } | links
        if near == links:
            return links
        links = near


@pytest.mark.parametrize("same_patient", [False, True])
@pytest.mark.parametrize("query", [0, 17, 59])
def test_hits_are_the_most_alike_of_those_that_count(mixed, query, same_patient):
    store, vectors, groups, files, _ = mixed
    cosine = cosines_of(vectors, vectors[query])
    out = {query} if same_patient else linked_to(query, groups, files)
    expected = sorted(set(range(60)) - out, key=lambda j: -cosine[j])[:7]
    found = store.search("texture", [f"i{query}"], k=7, include_same_patient=same_patient)
    assert found.ids.tolist() == [[f"i{j}" for j in expected]]
    np.testing.assert_allclose(found.cosines[0], cosine[expected], atol=1e-5)
    assert store.array("samples/id", found.rows[0]).tolist() == found.ids[0].tolist()


def test_a_batch_answers_each_query_as_if_it_were_alone(mixed):
    store, *_ = mixed
    ids = [f"i{j}" for j in range(60)]
    together = store.search("texture", ids, k=5)
    for n, sample in enumerate(ids):
        alone = store.search("texture", [sample], k=5)
        assert alone.ids[0].tolist() == together.ids[n].tolist()


def test_a_filter_acts_inside_so_that_k_asked_is_k_given(mixed):
    store, vectors, groups, files, density = mixed
    for value in "ABCD":
        right = [j for j in range(60) if density[j] == value and j % 2 == 1]
        out = linked_to(0, groups, files)
        allowed = [j for j in right if j not in out]
        where = f"density == '{value}' and view == 'MLO'"
        found = store.search("texture", ["i0"], k=len(allowed), where=where)
        cosine = cosines_of(vectors, vectors[0])
        expected = sorted(allowed, key=lambda j: -cosine[j])
        assert found.ids[0].tolist() == [f"i{j}" for j in expected]
        with pytest.raises(UsageError, match="images that pass the filter to choose from"):
            store.search("texture", ["i0"], k=len(allowed) + 1, where=where)


@pytest.mark.parametrize("per", ["patient", "exam"])
def test_per_patient_and_per_exam_give_the_best_image_of_each(tmp_path, per):
    rng = np.random.default_rng(5)
    vectors = unit(1, 80, 6)
    groups = [f"p{g}" if g else "" for g in rng.integers(0, 12, 80)]
    exams = [f"{g}-{rng.integers(0, 2)}" if g else "" for g in groups]
    store = write(tmp_path / "s.zarr", vectors, groups, exams)
    names = groups if per == "patient" else exams
    cosine = cosines_of(vectors, vectors[3])
    best: dict[object, int] = {}
    for j in np.argsort(-cosine):
        if j != 3 and (not groups[3] or groups[j] != groups[3]):
            best.setdefault(names[j] or j, int(j))
    expected = [f"i{j}" for j in best.values()]
    found = store.search("texture", ["i3"], k=len(best), per=per)
    assert found.ids[0].tolist() == expected
    with pytest.raises(UsageError, match=rf"k is {len(best) + 1}; there are {len(best)} {per}s"):
        store.search("texture", ["i3"], k=len(best) + 1, per=per)


def test_several_images_make_one_query_and_their_patients_are_all_left_out(tmp_path):
    vectors = unit(4, 40, 5) * 3
    groups = [f"p{j // 2}" for j in range(40)]
    store = write(tmp_path / "s.zarr", vectors, groups)
    some, no = [2, 9], [20]
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    query = 2 * units[some].mean(axis=0) - units[no].mean(axis=0)
    cosine = cosines_of(vectors, query)
    out = {2, 3, 8, 9, 20, 21}
    expected = sorted(set(range(40)) - out, key=lambda j: -cosine[j])[:6]
    found = store.search("texture", [["i2", "i9"]], k=6, unlike=["i20"])
    assert found.ids[0].tolist() == [f"i{j}" for j in expected]
    np.testing.assert_allclose(found.cosines[0], cosine[expected], atol=1e-5)
    without = like_and_unlike(vectors[some], vectors[:0])
    np.testing.assert_allclose(without, units[some].mean(axis=0), atol=1e-6)


TWINS = np.array([[1, 0], [1, 0.01], [1, 0.02], [1, 0.03], [0, 1], [-1, 0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("groups", "exams", "files", "expected"),
    [
        (["p", "p", "q", "r", "s", "t"], None, None, ["i2", "i3"]),
        (["p", "q", "r", "s", "t", "u"], None, [0, 0, 2, 3, 4, 5], ["i2", "i3"]),
        (["", "q", "r", "s", "t", "u"], None, [0, 0, 2, 3, 4, 5], ["i2", "i3"]),
        (["", "", "", "", "", ""], None, None, ["i1", "i2"]),
        (["p", "", "r", "s", "t", "u"], ["e", "e", "", "", "", ""], None, ["i2", "i3"]),
        # i1 is patient p too: it shares an exam with i5, which is of p
        (["p", "", "r", "s", "t", "p"], ["", "e", "", "", "", "e"], None, ["i2", "i3"]),
    ],
    ids=["patient", "file", "file, patient unknown", "all unknown", "exam", "exam in a chain"],
)
def test_no_image_of_the_same_patient_exam_or_file_is_found(
    tmp_path, groups, exams, files, expected
):
    store = write(tmp_path / "s.zarr", TWINS, groups, exams, files)
    assert store.search("texture", ["i0"], k=2).ids[0].tolist() == expected
    both = store.search("texture", ["i0"], k=5, include_same_patient=True)
    assert both.ids[0].tolist() == ["i1", "i2", "i3", "i4", "i5"]


def test_one_id_may_stand_alone(tmp_path):
    store = write(tmp_path / "s.zarr", TWINS, ["p", "p", "q", "q", "r", "r"])
    assert store.search("texture", "i0", k=4).ids.tolist() == (
        store.search("texture", ["i0"], k=4).ids.tolist()
    )


def test_more_than_other_patients_have_is_refused(tmp_path):
    store = write(tmp_path / "s.zarr", TWINS, ["p", "p", "q", "q", "r", "r"])
    assert store.search("texture", ["i0"], k=4).ids.shape == (1, 4)
    for k in (0, -1, 5):
        with pytest.raises(UsageError, match=f"k is {k}; there are 4 images to choose from"):
            store.search("texture", ["i0"], k=k)
    assert store.search("texture", ["i0"], k=5, include_same_patient=True).ids.shape == (1, 5)


@pytest.mark.parametrize("many", [1, 100])
def test_unknown_id_is_refused_with_an_example_of_one(tmp_path, many):
    store = write(tmp_path / "s.zarr", unit(0, 200, 3))
    with pytest.raises(UsageError, match=r"no image 'i200' among the 200 .* texture.* like 'i0'"):
        store.search("texture", [*(f"i{j}" for j in range(many)), "i200"], k=1)


def test_bad_queries_are_refused(tmp_path):
    store = write(tmp_path / "s.zarr", np.concatenate([unit(0, 5, 3), np.zeros((1, 3))]))
    bad = np.full((1, 3), np.nan, dtype=np.float32)
    for vectors, said in [
        (np.zeros((2, 3), np.float32), "query 1 of 2 is all zeros"),
        (bad, "NaN or infinity"),
        (np.zeros((2, 4), np.float32), r"\(2, 4\); vectors of texture are \(n, 3\)"),
    ]:
        with pytest.raises(DataError, match=said):
            store.search("texture", vectors=vectors, k=1)
    with pytest.raises(DataError, match="all zeros"):
        store.search("texture", ["i5"], k=1)
    with pytest.raises(UsageError, match="give ids or vectors"):
        store.search("texture", k=1)
    with pytest.raises(UsageError, match="nothing to search for"):
        store.search("texture", [], k=1)
    with pytest.raises(UsageError, match="names no image"):
        store.search("texture", [["i1"], []], k=1)
    # like all others, a stored vector of zeros can be found: nothing is alike or unlike it
    found = store.search("texture", ["i0"], k=5)
    assert found.cosines[0][found.ids[0] == "i5"].tolist() == [0]


def test_deleted_samples_and_dropped_vectors_are_not_found(tmp_path):
    from embedstore.delete import delete

    vectors = unit(8, 50, 4)
    store = write(tmp_path / "s.zarr", vectors)
    before = store.search("texture", ["i0"], k=3)
    delete(store.path, ids=[before.ids[0, 0]])
    with Writer(store.path) as writer:
        writer.drop(np.array([before.rows[0, 1]]))
        writer.commit()
    after = Store.open(store.path).search("texture", ["i0"], k=47)
    assert not {before.ids[0, 0], before.ids[0, 1]} & set(after.ids[0].tolist())
    assert after.ids[0, 0] == before.ids[0, 2]


KINDS = [
    "Flat",
    "IVF8,Flat",
    "IVF8,RaBitQfs",
    "RR16,IVF8,RaBitQfs",
    "IVF8,RaBitQfs,Refine(SQfp16)",
    "HNSW16,SQfp16",
    "OPQ4_16,IVF8,PQ4x4fs",
]


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """4000 vectors in clusters, half of them float16, of patients of four images."""
    folder = tmp_path_factory.mktemp("big")
    vectors = clustered(0, 4000, 16) * np.random.default_rng(3).uniform(0.5, 9, (4000, 1))
    groups = [f"p{j // 4}" for j in range(4000)]
    labels = {"few": ["yes" if j % 50 == 7 else "no" for j in range(4000)]}
    stores = {}
    for dtype in ("float32", "float16"):
        spec = spec_of(16, dtype)
        stores[dtype] = write(
            folder / f"{dtype}.zarr", vectors.astype(np.float32), groups, labels=labels, spec=spec
        )
    return stores


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, "float32") for kind in KINDS), ("HNSW16,SQfp16", "float16"), (KINDS[3], "float16")],
)
@pytest.mark.filterwarnings("ignore")
def test_any_index_gives_k_that_are_allowed_with_their_true_cosines(big, kind, dtype, monkeypatch):
    monkeypatch.setattr("embedstore.indexing.QUERIES", 100)
    store = big[dtype]
    spec = store.find("texture")
    made, _ = make_index(store, spec, kind, wanted=0.95, rebuild=True)
    store = Store.open(store.path)
    searcher = store.searcher(spec)
    searcher.small = 0  # so that the index is asked even where few are allowed
    vectors = store.read(spec).vectors.astype(np.float64)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"i{j}" for j in range(0, 4000, 200)]
    for where, per in [("", "image"), ("few == 'yes'", "image"), ("", "patient")]:
        found = searcher.search(
            Asked(searcher.vectors[::200], [np.array([j]) for j in range(0, 4000, 200)]),
            10,
            where,
            per,
        )
        assert found.kind == kind
        assert found.ids.shape == (20, 10)
        assert (found.rows >= 0).all()
        shares = []
        for n, sample in enumerate(ids):
            at = int(sample[1:])
            allowed = np.array([j for j in range(4000) if j // 4 != at // 4])
            if where:
                allowed = allowed[allowed % 50 == 7]
            truth = allowed[np.argsort(-(units[allowed] @ units[at]), kind="stable")]
            if per == "patient":
                truth = truth[np.sort(np.unique(truth // 4, return_index=True)[1])]
            rows = found.rows[n]
            assert set(rows) <= set(allowed)
            assert len(set(rows // 4)) == 10 or per != "patient"
            np.testing.assert_allclose(found.cosines[n], units[rows] @ units[at], atol=2e-6)
            assert (np.diff(found.cosines[n]) <= 0).all()
            shares.append(len(set(rows) & set(truth[:10])) / 10)
        assert np.mean(shares) >= 0.85
    assert made.recall >= 0.95


def test_recall_that_is_said_is_the_recall_there_is(big):
    store = big["float32"]
    spec = store.find("texture")
    made, _ = make_index(store, spec, "IVF32,RaBitQfs", wanted=0.9, rebuild=True)
    store = Store.open(store.path)
    ids = [f"i{j}" for j in range(1, 4000, 4)]
    quick = store.search(spec, ids, k=10, include_same_patient=True)
    vectors = store.read(spec).vectors.astype(np.float64)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    shares = []
    for n, at in enumerate(range(1, 4000, 4)):
        cosine = units @ units[at]
        cosine[at] = -2
        truth = np.argpartition(-cosine, 10)[:10]
        shares.append(len(set(quick.rows[n]) & set(truth)) / 10)
    assert np.mean(shares) == pytest.approx(made.recall, abs=0.03)
    assert made.recall >= 0.9


def test_threads_get_what_one_gets(big):
    store = big["float32"]
    spec = store.find("texture")
    make_index(store, spec, "IVF8,RaBitQfs", rebuild=True)
    searcher = Store.open(store.path).searcher(spec)
    queries = np.asarray(searcher.vectors[::40])
    wanted = searcher.search(Asked(queries), 5, "few == 'no'")
    answers = []

    def ask():
        for _ in range(5):
            answers.append(searcher.search(Asked(queries), 5, "few == 'no'").rows)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 40
    for rows in answers:
        np.testing.assert_array_equal(rows, wanted.rows)


def test_what_came_after_the_index_is_found_all_the_same(tmp_path):
    path = tmp_path / "s.zarr"
    vectors = clustered(1, 600, 8)
    store = write(path, vectors[:500], [f"p{j // 2}" for j in range(500)])
    make_index(store, store.find("texture"), "IVF4,RaBitQfs")
    # the last hundred, of which the first is of a patient that the index knows
    groups = ["p249", *(f"q{j}" for j in range(99))]
    write(path, vectors[500:], groups, start=500, spec=spec_of(8))
    store = Store.open(path)
    found = store.search("texture", ["i499"], k=5, exact=True)
    quick = store.search("texture", ["i499"], k=5)
    assert "100 vectors came after the index" in quick.notes[0]
    assert quick.kind == "IVF4,RaBitQfs"
    cosine = cosines_of(vectors, vectors[499])
    allowed = set(range(600)) - {498, 499, 500}
    expected = sorted(allowed, key=lambda j: -cosine[j])[:5]
    assert found.ids[0].tolist() == [f"i{j}" for j in expected]
    late = [f"i{j}" for j in expected if j >= 500]
    assert set(late) <= set(quick.ids[0].tolist())
    vectors_only = Searcher(store, store.find("texture"))
    twin = vectors_only.search(Asked(vectors[550:551]), 1)
    assert store.search("texture", vectors=vectors[550:551], k=1).ids[0, 0] == "i550"
    assert twin.ids[0, 0] == "i550"


def test_ids_are_looked_up_whatever_their_order(tmp_path):
    vectors = unit(0, 120, 3)
    store = write(tmp_path / "s.zarr", vectors, order=np.random.default_rng(0).permutation(120))
    searcher = store.searcher("texture")
    few = searcher.places_of([f"i{j}" for j in (3, 100, 21)])
    many = searcher.places_of([f"i{j}" for j in range(120)])
    np.testing.assert_array_equal(searcher.vectors[few], vectors[[3, 100, 21]])
    np.testing.assert_array_equal(searcher.vectors[many], vectors)

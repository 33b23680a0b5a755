"""Neighbours against numpy's argsort."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import DataError, UsageError
from embedstore.index import ExactIndex
from embedstore.search import neighbours
from embedstore.types import Embeddings, Recipe, Spec


def unit(seed, n, d):
    x = np.random.default_rng(seed).normal(size=(n, d))
    return (x / np.sqrt((x**2).sum(axis=1, keepdims=True))).astype(np.float32)


def made(vectors, groups, exams=None, files=None, dtype=np.float32):
    n = len(vectors)
    digests = np.zeros((n, 16), np.uint8)
    digests[:, 15] = np.arange(n) if files is None else files
    columns = {"exam": np.array(exams if exams is not None else [""] * n, dtype=str)}
    columns["birads"] = np.array([f"b{i}" for i in range(n)])
    return Embeddings(
        Spec("texture", "", Recipe(), "", vectors.shape[1]),
        np.array([f"i{i}" for i in range(n)]),
        vectors.astype(dtype),
        np.array(groups, dtype=str),
        digests,
        columns,
    )


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 80),
    d=st.integers(2, 40),
    m=st.sampled_from([1, 3, 40]),
    data=st.data(),
)
def test_exact_index_finds_what_argsort_finds_and_always_k(seed, n, d, m, data):
    rows, queries = unit(seed, n, d), unit(seed + 1, m, d)
    without = data.draw(st.lists(st.integers(0, n - 1), max_size=n - 1))  # repeats too
    left = np.setdiff1d(np.arange(n), without)
    k = data.draw(st.integers(1, len(left)))
    cosines, found = ExactIndex(rows).search(queries, k, np.array(without, dtype=np.intp))
    truth = queries.astype(np.float64) @ rows.T.astype(np.float64)
    assert cosines.shape == found.shape == (m, k)
    for i in range(m):
        assert not set(found[i]) & set(without)
        assert len(set(found[i])) == k
        np.testing.assert_allclose(cosines[i], truth[i, found[i]], atol=1e-6)
        np.testing.assert_allclose(cosines[i], -np.sort(-truth[i, left])[:k], atol=1e-6)


@pytest.mark.parametrize("m", [1, 64])
def test_order_is_that_of_argsort(m):
    rows, queries = unit(0, 500, 8), unit(1, m, 8)
    _, found = ExactIndex(rows).search(queries, 10)
    expected = np.argsort(-(queries.astype(np.float64) @ rows.T.astype(np.float64)), axis=1)
    np.testing.assert_array_equal(found, expected[:, :10])


def test_index_without_exclusions_can_find_the_query_itself():
    rows = unit(0, 30, 8)
    cosines, found = ExactIndex(rows).search(rows, 1)
    np.testing.assert_array_equal(found[:, 0], np.arange(30))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_cosines_never_leave_minus_one_to_one():
    rows = unit(3, 200, 300)
    rows = np.concatenate([rows, -rows])
    cosines, _ = ExactIndex(rows).search(rows, 400)
    assert np.abs(rows @ rows.T).max() > 1  # float32 alone would leave it
    assert np.abs(cosines).max() <= 1


@pytest.mark.parametrize("k", [-1, 0, 4, 99])
def test_k_beyond_what_is_left_is_refused(k):
    with pytest.raises(DataError, match=f"k is {k}; there are 3 vectors to choose from"):
        ExactIndex(unit(0, 5, 4)).search(unit(1, 1, 4), k, np.array([0, 4, 4]))


def test_vectors_that_are_not_numbers_are_refused():
    rows = unit(0, 5, 4)
    query = np.full((1, 4), np.nan, dtype=np.float32)
    with pytest.raises(DataError, match="NaN"):
        ExactIndex(rows).search(query, 2)
    rows[2] = np.nan
    with pytest.raises(DataError, match="NaN"):
        ExactIndex(rows).search(rows[:1], 5)


def test_index_survives_pickling():
    rows, queries = unit(0, 50, 8), unit(1, 4, 8)
    again = pickle.loads(pickle.dumps(ExactIndex(rows)))
    truth = np.argsort(-(queries @ rows.T), axis=1)[:, :5]
    np.testing.assert_array_equal(again.search(queries, 5)[1], truth)
    assert len(again) == 50


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("same_patient", [False, True])
@pytest.mark.parametrize("query", [0, 17, 59])
def test_neighbours_are_the_most_alike_of_those_that_count(query, same_patient, dtype):
    rng = np.random.default_rng(2)
    groups = [f"p{g}" if g else "" for g in rng.integers(0, 15, 60)]
    files = rng.integers(0, 200, 60)
    lengths = rng.uniform(0.5, 9, (60, 1))  # cosine must not care
    embeddings = made(unit(0, 60, 6) * lengths, groups, files=files, dtype=dtype)
    x = embeddings.vectors.astype(np.float64)
    cosine = x @ x[query] / np.linalg.norm(x, axis=1) / np.linalg.norm(x[query])
    allowed = set(range(60)) - {query}
    if not same_patient:
        links = [{query}]
        while not links[1:] or links[-1] != links[-2]:
            near = {
                j
                for j in range(60)
                for i in links[-1]
                if (groups[i] and groups[i] == groups[j]) or files[i] == files[j]
            }
            links.append(near | links[-1])
        allowed -= links[-1]
    expected = sorted(allowed, key=lambda j: -cosine[j])[:7]
    found = neighbours(embeddings, f"i{query}", 7, same_patient)
    assert [n.id for n in found] == [f"i{j}" for j in expected]
    assert [n.rank for n in found] == list(range(1, 8))
    assert [n.cosine for n in found] == pytest.approx(cosine[expected], abs=1e-5)
    assert [n.group for n in found] == [groups[j] for j in expected]
    assert [n.columns["birads"] for n in found] == [f"b{j}" for j in expected]


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
def test_no_image_of_the_same_patient_exam_or_file_is_found(groups, exams, files, expected):
    embeddings = made(TWINS, groups, exams, files)
    assert [n.id for n in neighbours(embeddings, "i0", 2)] == expected
    both = neighbours(embeddings, "i0", 5, same_patient=True)
    assert [n.id for n in both] == ["i1", "i2", "i3", "i4", "i5"]


def test_more_neighbours_than_other_patients_have_images_is_refused():
    embeddings = made(TWINS, ["p", "p", "q", "q", "r", "r"])
    assert len(neighbours(embeddings, "i0", 4)) == 4
    with pytest.raises(DataError, match="k is 5; there are 4"):
        neighbours(embeddings, "i0", 5)
    assert len(neighbours(embeddings, "i0", 5, same_patient=True)) == 5


def test_unknown_id_is_refused_with_an_example_of_one():
    with pytest.raises(UsageError, match=r"no image 'i6' among the 6 .* texture.* like 'i0'"):
        neighbours(made(TWINS, list("pqrstu")), "i6")


@pytest.mark.parametrize("zero", [0, 2])
def test_vector_of_zeros_has_cosine_zero_to_all(zero):
    vectors = TWINS.copy()
    vectors[zero] = 0
    found = neighbours(made(vectors, list("pqrstu")), "i0", 5)
    assert len(found) == 5
    if zero == 0:
        assert [n.cosine for n in found] == [0] * 5
    else:
        assert {n.id: n.cosine for n in found}["i2"] == 0

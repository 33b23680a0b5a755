"""The nearest of all, against numpy's argsort."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_stores import unit

from embedstore import exact
from embedstore.exact import Rules, nearest
from embedstore.rough import Rough


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 700),
    d=st.integers(2, 20),
    m=st.sampled_from([1, 3, 40]),
    half=st.booleans(),
    data=st.data(),
)
def test_it_is_what_argsort_finds_of_what_is_allowed(seed, n, d, m, half, data):
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(0.5, 9, (n, 1)).astype(np.float32)
    rows = (unit(seed, n, d) * lengths).astype(np.float16 if half else np.float32)
    queries = unit(seed + 1, m, d)
    truth = queries.astype(np.float64) @ rows.T.astype(np.float64)
    truth /= np.linalg.norm(rows.astype(np.float64), axis=1)
    inverse = (1 / np.linalg.norm(rows.astype(np.float64), axis=1)).astype(np.float32)
    allowed = np.ones((m, n), dtype=bool)
    among = sets = barred = None
    if data.draw(st.booleans(), "among"):
        among = np.flatnonzero(rng.random(n) < 0.6)
        allowed[:, np.setdiff1d(np.arange(n), among)] = False
    if data.draw(st.booleans(), "sets"):
        sets, barred = rng.integers(0, 9, n), rng.integers(-1, 9, (m, 2))
        allowed &= (sets != barred[:, :1]) & (sets != barred[:, 1:])
    k = data.draw(st.integers(1, n + 2), "k")
    rough = data.draw(st.booleans(), "in bfloat16 first")
    with patch.object(exact, "suits", lambda *_: rough):
        cosines, found = nearest(queries, rows, k, inverse, Rules(among, sets, barred))
    assert cosines.shape == found.shape == (m, k)
    for i in range(m):
        wanted = -np.sort(-truth[i, allowed[i]])[:k]
        given_, got = cosines[i, : len(wanted)], found[i, : len(wanted)]
        assert len(set(got)) == len(got)
        assert allowed[i, got].all()
        np.testing.assert_allclose(given_, wanted, atol=1e-6)
        np.testing.assert_allclose(given_, truth[i, got], atol=1e-6)
        assert (found[i, len(wanted) :] == -1).all()
        assert (cosines[i, len(wanted) :] == -np.inf).all()


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 10**6), d=st.sampled_from([2, 17, 512]))
def test_what_is_above_a_limit_is_never_missed_in_bfloat16(seed, d):
    rows, queries = unit(seed, 64, d), unit(seed + 1, 4, d)
    rows[:32] = np.abs(rows[:32])  # sums that do not cancel are the furthest off
    queries = np.abs(queries)
    truth = rows.astype(np.float64) @ queries.T.astype(np.float64)
    least = np.sort(truth, axis=0)[-8].astype(np.float32)
    line, query, _ = Rough(queries, 64).above(rows, None, least)
    found = set(zip(line.tolist(), query.tolist(), strict=True))
    assert set(map(tuple, np.argwhere(truth > least).tolist())) <= found
    assert len(found) < truth.size


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 600), k=st.integers(1, 12))
def test_one_of_each_number_is_its_best_row(seed, n, k):
    rng = np.random.default_rng(seed)
    rows, queries, number = unit(seed, n, 5), unit(seed + 1, 3, 5), rng.integers(0, 10, n)
    cosines, found = nearest(queries, rows, k, rules=Rules(one_of=number))
    truth = queries.astype(np.float64) @ rows.T.astype(np.float64)
    for i in range(3):
        best = sorted((truth[i, number == g].max() for g in np.unique(number)), reverse=True)[:k]
        np.testing.assert_allclose(cosines[i, : len(best)], best, atol=1e-6)
        got = found[i, : len(best)]
        assert len(set(number[got])) == len(got)
        assert (found[i, len(best) :] == -1).all()


@pytest.mark.parametrize("m", [1, 64])
@pytest.mark.parametrize("block", [1, 7, 8192])
def test_order_is_that_of_argsort_whatever_the_blocks(m, block, monkeypatch):
    monkeypatch.setattr(exact, "ROWS", block)
    monkeypatch.setattr(exact, "QUERIES", 10)
    rows, queries = unit(0, 500, 8), unit(1, m, 8)
    _, found = nearest(queries, rows, 10)
    expected = np.argsort(-(queries.astype(np.float64) @ rows.T.astype(np.float64)), axis=1)
    np.testing.assert_array_equal(found, expected[:, :10])


def test_equal_cosines_come_by_row():
    rows = np.repeat(np.eye(3, dtype=np.float32), 200, axis=0)[::-1]
    _, found = nearest(np.eye(3, dtype=np.float32)[:1], rows, 300)
    np.testing.assert_array_equal(found[0], [*range(400, 600), *range(100)])


def test_cosines_never_leave_minus_one_to_one():
    rows = unit(3, 200, 300)
    rows = np.concatenate([rows, -rows])
    cosines, _ = nearest(rows, rows, 400)
    assert np.abs(rows @ rows.T).max() > 1  # float32 alone would leave it
    assert np.abs(cosines).max() <= 1


def test_no_copy_is_made_of_rows_that_follow_one_another():
    rows = unit(0, 3000, 4)
    among = np.r_[0:2500, 2600:3000]
    blocks = list(exact._blocks(rows, among))
    assert np.concatenate([np.arange(3000)[at] for at, _ in blocks]).tolist() == among.tolist()
    assert np.shares_memory(blocks[0][1], rows)
    whole = list(exact._blocks(rows, None))
    assert all(np.shares_memory(block, rows) for _, block in whole)

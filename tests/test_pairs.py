"""Neighbours among all others against one product in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from embedstore import pairs
from embedstore.errors import DataError
from embedstore.pairs import all_neighbours
from embedstore.probes.knn import KNNProbe
from embedstore.types import unit_rows


def expected(unit, k, groups):
    cosines = unit.astype(np.float64) @ unit.astype(np.float64).T
    cosines[groups[:, None] == groups] = -9
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, rows, axis=1), cosines


@pytest.mark.parametrize("tile", [7, 32, 100, 4096])
@pytest.mark.parametrize(("n", "k", "size"), [(150, 5, 1), (151, 1, 4), (60, 56, 1), (2, 1, 1)])
def test_neighbours_are_numpys_whatever_the_tiles(n, k, size, tile, monkeypatch):
    monkeypatch.setattr(pairs, "TILE", tile)
    unit = unit_rows(np.random.default_rng(n).normal(size=(n, 6)))
    groups = np.arange(n) // size * 3
    cosines, rows = all_neighbours(unit, k, groups if size > 1 else None)
    best, every = expected(unit, k, groups)
    np.testing.assert_allclose(cosines, best, atol=1e-6)
    # rows may differ where two are equally near, not in how near they are
    np.testing.assert_allclose(np.take_along_axis(every, rows, axis=1), best, atol=1e-6)
    assert all(len(set(row)) == k for row in rows.tolist())
    assert (groups[rows] != groups[:, None]).all()


def test_copies_of_a_row_are_its_neighbours_but_not_the_row_itself():
    unit = unit_rows(np.random.default_rng(0).normal(size=(40, 5)))
    twice = np.concatenate([unit, unit])
    _, rows = all_neighbours(twice, 1)
    np.testing.assert_array_equal(rows[:, 0], (np.arange(80) + 40) % 80)
    _, apart = all_neighbours(twice, 1, np.arange(80) % 40)
    assert (apart[:, 0] % 40 != np.arange(80) % 40).all()


def test_every_pair_of_blocks_meets_once_and_never_twice_in_a_round():
    for n in (1, 2, 5, 8):
        rounds = pairs._rounds(n)
        met = [pair for one in rounds for pair in one]
        assert sorted(met) == [(i, j) for i in range(n) for j in range(i, n)]
        for one in rounds:
            blocks = [b for pair in one for b in set(pair)]
            assert len(blocks) == len(set(blocks))


def test_leave_one_out_is_fitting_without_each_row():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.integers(0, 3, 50)
    patients = np.arange(50) // 2
    probe = KNNProbe(n_neighbors=5)
    alone, apart = probe.leave_one_out(x, y), probe.leave_one_out(x, y, patients)
    for i in range(50):
        for p, others in ((alone, np.arange(50) != i), (apart, patients != patients[i])):
            fitted = KNNProbe(n_neighbors=5).fit(x[others], y[others])
            np.testing.assert_allclose(p[i], fitted.predict_proba(x[i : i + 1])[0], atol=1e-5)


def test_too_few_others_and_broken_vectors_are_refused():
    unit = unit_rows(np.random.default_rng(0).normal(size=(10, 3)))
    with pytest.raises(DataError, match="k is 10; there are 9 vectors to choose from"):
        all_neighbours(unit, 10)
    with pytest.raises(DataError, match="k is 6; there are 5"):
        all_neighbours(unit, 6, np.arange(10) // 5)
    unit[3, 1] = np.nan
    with pytest.raises(DataError, match="NaN or infinity"):
        all_neighbours(unit, 2)

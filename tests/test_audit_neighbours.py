"""Near-identical images: distances against numpy, and how often chance is taken for a pair."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.preprocessing import StandardScaler, normalize

from embedstore.audit import neighbours
from embedstore.audit.neighbours import K, near_identical, nearest


def spread(n: int, dimension: int, seed: int, d: int = 24) -> np.ndarray:
    """Even on a flat torus of some dimensions, so that nothing is at an edge; d numbers."""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, 2 * np.pi, (n, dimension))
    made = np.hstack([np.cos(angles), np.sin(angles)])
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0][: 2 * dimension]
    return (made @ turn).astype(np.float32)


def alone(n: int) -> np.ndarray:
    return np.arange(n)


def test_neighbours_are_the_nearest_of_other_patients() -> None:
    vectors, groups = spread(200, 5, 0), np.repeat(np.arange(50), 4)
    near = nearest(vectors, groups)
    unit = normalize(StandardScaler().fit_transform(vectors.astype(np.float64)))
    distances = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    distances[groups[:, None] == groups] = np.inf
    np.testing.assert_allclose(near.distances, np.sort(distances, axis=1)[:, :K], atol=1e-5)
    assert (groups[near.rows] != groups[:, None]).all()
    np.testing.assert_allclose(
        near.cosines, np.take_along_axis(unit @ unit.T, near.rows, axis=1), atol=1e-5
    )


@pytest.mark.parametrize("dimension", [2, 5, 10])
def test_an_even_collection_is_said_to_have_pairs_once_in_a_hundred(dimension: int) -> None:
    runs = 150
    alarms = sum(
        bool(near_identical(nearest(spread(200, dimension, seed), alone(200))))
        for seed in range(runs)
    )
    assert alarms <= binom.ppf(0.9999, runs, 0.01)


def test_a_laxer_test_does_raise_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "FALSE_ALARMS", 1.0)
    runs = 40
    alarms = sum(
        bool(near_identical(nearest(spread(200, 5, seed), alone(200)))) for seed in range(runs)
    )
    assert binom.ppf(0.001, runs, 0.3) <= alarms


@pytest.mark.parametrize("twins", [1, 60, 150])
def test_planted_twins_are_found_and_nothing_else(twins: int) -> None:
    vectors = spread(300, 6, 1)
    noise = np.random.default_rng(2).normal(0, 0.002, (twins, vectors.shape[1]))
    both = np.vstack([vectors, vectors[:twins] + noise]).astype(np.float32)
    found = near_identical(nearest(both, alone(len(both))))
    assert {(p.one, p.other) for p in found} == {(i, 300 + i) for i in range(twins)}
    assert all(p.certain for p in found)


def test_images_of_one_patient_are_no_pair() -> None:
    vectors = spread(300, 6, 1)
    both = np.vstack([vectors, vectors[:1] + 1e-4]).astype(np.float32)
    assert near_identical(nearest(both, np.append(alone(300), 0))) == []


def test_equal_vectors_are_pairs_even_where_all_are_equal() -> None:
    vectors = spread(300, 6, 1)
    vectors[:12] = vectors[0]
    found = near_identical(nearest(vectors, alone(300)))
    assert {p.one for p in found} | {p.other for p in found} == set(range(12))
    assert {p.share for p in found} == {0.0}


def test_too_few_patients_are_not_judged() -> None:
    assert nearest(spread(40, 3, 0), np.repeat([0, 1, 2, 3], 10)) is not None
    assert nearest(spread(40, 3, 0), np.repeat([0, 1], 20)) is None
    assert nearest(spread(29, 3, 0), alone(29)) is None


def test_of_many_images_whole_patients_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MOST", 100)
    groups = np.repeat(np.arange(60), 5)
    vectors = spread(300, 6, 3)
    near = nearest(vectors, groups)
    drawn = np.bincount(groups[near.at], minlength=60)
    assert len(near.at) == 100
    assert set(drawn.tolist()) == {0, 5}
    assert np.isin(near.rows, near.at).all()

"""Erasure of a concept: its two defining properties, against a general solver and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from embedstore.audit.erasure import Eraser

SHAPES = [(400, 6, 2), (400, 6, 3), (40, 60, 2), (300, 20, 5)]


def drawn(n: int, d: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns of different scales, and a concept that moves some of them."""
    rng = np.random.default_rng(n + d + k)
    concept = rng.integers(0, k, n)
    vectors = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.geomspace(0.1, 10, d)
    vectors += 2 * rng.normal(size=(k, d))[concept]
    return vectors + 5, concept


def covariances(vectors: np.ndarray, concept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shown = np.eye(concept.max() + 1)[concept]
    d = vectors.shape[1]
    every = np.cov(np.hstack([vectors, shown]).T, bias=True)
    return every[:d, :d], every[:d, d:]


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_of_the_concept_is_left_in_the_covariance(shape: tuple[int, int, int]) -> None:
    vectors, concept = drawn(*shape)
    erased = Eraser.fit(vectors, concept)(vectors)
    before, after = (np.abs(covariances(v, concept)[1]).max() for v in (vectors, erased))
    assert before > 0.1
    assert after < 1e-9 * before


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] > s[1]])
def test_it_is_the_least_change_of_all_affine_maps_that_do_so(shape: tuple[int, int, int]) -> None:
    vectors, concept = drawn(*shape)
    n, d, k = shape
    covariance, cross = covariances(vectors, concept)
    # row i of A minimises (e_i - a)' S (e_i - a) with C' a = 0; its Lagrange conditions are linear;
    # the last class follows from the others
    constraint = cross[:, : k - 1]
    zero = np.zeros((k - 1, k - 1))
    system = np.block([[covariance, constraint], [constraint.T, zero]])
    right = np.vstack([covariance, np.zeros((k - 1, d))])
    best = np.linalg.solve(system, right)[:d].T
    expected = vectors.mean(axis=0) + (vectors - vectors.mean(axis=0)) @ best.T
    np.testing.assert_allclose(Eraser.fit(vectors, concept)(vectors), expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_linear_reader_fitted_to_what_is_left_answers_with_a_constant(
    shape: tuple[int, int, int],
) -> None:
    vectors, concept = drawn(*shape)
    found = []
    for seen in (vectors, Eraser.fit(vectors, concept)(vectors)):
        scaled = StandardScaler().fit_transform(seen)
        reader = LogisticRegression(C=1, tol=1e-10, max_iter=5000).fit(scaled, concept)
        found.append(np.abs(reader.coef_).max())
    assert found[0] > 0.05
    assert found[1] < 1e-6


def test_rows_that_were_not_learnt_from_are_mapped_by_the_same_map() -> None:
    vectors, concept = drawn(400, 6, 3)
    eraser = Eraser.fit(vectors[:300], concept[:300])
    whole = eraser(vectors)
    np.testing.assert_allclose(eraser(vectors[300:]), whole[300:])
    np.testing.assert_allclose(eraser(whole), whole, atol=1e-9)


def test_a_concept_that_is_not_there_changes_nothing() -> None:
    vectors = np.repeat(np.random.default_rng(0).normal(size=(50, 4)), 2, axis=0)
    concept = np.tile([0, 1], 50)  # each vector once with either
    np.testing.assert_allclose(Eraser.fit(vectors, concept)(vectors), vectors, atol=1e-9)

"""The batched logistic solver against scikit-learn, SciPy's optimum and optimality itself."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from embedstore.solver import rows as solver_rows
from embedstore.solver import solve
from embedstore.solver.threads import crew

CS = np.logspace(-4, 3, 8)


def embedded(n, d, k, seed=0, signal=1.5, dtype=np.float64):
    """Correlated columns of unequal scale with a decaying spectrum, and labels by a noisy rule."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.normal(size=(d, d)))[0]
    latent = rng.normal(size=(n, d)) / np.sqrt(np.arange(1, d + 1))
    logits = latent @ rng.normal(size=(d, k))
    y = (signal * logits / logits.std() + rng.gumbel(size=(n, k))).argmax(axis=1)
    y[:k] = np.arange(k)
    x = latent @ turned * rng.uniform(0.2, 5, d) + rng.normal(size=d)
    return x.astype(dtype), y


def penalised(x, y, weight, coef, intercept, C):
    """Return the penalised loss of symmetric weights (k, d), in float64."""
    logits = x.astype(np.float64) @ coef.T + intercept
    each = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    w = coef if len(coef) > 2 else coef[1] - coef[0]
    return (weight * each).sum() + (w**2).sum() / (2 * C)


def theirs(x, y, weight, C, tol=1e-8):
    """Return scikit-learn's penalised loss and symmetric weights."""
    model = LogisticRegression(C=C, tol=tol, max_iter=10_000, solver="newton-cholesky")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it falls back to another solver, and says so
        model.fit(x.astype(np.float64), y, sample_weight=weight)
    coef, intercept = model.coef_, model.intercept_
    if len(coef) == 1:
        coef, intercept = np.vstack([-coef, coef]) / 2, np.hstack([-intercept, intercept]) / 2
    return penalised(x, y, weight, coef, intercept, C), coef, intercept


def by_fold(n, folds):
    return (np.arange(n) % folds != np.arange(folds)[:, None]).astype(float)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d", "k"), [(600, 20, 2), (600, 30, 4), (60, 100, 3), (60, 90, 2)])
def test_every_fold_and_c_reaches_scikit_learns_optimum(n, d, k, dtype):
    x, y = embedded(n, d, k, dtype=dtype)
    folds = by_fold(n, 3)
    found = solve(x, y, folds, CS, standardize=True)
    assert found.converged.all()
    for f, weight in enumerate(folds):
        train = weight > 0
        z = StandardScaler().fit(x[train].astype(np.float64)).transform(x.astype(np.float64))
        np.testing.assert_allclose(
            found.logits(x, f)[3],
            z @ found.coef[f, 3].T + found.intercept[f, 3],
            atol=1e-5,
        )
        for c, C in enumerate(CS):
            best, *_ = theirs(z[train], y[train], weight[train], C)
            ours = penalised(z, y, weight, found.coef[f, c], found.intercept[f, c], C)
            assert ours <= best * (1 + 1e-6)
            assert found.loss[f, c] == pytest.approx(ours, rel=1e-6)


@pytest.mark.parametrize("k", [2, 4])
def test_weights_of_rows_count_as_scikit_learns(k):
    x, y = embedded(400, 12, k)
    rng = np.random.default_rng(1)
    weight = rng.uniform(0.1, 4, 400) * (rng.random(400) > 0.3)
    weight[: 2 * k] = 1
    found = solve(x, y, weight[None], [0.3], tol=1e-12)
    _, coef, intercept = theirs(x[weight > 0], y[weight > 0], weight[weight > 0], 0.3)
    np.testing.assert_allclose(found.coef[0, 0], coef, atol=1e-4 * np.abs(coef).max())
    np.testing.assert_allclose(
        found.intercept[0, 0] - found.intercept[0, 0].mean(),
        intercept - intercept.mean(),
        atol=1e-4 * np.abs(intercept).max(),
    )


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(("n", "d"), [(500, 10), (40, 60)])
def test_the_slope_is_nothing_where_it_ends(n, d, standardize):
    x, y = embedded(n, d, 3)
    found = solve(x, y, np.ones((1, n)), [0.1, 10], standardize, tol=1e-13)
    z = (x - found.mean[0]) / found.scale[0]
    for c, C in enumerate([0.1, 10]):
        logits = z @ found.coef[0, c].T + found.intercept[0, c]
        residual = np.exp(logits - logsumexp(logits, axis=1, keepdims=True)) - np.eye(3)[y]
        assert np.abs(residual.T @ z + found.coef[0, c] / C).max() < 1e-4 * np.abs(z).sum(0).max()
        assert np.abs(residual.sum(axis=0)).max() < 1e-4 * n
        assert np.abs(residual.T @ z).max() > 0.01  # so that the balance is one


def test_classes_that_are_parted_without_error_are_fitted_to_the_same_loss():
    x, y = embedded(3000, 30, 3, signal=200, dtype=np.float32)
    found = solve(x, y, np.ones((1, 3000)), [1e-2, 1, 1e2], standardize=True)
    z = StandardScaler().fit_transform(x.astype(np.float64))
    for c, C in enumerate([1e-2, 1, 1e2]):
        best, *_ = theirs(z, y, np.ones(3000), C)
        ours = penalised(z, y, np.ones(3000), found.coef[0, c], found.intercept[0, c], C)
        assert ours <= best * (1 + 2e-6)


def test_one_c_alone_gives_what_the_way_through_all_gives():
    x, y = embedded(500, 20, 3)
    together = solve(x, y, np.ones((1, 500)), CS[::-1], tol=1e-12)
    alone = solve(x, y, np.ones((1, 500)), CS[2:3], tol=1e-12)
    best = np.abs(alone.coef).max()
    np.testing.assert_allclose(together.coef[0, -3], alone.coef[0, 0], atol=1e-4 * best)
    assert list(together.loss[0]) == sorted(together.loss[0])  # Cs fall, so the penalty weighs more


def test_a_class_that_a_fold_lacks_has_no_probability_there():
    x, y = embedded(300, 8, 3)
    folds = np.ones((2, 300))
    folds[1, y == 1] = 0
    found = solve(x, y, folds, [0.5], tol=1e-12)
    assert (found.intercept[1, 0] == -np.inf).tolist() == [False, True, False]
    kept = y != 1
    _, coef, _ = theirs(x[kept], (y[kept] == 2).astype(int), np.ones(kept.sum()), 0.5)
    np.testing.assert_allclose(found.coef[1, 0, [0, 2]], coef, atol=1e-4 * np.abs(coef).max())
    assert (found.coef[1, 0, 1] == 0).all()


def test_constant_columns_weigh_nothing_and_change_nothing():
    x, y = embedded(200, 6, 3, dtype=np.float32)
    flat = np.hstack([x, np.full((200, 2), 0.1, np.float32), np.full((200, 1), -1e4, np.float32)])
    one = solve(x, y, by_fold(200, 2), CS, standardize=True)
    two = solve(flat, y, by_fold(200, 2), CS, standardize=True)
    np.testing.assert_allclose(two.loss, one.loss, rtol=1e-6)
    assert (two.scale[:, 6:] == 1).all()
    assert np.isfinite(two.coef).all()


def test_known_log_odds_are_added():
    x, y = embedded(300, 5, 3)
    offset = np.random.default_rng(0).normal(size=(300, 3))
    found = solve(x, y, np.ones((1, 300)), [1.0], offset=offset, tol=1e-13)
    logits = x @ found.coef[0, 0].T + found.intercept[0, 0] + offset
    residual = np.exp(logits - logsumexp(logits, axis=1, keepdims=True)) - np.eye(3)[y]
    np.testing.assert_allclose(residual.T @ x, -found.coef[0, 0], atol=1e-3)
    without = x @ found.coef[0, 0].T + found.intercept[0, 0]
    wrong = np.exp(without - logsumexp(without, axis=1, keepdims=True)) - np.eye(3)[y]
    assert np.abs(wrong.T @ x + found.coef[0, 0]).max() > 1


@pytest.mark.parametrize("shift", [0, 1e3])
def test_far_off_columns_lose_no_digits_in_float32(shift):
    x, y = embedded(2000, 10, 3)
    moved = (x + shift).astype(np.float32)
    found = solve(moved, y, np.ones((1, 2000)), [1.0], standardize=True)
    z = StandardScaler().fit_transform(moved.astype(np.float64))
    best, *_ = theirs(z, y, np.ones(2000), 1.0)
    ours = penalised(z, y, np.ones(2000), found.coef[0, 0], found.intercept[0, 0], 1.0)
    assert ours <= best * (1 + 1e-6)


def test_rows_sorted_by_fold_sum_to_what_one_matrix_product_gives():
    n, d, k = 9000, 7, 3
    x, y = embedded(n, d, k)
    rng = np.random.default_rng(3)
    weight = by_fold(n, 4) * rng.uniform(0.5, 2, n)
    with crew(2) as hands:
        rows = solver_rows.Rows(x, y, weight, None, "cpu", hands)
        assert len(rows.spans) == 4  # each leaves one fold out
        v, b = torch.randn(4, 2, d).double(), torch.randn(4, 2).double()
        loss, by_v, by_b = rows.loss(v, b, torch.ones(4, dtype=torch.bool))
        some = rows.loss(v, b, torch.tensor([True, False, True, False]))
    for part, whole in zip(some, (loss, by_v, by_b), strict=True):
        np.testing.assert_allclose(part[::2], whole[::2], rtol=1e-12)
        assert not part[1::2].any()
    for f in range(4):
        coef = np.vstack([v[f].numpy(), np.zeros(d)])
        logits = (x - rows.centre.numpy()) @ coef.T + np.append(b[f].numpy(), 0)
        log_p = logits - logsumexp(logits, axis=1, keepdims=True)
        assert float(loss[f]) == pytest.approx(-(weight[f] * log_p[np.arange(n), y]).sum())
        residual = weight[f][:, None] * (np.exp(log_p) - np.eye(k)[y])
        np.testing.assert_allclose(by_b[f], residual.sum(axis=0)[:2], rtol=1e-9)
        expected = residual.T[:2] @ (x - rows.centre.numpy())
        np.testing.assert_allclose(by_v[f], expected, rtol=1e-8, atol=1e-8)


def test_the_same_call_gives_the_same_bits_and_leaves_torchs_threads_alone():
    x, y = embedded(6000, 100, 3, dtype=np.float32)
    before = torch.get_num_threads()
    one, two = (solve(x, y, by_fold(6000, 3), CS[:4], True) for _ in range(2))
    np.testing.assert_array_equal(one.coef, two.coef)
    assert torch.get_num_threads() == before


def test_folds_within_folds_are_found_in_a_few_passes_however_rows_are_laid_out():
    # rows evenly spaced are all of one fold, so that a sample of such would know nothing of others
    x, y = embedded(10_000, 24, 4, dtype=np.float32)
    outer = np.arange(10_000) % 5
    inner = np.random.default_rng(0).integers(0, 3, (5, 10_000))
    folds = [(outer != f) & (inner[f] != g) for f in range(5) for g in (-1, 0, 1, 2)]
    found = solve(x, y, np.array(folds, float), CS, standardize=True)
    assert found.converged.all()
    assert found.n_iter.sum(axis=1).max() < 2 * np.median(found.n_iter.sum(axis=1)) < 200
    for f in (0, 3, 19):
        z = StandardScaler().fit_transform(x[folds[f]].astype(np.float64))
        for c in (0, 4):
            label, one = y[folds[f]], np.ones(len(z))
            best, *_ = theirs(z, label, one, CS[c])
            ours = penalised(z, label, one, found.coef[f, c], found.intercept[f, c], CS[c])
            assert ours <= best * (1 + 1e-6)


def test_a_small_fold_beside_large_ones_is_found_too():
    x, y = embedded(9000, 8, 3)
    folds = np.ones((2, 9000))
    folds[1, 20:] = 0
    found = solve(x, y, folds, CS)
    assert found.converged.all()
    best, *_ = theirs(x[:20], y[:20], np.ones(20), CS[3])
    ours = penalised(x[:20], y[:20], np.ones(20), found.coef[1, 3], found.intercept[1, 3], CS[3])
    assert ours <= best * (1 + 1e-6)


def test_a_thousand_classes():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, 16))
    y = np.tile(np.arange(1000), 3)
    x = (centres[y] + 0.1 * rng.normal(size=(3000, 16))).astype(np.float32)
    found = solve(x, y, np.ones((1, 3000)), [1.0], tol=1e-4)
    assert found.converged.all()
    assert (found.logits(x, 0)[0].argmax(axis=1) == y).mean() > 0.95


def test_a_fold_of_one_class_is_refused_by_number():
    x, y = embedded(50, 4, 2)
    folds = np.ones((2, 50))
    folds[1, y == 0] = 0
    with pytest.raises(ValueError, match="fold 1 trains fewer than two classes"):
        solve(x, y, folds, [1.0])


def test_too_few_passes_are_owned_up_to():
    x, y = embedded(300, 20, 3)
    found = solve(x, y, np.ones((1, 300)), [1e3], max_iter=2)
    assert not found.converged.any()
    assert found.n_iter.max() == 2

"""Heads against scikit-learn's checks, its logistic regression and a vote counted by hand."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedstore.probes.knn import KNNProbe
from embedstore.probes.logistic import LogisticProbe


@parametrize_with_checks(
    [LogisticProbe(), LogisticProbe(C=10, class_weight="balanced"), KNNProbe()]
)
def test_head_keeps_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


def cohort(seed, n=90, d=7, k=3):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    return rng.normal(size=(n, d)) + rng.normal(size=(k, d))[y], y


def voted(x, y, queries, n_neighbors, temperature):
    """Softmax of cosine over temperature among the nearest, summed by class, one by one."""
    classes = sorted(set(y))
    out = []
    for q in queries:
        cosines = [float(q @ row / (np.linalg.norm(q) * np.linalg.norm(row))) for row in x]
        nearest = sorted(range(len(x)), key=lambda i: -cosines[i])[:n_neighbors]
        top = max(cosines[i] for i in nearest)
        weight = {i: np.exp((cosines[i] - top) / temperature) for i in nearest}
        votes = [sum(w for i, w in weight.items() if y[i] == c) for c in classes]
        out.append(np.array(votes) / sum(votes))
    return np.array(out)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n_neighbors=st.integers(1, 100),
    temperature=st.floats(0.03, 100),
    k=st.integers(2, 5),
)
def test_knn_probabilities_are_the_softmax_votes_of_the_nearest(seed, n_neighbors, temperature, k):
    x, y = cohort(seed, k=k)
    queries, _ = cohort(seed + 1, n=9, k=k)
    probe = KNNProbe(n_neighbors, temperature).fit(x, y)
    expected = voted(x, y, queries, n_neighbors, temperature)
    np.testing.assert_allclose(probe.predict_proba(queries), expected, atol=1e-4)
    clear = np.sort(expected, axis=1)[:, -1] - np.sort(expected, axis=1)[:, -2] > 1e-3
    np.testing.assert_array_equal(probe.predict(queries)[clear], expected.argmax(1)[clear])


def test_knn_does_not_care_for_the_length_of_vectors():
    x, y = cohort(0)
    lengths = np.random.default_rng(1).uniform(0.01, 100, (len(x), 1))
    a = KNNProbe().fit(x, y).predict_proba(x[:9])
    b = KNNProbe().fit(x * lengths, y).predict_proba(x[:9] * 7)
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_knn_at_tiny_temperature_answers_as_the_one_nearest():
    x, y = cohort(0)
    queries, _ = cohort(1, n=30)
    nearest = (
        (queries / np.linalg.norm(queries, axis=1, keepdims=True))
        @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    ).argmax(axis=1)
    probe = KNNProbe(temperature=1e-9).fit(x, y)
    np.testing.assert_array_equal(probe.predict(queries), y[nearest])
    assert np.isfinite(probe.predict_proba(queries)).all()


def test_knn_of_a_zero_vector_is_a_vote_with_equal_say():
    x, y = cohort(0)
    shares = KNNProbe(n_neighbors=len(x)).fit(x, y).predict_proba(np.zeros((1, 7)))
    np.testing.assert_allclose(shares[0], np.bincount(y) / len(y))


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("weight", [None, "balanced", {"dense": 3, "fatty": 0.5}])
@pytest.mark.parametrize("C", [0.01, 1.0])
def test_logistic_is_scikit_learns(C, weight, k):
    x, y = cohort(3, k=k)
    names = np.array(["dense", "fatty", "mixed", "other"])
    ours = LogisticProbe(C=C, class_weight=weight, tol=1e-13).fit(x, names[y])
    theirs = LogisticRegression(C=C, class_weight=weight, max_iter=1000, tol=1e-9).fit(x, names[y])
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    assert ours.coef_.shape == theirs.coef_.shape
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-5)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))


@pytest.mark.parametrize("weight", [None, "balanced"])
def test_logistic_grid_is_one_pipeline_for_each_c_and_split(weight):
    x, y = cohort(4, n=120, d=9)
    x, y = x * np.arange(1, 10) + 5, y.astype(str)
    splits = list(StratifiedKFold(4, shuffle=True, random_state=0).split(x, y))
    splits.append((np.flatnonzero(y != "1"), np.arange(9)))  # trains two classes of three
    grid = {"C": [1.0, 0.01, 0.1], "class_weight": [weight, None]}
    found = LogisticProbe(tol=1e-12).fit_grid(x, y, splits, grid)
    tried = [{"C": C, "class_weight": w} for C in grid["C"] for w in grid["class_weight"]]
    assert len(found) == len(tried)
    for of_point, point in zip(found, tried, strict=True):
        for (p, classes), (train, test) in zip(of_point, splits, strict=True):
            model = LogisticRegression(**point, max_iter=1000, tol=1e-9)
            pipe = make_pipeline(StandardScaler(), model).fit(x[train], y[train])
            np.testing.assert_array_equal(classes, pipe.classes_)
            np.testing.assert_allclose(p, pipe.predict_proba(x[test]), atol=1e-5)


def test_logistic_that_stops_early_says_so():
    with pytest.warns(ConvergenceWarning, match="in 1 passes; give a larger max_iter"):
        LogisticProbe(C=1e3, max_iter=1).fit(*cohort(0))


def test_logistic_is_at_the_minimum_of_the_penalised_likelihood():
    x, y = cohort(5)
    probe = LogisticProbe(C=0.05).fit(x, y)
    logits = x @ probe.coef_.T + probe.intercept_
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    slope = (p - np.eye(3)[y]).T
    assert np.abs(0.05 * slope @ x + probe.coef_).max() < 2e-2
    assert np.abs(slope.sum(axis=1)).max() < 2e-2
    assert np.abs(0.05 * slope @ x).max() > 0.1  # so that the balance is one


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (KNNProbe(n_neighbors=0), "n_neighbors is 0"),
        (KNNProbe(n_neighbors=-3), "n_neighbors is -3"),
        (KNNProbe(n_neighbors=2.5), "n_neighbors is 2.5"),
        (KNNProbe(temperature=0), "temperature is 0"),
        (KNNProbe(temperature=-0.1), "temperature is -0.1"),
        (KNNProbe(temperature=float("nan")), "temperature is nan"),
        (LogisticProbe(C=0), "C is 0; give a number above 0"),
        (LogisticProbe(C=-2.5), "C is -2.5"),
        (LogisticProbe(tol=0), "tol is 0"),
        (LogisticProbe(max_iter=-1), "max_iter is -1"),
        (LogisticProbe(class_weight="equal"), "class_weight. .* Got .equal. instead"),
    ],
)
def test_bad_parameters_are_refused_by_name_and_value(probe, message):
    with pytest.raises(ValueError, match=message):
        probe.fit(*cohort(0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("make", [KNNProbe, LogisticProbe])
def test_vectors_that_are_not_numbers_are_refused(make, bad):
    x, y = cohort(0)
    probe = make().fit(x, y)
    x[3, 2] = bad
    with pytest.raises(ValueError, match="NaN|infinity"):
        probe.predict_proba(x)
    with pytest.raises(ValueError, match="NaN|infinity"):
        make().fit(x, y)


@pytest.mark.parametrize("make", [KNNProbe, LogisticProbe])
def test_pickled_head_answers_alike(make):
    x, y = cohort(0)
    probe = make().fit(x, y)
    again = pickle.loads(pickle.dumps(probe))
    np.testing.assert_array_equal(again.predict_proba(x), probe.predict_proba(x))


@pytest.mark.parametrize(
    ("make", "grid"),
    [(KNNProbe, {"n_neighbors": [1, 5]}), (LogisticProbe, {"C": [0.01, 1.0]})],
)
def test_head_works_in_scikit_learns_searches(make, grid):
    x, y = cohort(0)
    search = GridSearchCV(make(), grid, cv=3).fit(x, y)
    (name, tried) = next(iter(grid.items()))
    means = [cross_val_score(clone(make(**{name: v})), x, y, cv=3).mean() for v in tried]
    assert search.best_params_[name] == tried[int(np.argmax(means))]
    assert search.best_score_ == pytest.approx(max(means))
    assert max(means) > 0.5

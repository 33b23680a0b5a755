"""Metrics against scikit-learn, published figures and explicit loops over patients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.dummy import DummyClassifier

from embedstore import metrics

PUBLISHED = np.array([[70, 15, 0, 1], [14, 58, 10, 4], [3, 16, 50, 22], [0, 0, 25, 68]])


def reference(truth, probabilities, weight=None):
    """All five metrics by scikit-learn, on rows repeated as often as `weight` says."""
    rows = np.repeat(np.arange(len(truth)), np.ones(len(truth), int) if weight is None else weight)
    y, p = truth[rows], probabilities[rows]
    k, answer = p.shape[1], p.argmax(axis=1)
    present = [c for c in range(k) if 0 < (y == c).sum() < len(y)]
    recalls = [(answer[y == c] == c).mean() for c in np.unique(y)]
    return {
        "accuracy": sk.accuracy_score(y, answer),
        "balanced_accuracy": np.mean(recalls),
        "macro_f1": sk.f1_score(y, answer, average="macro", zero_division=0),
        "quadratic_kappa": sk.cohen_kappa_score(
            y, answer, labels=np.arange(k), weights="quadratic"
        ),
        "auroc": np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in present]),
    }


def drawn(seed, n=60, k=4, levels=0):
    """Random truth with every class, and probabilities; `levels` > 0 makes many ties."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    p = rng.dirichlet(np.ones(k), n) + 0.4 * np.eye(k)[truth]
    if levels:
        p = np.round(p * levels) / levels + 0.01
    return truth, p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("levels", [0, 3], ids=["untied", "tied"])
@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_metric_equals_scikit_learn_on_rows_repeated_by_weight(seed, k, levels):
    truth, p = drawn(seed, k=k, levels=levels)
    weights = np.random.default_rng(seed + 10).multinomial(60, np.full(60, 1 / 60), size=8)
    weights[:, :k] += 1  # every class present
    weights = np.concatenate([np.ones((1, 60), int), weights])
    ours = metrics.resampled(truth, p, weights.astype(float))
    assert set(ours) == set(reference(truth, p))
    for b, weight in enumerate(weights):
        for name, value in reference(truth, p, weight).items():
            assert ours[name][b] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("k", [3, 4])
def test_auroc_equals_scikit_learns_own_macro_ovr(k):
    truth, p = drawn(5, k=k)
    value = metrics.auroc(truth, p, np.ones((1, len(truth))))[0]
    expected = sk.roc_auc_score(truth, p, multi_class="ovr", average="macro")
    assert value == pytest.approx(expected, abs=1e-12)


def test_balanced_accuracy_equals_scikit_learns_own():
    truth, p = drawn(6)
    value = metrics.resampled(truth, p, np.ones((1, 60)))["balanced_accuracy"][0]
    assert value == pytest.approx(sk.balanced_accuracy_score(truth, p.argmax(1)), abs=1e-12)


def test_auroc_of_two_classes_is_of_the_second_even_where_the_first_saturates():
    tiny = np.array([1e-12, 3e-12, 2e-12, 4e-12, 5e-12, 6e-12])
    p = np.stack([1 - tiny, tiny], axis=1).astype(np.float32)  # the first column is all ones
    truth = np.array([0, 0, 1, 0, 1, 1])
    value = metrics.auroc(truth, p, np.ones((1, 6)))[0]
    assert value == pytest.approx(sk.roc_auc_score(truth, tiny))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_weighted_binary_auroc_equals_counting_pairs(data):
    n = data.draw(st.integers(2, 12))
    score = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))) / 4
    truth = np.array(
        [0, 1, *data.draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))]
    )
    weight = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    pairs = won = 0.0
    for i in np.flatnonzero(truth == 1):
        for j in np.flatnonzero(truth == 0):
            w = weight[i] * weight[j]
            pairs += w
            won += w * ((score[i] > score[j]) + (score[i] == score[j]) / 2)
    value = metrics.auroc(truth, np.stack([1 - score, score], 1), weight[None].astype(float))[0]
    if pairs:
        assert value == pytest.approx(won / pairs)
    else:
        assert np.isnan(value)


@pytest.mark.parametrize(
    ("metric", "expected", "digits"),
    [
        (metrics.quadratic_kappa, 0.845, 3),
        (metrics.accuracy, 0.691, 3),
        (metrics.macro_f1, np.mean([0.81, 0.66, 0.57, 0.72]), 2),
    ],
)
def test_published_confusion_matrix_gives_the_published_figures(metric, expected, digits):
    value = metric(PUBLISHED[None].astype(float))[0]
    assert round(float(value), digits) == pytest.approx(expected, abs=0.5001 * 10**-digits)


def test_confusion_equals_scikit_learns():
    truth, p = drawn(2)
    weight = np.random.default_rng(0).integers(0, 4, len(truth)).astype(float)
    ours = metrics.confusion(truth, p.argmax(1), 4, weight[None])[0]
    theirs = sk.confusion_matrix(truth, p.argmax(1), labels=range(4), sample_weight=weight)
    np.testing.assert_array_equal(ours, theirs)


def test_class_absent_from_a_resample_is_left_out_of_the_means():
    truth, p = drawn(3, k=3)
    weight = (truth != 2).astype(int)
    ours = metrics.resampled(truth, p, weight[None].astype(float))
    for name, value in reference(truth, p, weight).items():
        assert ours[name][0] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize(("only", "kappa"), [(0, 0.0), (1, 0.0)])
def test_resample_of_one_class_has_no_auroc_and_no_kappa_beyond_chance(only, kappa):
    truth, p = drawn(4, k=2)
    keep = (truth == only) & (p.argmax(1) == only)
    ours = metrics.resampled(truth, p, keep[None].astype(float))
    assert np.isnan(ours["auroc"][0])
    assert ours["quadratic_kappa"][0] == kappa
    assert ours["accuracy"][0] == 1


def test_resample_without_any_image_is_nan_and_does_not_warn():
    truth, p = drawn(4)
    ours = metrics.resampled(truth, p, np.zeros((1, 60)))
    assert all(np.isnan(v[0]) for v in ours.values())


def test_weights_of_images_are_how_often_their_patient_was_drawn():
    groups = np.repeat([7, 3, 9, 1], [3, 1, 4, 2])
    weights = metrics.patient_weights(groups, 4000, 0)
    assert (weights[0] == 1).all()
    first = np.array([np.flatnonzero(groups == g)[0] for g in (7, 3, 9, 1)])
    for g, i in zip((7, 3, 9, 1), first, strict=True):
        assert (weights[:, groups == g] == weights[:, [i]]).all()
    per_patient = weights[1:, first]
    assert (per_patient.sum(axis=1) == 4).all()
    # binomial(4, 1/4): mean 1, variance 3/4
    np.testing.assert_allclose(per_patient.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(per_patient.var(axis=0), 0.75, atol=0.08)


def test_interval_is_that_of_a_loop_drawing_patients_with_replacement():
    truth, p = drawn(8, n=120, k=3)
    groups = np.random.default_rng(1).integers(0, 30, 120)
    score = metrics.scores(
        [metrics.resampled(truth, p, metrics.patient_weights(groups, 2000, 0))],
        dict.fromkeys(reference(truth, p), 0.0),
    )
    rng = np.random.default_rng(99)
    patients = np.unique(groups)
    loops = []
    for _ in range(400):
        chosen = rng.choice(patients, len(patients))
        rows = np.concatenate([np.flatnonzero(groups == g) for g in chosen])
        loops.append(reference(truth[rows], p[rows]))
    for name, value in reference(truth, p).items():
        low, high = np.percentile([draw[name] for draw in loops], [2.5, 97.5])
        assert score[name].value == pytest.approx(value, abs=1e-12)
        width = high - low
        assert score[name].low == pytest.approx(low, abs=0.15 * width), name
        assert score[name].high == pytest.approx(high, abs=0.15 * width), name


@pytest.mark.parametrize("copies", [2, 4, 16])
def test_copies_of_a_patients_image_do_not_narrow_the_interval(copies):
    truth, p = drawn(9, n=80)
    patient = np.arange(80)

    def interval(times):
        weights = metrics.patient_weights(np.repeat(patient, times), 500, 0)
        values = metrics.resampled(np.repeat(truth, times), np.repeat(p, times, axis=0), weights)
        return metrics.scores([values], dict.fromkeys(values, 0.0))

    one, many = interval(1), interval(copies)
    for name in one:
        for part in ("value", "low", "high"):
            assert getattr(many[name], part) == pytest.approx(getattr(one[name], part)), name


@pytest.mark.parametrize("seed", range(3))
def test_floors_are_those_of_scikit_learns_dummy(seed):
    rng = np.random.default_rng(seed)
    test = np.concatenate([[0, 1, 2], rng.integers(0, 3, 40)])
    nothing = np.zeros((len(test), 1))
    dummy = DummyClassifier(strategy="most_frequent").fit(nothing, test)
    ours = metrics.floors(test, 3)
    expected = reference(test, dummy.predict_proba(nothing))
    assert ours == pytest.approx(expected, abs=1e-12)


def test_score_of_repeats_is_their_mean_draw_by_draw():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(3, 501))
    score = metrics.scores([{"m": row} for row in draws], {"m": 0.25})["m"]
    assert score.value == pytest.approx(draws[:, 0].sum() / 3)
    middle = np.sort(draws[:, 1:].sum(axis=0) / 3)
    assert score.low == pytest.approx(np.quantile(middle, 0.025))
    assert score.high == pytest.approx(np.quantile(middle, 0.975))
    assert score.floor == 0.25


def test_blocks_of_resamples_do_not_change_auroc(monkeypatch):
    truth, p = drawn(1)
    weights = metrics.patient_weights(np.arange(60) // 3, 50, 0)
    expected = [reference(truth, p, w.astype(int))["auroc"] for w in weights]
    monkeypatch.setattr(metrics, "_BLOCK", 7 * 60)
    np.testing.assert_allclose(metrics.auroc(truth, p, weights), expected, atol=1e-12)

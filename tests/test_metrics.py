"""Metrics against scikit-learn, published figures and explicit loops over patients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from sklearn.dummy import DummyClassifier

from embedstore.answered import Answered
from embedstore.errors import UsageError
from embedstore.metrics import (
    TITLES,
    Draws,
    bca,
    floors,
    grouped,
    highest,
    jackknife,
    low_is_good,
    measured,
    metric_title,
    patient_draws,
    percentile,
    ranks,
    refuse_unknown,
)
from embedstore.metrics.counts import confusion
from embedstore.metrics.ranks import ranked
from embedstore.scoring import scores

PUBLISHED = np.array([[70, 15, 0, 1], [14, 58, 10, 4], [3, 16, 50, 22], [0, 0, 25, 68]])
NAMES = "abcdefgh"


def by_image(weights):
    """Draws in which every image is a patient of its own."""
    weights = np.atleast_2d(weights)
    return Draws(weights.astype(np.uint16), np.arange(weights.shape[1]))


def calibration_error(y, p, bins=15):
    """ECE as its paper has it, bin by bin."""
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def reference(truth, probabilities, weight=None):
    """All metrics by scikit-learn, on rows repeated as often as `weight` says."""
    rows = np.repeat(np.arange(len(truth)), np.ones(len(truth), int) if weight is None else weight)
    y, p = truth[rows], probabilities[rows]
    k, answer = p.shape[1], p.argmax(axis=1)
    every = range(1, 2) if k == 2 else range(k)
    present = [c for c in every if 0 < (y == c).sum() < len(y)]
    held = [c for c in every if (y == c).any()]
    f1 = sk.f1_score(y, answer, labels=range(k), average=None, zero_division=np.nan)
    recall = sk.recall_score(y, answer, labels=range(k), average=None, zero_division=np.nan)
    found = {
        "accuracy": sk.accuracy_score(y, answer),
        "balanced_accuracy": np.nanmean(recall),
        "macro_f1": np.nanmean(f1),
        "within_one": (abs(y - answer) <= 1).mean(),
        "class_error": abs(y - answer).mean(),
        "auroc": np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in present]),
        "average_precision": np.mean([sk.average_precision_score(y == c, p[:, c]) for c in held]),
        "log_loss": sk.log_loss(y, p, labels=range(k)),
        "brier": ((p - np.eye(k)[y]) ** 2).sum(axis=1).mean() / (2 if k == 2 else 1),
        "ece": calibration_error(y, p),
    }
    for name, weights in (("kappa", None), ("linear_kappa", "linear")):
        found[name] = sk.cohen_kappa_score(y, answer, labels=range(k), weights=weights)
    found["quadratic_kappa"] = sk.cohen_kappa_score(y, answer, labels=range(k), weights="quadratic")
    for c in range(k):
        found[f"f1:{NAMES[c]}"], found[f"recall:{NAMES[c]}"] = f1[c], recall[c]
    if k > 2:
        for c in range(k):
            found[f"auroc:{NAMES[c]}"] = sk.roc_auc_score(y == c, p[:, c])
            found[f"average_precision:{NAMES[c]}"] = sk.average_precision_score(y == c, p[:, c])
        return found
    fpr, tpr, _ = sk.roc_curve(y, p[:, 1], drop_intermediate=False)
    for x in (0.8, 0.9, 0.95):
        found[f"sensitivity@{x:g}"] = tpr[1 - fpr >= x - 1e-12].max()
        found[f"specificity@{x:g}"] = 1 - fpr[tpr >= x - 1e-12].min()
    return found


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
    ours = measured(truth, p, by_image(weights), NAMES[:k])
    for b, weight in enumerate(weights):
        expected = reference(truth, p, weight)
        assert set(ours) == set(expected)
        for name, value in expected.items():
            assert ours[name][b] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_every_metric_has_a_title_and_a_direction():
    truth, p = drawn(0)
    found = measured(truth, p, by_image(np.ones(60)), NAMES[:4])
    assert set(TITLES) == {name for name in found if ":" not in name}
    sure = np.eye(4)[truth] * 0.96 + 0.01
    better = measured(truth, sure, by_image(np.ones(60)), NAMES[:4])
    for name in found:
        assert (better[name][0] < found[name][0]) == low_is_good(name), name


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("quadratic_kappa", "quadratic κ"),
        ("C+D: auroc", "C+D: AUROC"),
        ("a: b: ece", "a: b: ECE"),
        ("f1:B", "F1 of B"),
        ("C+D: recall:a:b", "C+D: recall of a:b"),
        ("auroc:A@1", "AUROC of A@1"),
        ("C+D: sensitivity@0.9", "C+D: sensitivity@0.9"),
        ("specificity@0.95", "specificity@0.95"),
    ],
)
def test_a_metrics_title_says_what_it_is_of(metric, title):
    assert metric_title(metric) == title
    refuse_unknown([metric])


@pytest.mark.parametrize(
    "name", ["roc", "F1:B", "Recall:B", "C+D: no", "auroc: C+D", "sensitivity@0.7", "of@0.9", ""]
)
def test_a_name_of_no_metric_is_refused_with_those_there_are(name):
    points = [f"{of}@{x}" for of in ("sensitivity", "specificity") for x in ("0.8", "0.9", "0.95")]
    known = ", ".join([*TITLES, "f1", "recall", *points])
    with pytest.raises(UsageError) as refused:
        refuse_unknown(["f1:B", name])
    assert str(refused.value) == f"--metric {name}: there are {known}; of one class: f1:CLASS"


@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize("place", [0, 3, 11])
def test_points_of_the_curve_with_one_of_a_sign_are_scikit_learns(sign, place):
    positive, score = np.full(12, not sign), np.arange(12.0)
    positive[place] = sign
    found = ranked(positive, score, by_image(np.ones(12)), (0.9,))
    fpr, tpr, _ = sk.roc_curve(positive, score, drop_intermediate=False)
    assert found["sensitivity@0.9"][0] == pytest.approx(tpr[1 - fpr >= 0.9 - 1e-12].max())
    assert found["specificity@0.9"][0] == pytest.approx(1 - fpr[tpr >= 0.9 - 1e-12].min())


def test_where_a_negative_scores_highest_no_threshold_is_specific():
    positive, score = np.array([False, True, True, False]), np.array([4, 3, 2, 1.0])
    found = ranked(positive, score, by_image(np.ones(4)), (0.95,))
    assert found["sensitivity@0.95"] == [0]
    assert found["specificity@0.95"] == [0.5]


@pytest.mark.parametrize("k", [3, 4])
def test_auroc_equals_scikit_learns_own_macro_ovr(k):
    truth, p = drawn(5, k=k)
    value = measured(truth, p, by_image(np.ones(60)), NAMES[:k])["auroc"][0]
    expected = sk.roc_auc_score(truth, p, multi_class="ovr", average="macro")
    assert value == pytest.approx(expected, abs=1e-12)


def test_auroc_of_two_classes_is_of_the_second_even_where_the_first_saturates():
    tiny = np.array([1e-12, 3e-12, 2e-12, 4e-12, 5e-12, 6e-12])
    p = np.stack([1 - tiny, tiny], axis=1).astype(np.float32)  # the first column is all ones
    truth = np.array([0, 0, 1, 0, 1, 1])
    value = measured(truth, p, by_image(np.ones(6)), NAMES[:2])["auroc"][0]
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
    value = ranked(truth == 1, score, by_image(weight))["auroc"][0]
    if pairs:
        assert value == pytest.approx(won / pairs)
    else:
        assert np.isnan(value)


def test_published_confusion_matrix_gives_the_published_figures():
    truth, answer = (np.repeat(grid.ravel(), PUBLISHED.ravel()) for grid in np.indices((4, 4)))
    found = measured(truth, np.eye(4)[answer], by_image(np.ones(len(truth))), "ABCD")
    for name, value in {
        "accuracy": 0.691,
        "kappa": 0.588,
        "linear_kappa": 0.734,
        "quadratic_kappa": 0.845,
        "within_one": 0.978,
    }.items():
        assert round(float(found[name][0]), 3) == value, name
    f1 = [round(float(found[f"f1:{c}"][0]), 2) for c in "ABCD"]
    assert f1 == [0.81, 0.66, 0.57, 0.72]
    dense = grouped(truth, np.eye(4)[answer], "ABCD", "CD")
    two = measured(*dense, by_image(np.ones(len(truth))), ("not", "dense"))
    assert round(float(two["accuracy"][0]), 3) == 0.904
    draws = measured(truth, np.eye(4)[answer], patient_draws(np.arange(356), 2000, 0), "ABCD")
    assert percentile(draws["accuracy"]) == pytest.approx((0.640, 0.736), abs=0.006)


def test_joined_classes_are_scored_as_scikit_learn_scores_their_sum():
    truth, p = drawn(3)
    joined, two = grouped(truth, p, "ABCD", ("C", "D"))
    np.testing.assert_array_equal(joined, truth >= 2)
    found = measured(joined, two, by_image(np.ones(60)), ("A+B", "C+D"))
    assert found["auroc"][0] == pytest.approx(sk.roc_auc_score(truth >= 2, p[:, 2] + p[:, 3]))


def test_confusion_equals_scikit_learns():
    truth, p = drawn(2)
    weight = np.random.default_rng(0).integers(0, 4, len(truth))
    ours = confusion(truth, p.argmax(1), 4, by_image(weight))[0]
    theirs = sk.confusion_matrix(truth, p.argmax(1), labels=range(4), sample_weight=weight)
    np.testing.assert_array_equal(ours, theirs)


def test_class_absent_from_a_resample_is_left_out_of_the_means():
    truth, p = drawn(3, k=3)
    weight = (truth != 2).astype(int)
    ours = measured(truth, p, by_image(weight), NAMES[:3])
    rows = truth != 2
    y, answer = truth[rows], p[rows].argmax(axis=1)
    recalls = [(answer[y == c] == c).mean() for c in (0, 1)]
    assert ours["balanced_accuracy"][0] == pytest.approx(np.mean(recalls))
    areas = [sk.roc_auc_score(y == c, p[rows, c]) for c in (0, 1)]
    assert ours["auroc"][0] == pytest.approx(np.mean(areas))
    assert np.isnan(ours["auroc:c"][0])
    assert np.isnan(ours["recall:c"][0])


@pytest.mark.parametrize("only", [0, 1])
def test_resample_of_one_class_has_no_auroc_and_no_kappa_beyond_chance(only):
    truth, p = drawn(4, k=2)
    keep = (truth == only) & (p.argmax(1) == only)
    ours = measured(truth, p, by_image(keep), NAMES[:2])
    assert np.isnan(ours["auroc"][0])
    assert np.isnan(ours["sensitivity@0.9"][0])
    assert ours["quadratic_kappa"][0] == 0
    assert ours["accuracy"][0] == 1


def test_resample_without_any_image_is_nan_and_does_not_warn():
    truth, p = drawn(4)
    ours = measured(truth, p, by_image(np.zeros(60)), NAMES[:4])
    assert all(np.isnan(v[0]) for v in ours.values())


def test_weights_of_images_are_how_often_their_patient_was_drawn():
    groups = np.repeat([7, 3, 9, 1], [3, 1, 4, 2])
    draws = patient_draws(groups, 4000, 0)
    assert (draws.weights[0] == 1).all()
    np.testing.assert_array_equal(np.unique(groups)[draws.patient], groups)
    per_patient = draws.weights[1:]
    assert (per_patient.sum(axis=1) == 4).all()
    # binomial(4, 1/4): mean 1, variance 3/4
    np.testing.assert_allclose(per_patient.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(per_patient.var(axis=0), 0.75, atol=0.08)


@pytest.mark.parametrize("patients", [7, 500])
def test_every_patient_is_left_out_once(patients):
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(patients), 3))
    weights = jackknife(groups).weights
    assert (weights[0] == 1).all()
    assert ((weights[1:] == 0).sum(axis=0) == 1).all()
    assert len(weights) == 1 + min(patients, 200)
    np.testing.assert_array_equal(jackknife(groups).patient, jackknife(groups).patient)


def answered(truth, p, groups):
    ids = np.arange(len(truth)).astype(str)
    return Answered(ids, truth, groups, {}, (p,), (np.zeros(len(truth), np.intp),))


def test_interval_is_that_of_a_loop_drawing_patients_with_replacement():
    truth, p = drawn(8, n=120, k=3)
    groups = np.random.default_rng(1).integers(0, 30, 120)
    score = scores(answered(truth, p, groups), NAMES[:3], 0)
    rng = np.random.default_rng(99)
    patients = np.unique(groups)
    loops = []
    for _ in range(400):
        chosen = rng.choice(patients, len(patients))
        rows = np.concatenate([np.flatnonzero(groups == g) for g in chosen])
        y, q = truth[rows], p[rows]
        loops.append(
            {
                "accuracy": sk.accuracy_score(y, q.argmax(1)),
                "quadratic_kappa": sk.cohen_kappa_score(y, q.argmax(1), weights="quadratic"),
                "auroc": sk.roc_auc_score(y, q, multi_class="ovr"),
                "average_precision:a": sk.average_precision_score(y == 0, q[:, 0]),
                "log_loss": sk.log_loss(y, q),
            }
        )
    expected = reference(truth, p)
    for name in loops[0]:
        value = expected[name]
        low, high = np.percentile([draw[name] for draw in loops], [2.5, 97.5])
        assert score[name].value == pytest.approx(value, abs=1e-12)
        width = high - low
        assert score[name].low == pytest.approx(low, abs=0.15 * width), name
        assert score[name].high == pytest.approx(high, abs=0.15 * width), name


def test_bias_corrected_interval_is_scipys():
    rng = np.random.default_rng(0)
    truth, p = drawn(1, n=80, k=2)
    right = (p.argmax(axis=1) == truth) * rng.gamma(1, 1, 80)  # skewed
    theirs = stats.bootstrap(
        (right,), np.mean, n_resamples=20_000, method="BCa", rng=rng, vectorized=True
    ).confidence_interval
    draws, left_out = patient_draws(np.arange(80), 20_000, 0), jackknife(np.arange(80))

    def means(by):
        return by.total(right[:, None])[:, 0] / by.total(np.ones((80, 1)))[:, 0]

    low, high = bca(means(draws), means(left_out))
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.02 * width)
    assert high == pytest.approx(theirs.high, abs=0.02 * width)
    plain = percentile(means(draws))
    assert abs(plain[1] - theirs.high) > 0.02 * width  # so that the test tells them apart


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_bias_corrected_interval_is_scipys_of_the_same_draws(statistic):
    values = np.random.default_rng(0).gamma(1, 1, 41).round(1)  # so that draws equal the median
    theirs = stats.bootstrap((values,), statistic, n_resamples=999, method="BCa", rng=1)
    whole = statistic(values)
    left_out = [statistic(np.delete(values, i)) for i in range(41)]
    draws = np.array([whole, *theirs.bootstrap_distribution, np.nan])
    found = bca(draws, np.array([whole, *left_out, np.nan]))
    assert found == pytest.approx(tuple(theirs.confidence_interval), abs=1e-12)


def test_an_interval_is_as_good_as_what_is_known():
    draws, left_out = np.linspace(0, 1, 101)[[30, *range(101)]], np.zeros(11)
    unknown = np.full(101, np.nan)
    for nothing in (
        percentile(np.array([0.5, np.nan])),
        bca(np.array([0.5, np.nan]), left_out),
        bca(np.array([np.nan, *draws[1:]]), left_out),
    ):
        assert np.isnan(nothing).tolist() == [True, True]
    # nothing to correct by: all draws on one side, or no patient can be left out
    for value in (-1.0, 2.0):
        one_side = np.array([value, *draws[1:]])
        assert bca(one_side, left_out + np.arange(11)) == percentile(one_side)
    assert bca(draws, unknown) == percentile(draws)
    # nothing changes with a patient left out: bias alone
    bias = stats.norm.ppf(30.5 / 101)
    tails = stats.norm.cdf(2 * bias + stats.norm.ppf([0.025, 0.975]))
    assert bca(draws, left_out) == pytest.approx(tuple(np.quantile(draws[1:], tails)))


def test_one_image_answered_right_agrees_no_more_than_by_chance():
    truth, p = drawn(0)
    right = np.flatnonzero(p.argmax(axis=1) == truth)[0]
    ours = measured(truth, p, by_image(np.arange(60) == right), NAMES[:4])
    assert [ours[name][0] for name in ("kappa", "linear_kappa", "quadratic_kappa")] == [0, 0, 0]
    assert ours["accuracy"] == [1]


@pytest.mark.parametrize("copies", [2, 4, 16])
def test_copies_of_a_patients_image_do_not_narrow_the_interval(copies):
    truth, p = drawn(9, n=80)
    patient = np.arange(80)

    def interval(times):
        many = answered(
            np.repeat(truth, times), np.repeat(p, times, axis=0), np.repeat(patient, times)
        )
        return scores(many, NAMES[:4], 0)

    one, many = interval(1), interval(copies)
    for name in one:
        assert many[name].bca == pytest.approx(one[name].bca, nan_ok=True), name
        for part in ("value", "low", "high"):
            assert getattr(many[name], part) == pytest.approx(getattr(one[name], part)), name


@pytest.mark.parametrize(
    ("kind", "strategy"), [("majority", "most_frequent"), ("prior", "prior"), ("random", "uniform")]
)
@pytest.mark.parametrize("seed", range(2))
def test_floors_are_those_of_scikit_learns_dummy(kind, strategy, seed):
    rng = np.random.default_rng(seed)
    test = np.concatenate([[0, 1, 2], rng.integers(0, 3, 40)])
    ours = {name: of[kind] for name, of in floors(test, NAMES[:3]).items()}
    nothing = np.zeros((len(test), 1))
    dummy = DummyClassifier(strategy=strategy).fit(nothing, test)
    if kind != "random":
        expected = reference(test, dummy.predict_proba(nothing))
        assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)
        return
    many = np.repeat(test, 4000)  # its answers by chance, often enough
    answer = DummyClassifier(strategy=strategy, random_state=0).fit(many[:, None], many)
    by_chance = answer.predict(many[:, None])
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(many, by_chance), abs=0.005)
    f1 = sk.f1_score(many, by_chance, average="macro")
    assert ours["macro_f1"] == pytest.approx(f1, abs=0.005)
    assert ours["kappa"] == pytest.approx(0, abs=1e-12)
    assert ours["auroc"] == 0.5
    assert ours["log_loss"] == pytest.approx(np.log(3))
    for c, share in zip(NAMES, np.bincount(test) / len(test), strict=False):
        assert ours[f"recall:{c}"] == pytest.approx(1 / 3)
        assert ours[f"f1:{c}"] == pytest.approx(2 * share / (3 * share + 1))


def test_the_floor_is_the_hardest_to_pass():
    assert highest("accuracy", {"majority": 0.7, "prior": 0.7, "random": 0.3}) == 0.7
    assert highest("C+D: log_loss", {"majority": 9.0, "prior": 0.6, "random": 0.69}) == 0.6
    assert highest("auroc:d", {"majority": np.nan, "prior": 0.5}) == 0.5
    assert np.isnan(highest("auroc:d", {"majority": np.nan, "prior": np.nan}))


def test_a_class_nobody_tested_has_of_its_own_no_floor_but_a_chance_to_be_answered():
    found = floors(np.array([0, 0, 1]), NAMES[:3])
    assert found["accuracy"] == pytest.approx({"majority": 2 / 3, "prior": 2 / 3, "random": 1 / 3})
    assert np.isnan(found["recall:c"]["random"])
    assert found["f1:c"]["random"] == 0


def test_calibration_is_by_fifteen_bins_closed_on_the_right():
    rng = np.random.default_rng(0)
    edges = np.arange(1, 16) / 15
    sure = np.concatenate([rng.uniform(1 / 20, 1, 2000), *np.tile(edges, (10, 1))])
    p = np.concatenate([sure[:, None], np.repeat((1 - sure[:, None]) / 39, 39, axis=1)], axis=1)
    bins = (sure[:, None] > edges + 1e-12).sum(axis=1)
    right = bins % 2 == 1  # too sure in one bin, not sure enough in the next
    truth = np.where(right, 0, 1)
    expected = sum(abs((sure - right)[bins == b].sum()) for b in range(15)) / len(sure)
    found = measured(truth, p, by_image(np.ones(len(sure))), [str(c) for c in range(40)])
    assert found["ece"][0] == pytest.approx(expected, abs=1e-12)


def test_score_of_repeats_is_their_mean_draw_by_draw():
    truth, p = drawn(1, n=40, k=3)
    other = drawn(7, n=40, k=3)[1]
    fold = np.zeros(40, np.intp)
    groups = np.arange(40) // 2
    both = Answered(np.arange(40).astype(str), truth, groups, {}, (p, other), (fold, fold))
    draws = patient_draws(groups, 2000, 0)
    each = [measured(truth, q, draws, NAMES[:3])["accuracy"] for q in (p, other)]
    score = scores(both, NAMES[:3], 0)["accuracy"]
    middle = np.sort((each[0] + each[1])[1:] / 2)
    rights = [sk.accuracy_score(truth, q.argmax(1)) for q in (p, other)]
    assert score.value == pytest.approx(np.mean(rights))
    assert score.low == pytest.approx(np.quantile(middle, 0.025))
    assert score.high == pytest.approx(np.quantile(middle, 0.975))


@pytest.mark.parametrize("levels", [0, 3])
def test_counts_are_exact_beyond_what_float32_adds(levels):
    truth, p = drawn(1, n=500, k=2, levels=levels)
    weights = np.random.default_rng(0).integers(1 << 15, 1 << 16, (4, 500))
    found = measured(truth, p, by_image(weights), NAMES[:2])
    for b, weight in enumerate(weights):
        assert 1 << 24 < weight.sum() < 1 << 25
        right = weight @ (p.argmax(axis=1) == truth)
        for name, value in {
            "accuracy": right / weight.sum(),
            "auroc": sk.roc_auc_score(truth, p[:, 1], sample_weight=weight),
            "average_precision": sk.average_precision_score(truth, p[:, 1], sample_weight=weight),
            "log_loss": sk.log_loss(truth, p, sample_weight=weight),
        }.items():
            assert found[name][b] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("levels", [0, 3])
def test_pieces_of_the_walk_do_not_change_what_it_finds(monkeypatch, levels):
    truth, p = drawn(1, k=2, levels=levels)
    draws = patient_draws(np.arange(60) // 3, 50, 0)
    monkeypatch.setattr(ranks, "_IMAGES", 7)
    monkeypatch.setattr(ranks, "_RESAMPLES", 9)
    found = ranked(truth == 1, p[:, 1], draws, (0.9,))
    for b in range(0, 51, 5):
        weight = draws.weights[b][draws.patient].astype(int)
        rows = np.repeat(np.arange(60), weight)
        area = sk.roc_auc_score(truth[rows], p[rows, 1])
        assert found["auroc"][b] == pytest.approx(area, abs=1e-12)
        precision = sk.average_precision_score(truth[rows], p[rows, 1])
        assert found["average_precision"][b] == pytest.approx(precision, abs=1e-12)


@pytest.mark.parametrize("patients", [50, 20_000])
def test_the_same_seed_draws_the_same_and_every_row_is_drawn(patients):
    groups = np.arange(patients).astype(str)
    one, again, other = (patient_draws(groups, 4, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.weights, again.weights)
    np.testing.assert_array_equal(one.patient, again.patient)
    assert (one.weights[0] == 1).all()
    for row in range(1, 5):
        assert (one.weights[row] != 1).any()
        assert (one.weights[row] != other.weights[row]).any()

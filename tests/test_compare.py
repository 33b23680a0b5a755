"""Comparing contenders against textbook definitions, scipy and statsmodels."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from embedstore.answered import Answered
from embedstore.errors import DataError
from embedstore.metrics import compare as comparing
from embedstore.metrics.compare import delong, difference, holm, mcnemar, p_value
from embedstore.scoring import compare


def two_scores(seed, patients=60, images=1, shift=0.0):
    """Truth and two correlated scores of patients with some images each."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), images)
    truth = np.repeat(rng.integers(0, 2, patients), images)
    truth = np.where(rng.random(len(truth)) < 0.2, 1 - truth, truth)
    own = np.repeat(rng.normal(size=patients), images)
    one, other = (
        np.round(truth * (1.0 + extra) + own + rng.normal(size=len(truth)), 1)
        for extra in (0, shift)
    )
    return truth == 1, one, other, groups


def textbook(positive, one, other):
    """DeLong 1988 by its definition: every positive against every negative."""
    areas, v10, v01 = [], [], []
    for score in (one, other):
        x, y = score[positive][:, None], score[~positive][None]
        beats = (x > y) + (x == y) / 2
        areas.append(beats.mean())
        v10.append(beats.mean(axis=1))
        v01.append(beats.mean(axis=0))
    s = np.cov(v10) / positive.sum() + np.cov(v01) / (~positive).sum()
    z = (areas[0] - areas[1]) / np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])
    return areas, 2 * stats.norm.sf(abs(z))


@pytest.mark.parametrize("seed", range(4))
def test_delong_of_single_images_is_the_textbooks(seed):
    positive, one, other, groups = two_scores(seed, shift=0.4)
    found = delong(positive, one, other, groups)
    areas, p = textbook(positive, one, other)
    assert (found.one, found.other) == pytest.approx(tuple(areas))
    assert found.one == pytest.approx(sk.roc_auc_score(positive, one))
    assert found.p == pytest.approx(p, abs=1e-9)
    assert found.low < found.value < found.high


def test_copies_of_images_do_not_make_delong_surer():
    positive, one, other, groups = two_scores(1, shift=0.4)
    found = delong(positive, one, other, groups)
    copied = delong(*(np.repeat(a, 5) for a in (positive, one, other, groups)))
    assert copied.value == pytest.approx(found.value)
    assert copied.p == pytest.approx(found.p, rel=1e-6)
    as_if_apart = delong(*(np.repeat(a, 5) for a in (positive, one, other)), np.arange(300))
    assert as_if_apart.p < found.p


def test_clustered_delong_keeps_its_level_where_delong_by_image_does_not():
    by_patient, by_image = [], []
    for seed in range(300):
        groups = np.repeat(np.arange(50), 4)
        rng = np.random.default_rng(seed)
        truth = np.repeat(rng.integers(0, 2, 50), 4)
        first, second = (
            np.repeat(rng.normal(size=50), 4) + truth + 0.1 * rng.normal(size=200) for _ in "12"
        )
        by_patient.append(delong(truth == 1, first, second, groups).p)
        by_image.append(delong(truth == 1, first, second, np.arange(200)).p)
    assert 0.02 <= np.mean(np.array(by_patient) < 0.05) <= 0.09
    assert np.mean(np.array(by_image) < 0.05) > 0.2


def obuchowski(positive, one, other, groups):
    """Difference of two areas and its standard error, by loops (Obuchowski 1997)."""
    pos, neg = np.flatnonzero(positive), np.flatnonzero(~positive)
    m, n, patients = len(pos), len(neg), np.unique(groups)
    areas, ups, downs = [], [], []
    for s in (one, other):
        wins = {(i, j): float(s[i] > s[j]) + 0.5 * (s[i] == s[j]) for i in pos for j in neg}
        area = sum(wins.values()) / (m * n)
        up = {i: sum(wins[i, j] for j in neg) / n - area for i in pos}
        down = {j: sum(wins[i, j] for i in pos) / m - area for j in neg}
        areas.append(area)
        ups.append([sum(up[i] for i in pos if groups[i] == g) for g in patients])
        downs.append([sum(down[j] for j in neg if groups[j] == g) for g in patients])
    x, y = np.subtract(*ups), np.subtract(*downs)
    with_one, without = len(set(groups[pos])), len(set(groups[neg]))
    variance = with_one / (with_one - 1) * (x**2).sum() / m**2
    variance += without / (without - 1) * (y**2).sum() / n**2
    variance += 2 * len(patients) / (len(patients) - 1) * (x * y).sum() / (m * n)
    return areas[0] - areas[1], np.sqrt(variance)


@pytest.mark.parametrize("seed", range(3))
def test_delong_of_several_images_a_patient_is_obuchowskis(seed):
    positive, one, other, groups = two_scores(seed, patients=12, images=3, shift=0.5)
    value, error = obuchowski(positive, one, other, groups)
    found = delong(positive, one, other, groups)
    assert found.value == pytest.approx(value)
    assert found.high - found.value == pytest.approx(stats.norm.ppf(0.975) * error)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(value) / error))


def test_one_patient_on_a_side_has_no_variance():
    truth = np.array([True, True, False, False])
    with pytest.raises(DataError, match="two patients"):
        delong(truth, np.arange(4.0), np.arange(4.0), np.array([0, 0, 1, 2]))


@pytest.mark.parametrize("seed", range(4))
def test_mcnemar_of_single_images_is_statsmodels_exact(seed):
    rng = np.random.default_rng(seed)
    one, other = rng.random(60) < 0.8, rng.random(60) < 0.65
    found = mcnemar(one, other, np.arange(60))
    table = [
        [(one & other).sum(), (one & ~other).sum()],
        [(~one & other).sum(), (~one & ~other).sum()],
    ]
    assert (found.only_one, found.only_other) == (table[0][1], table[1][0])
    assert found.p == pytest.approx(min(1, statsmodels_mcnemar(table, exact=True).pvalue))


def test_mcnemar_of_many_patients_is_that_of_a_normal_sum():
    rng = np.random.default_rng(3)
    size = rng.integers(1, 5, 60_000)
    groups = np.repeat(np.arange(len(size)), size)
    one = rng.random(len(groups)) < 0.71
    other = np.where(rng.random(len(groups)) < 0.6, one, rng.random(len(groups)) < 0.705)
    surplus = np.bincount(groups, one.astype(float) - other)
    z = (abs(surplus.sum()) - 1) / np.sqrt((surplus**2).sum())
    found = mcnemar(one, other, groups).p
    assert 0.001 < found < 0.5
    assert found == pytest.approx(2 * stats.norm.sf(z), rel=2e-3)


@pytest.mark.parametrize("direct", [1, 1 << 28], ids=["by Fourier", "direct"])
@pytest.mark.parametrize("seed", [5, 6, 7])
def test_mcnemar_by_patient_is_every_swap_of_patients_counted(monkeypatch, seed, direct):
    monkeypatch.setattr(comparing, "_DIRECT", direct)
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(10), 4)
    one, other = rng.random(40) < 0.8, rng.random(40) < 0.5
    surplus = np.array([(one[groups == g].sum() - other[groups == g].sum()) for g in range(10)])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1)
    p = (abs(signs.T @ surplus) >= abs(surplus.sum())).mean()
    assert mcnemar(one, other, groups).p == pytest.approx(p)
    half = np.arange(40) % 2 == 1  # as much for the one as for the other
    assert 1 - 1e-12 < mcnemar(half, ~half, groups // 3 * 3 + np.arange(40) % 2).p <= 1


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (np.nan, "–"),
        (0.0, "p < 0.001"),
        (0.00099, "p < 0.001"),
        (0.001, "p = 0.001"),
        (1.0, "p = 1.000"),
    ],
)
def test_a_p_value_is_written_as_journals_do(p, text):
    assert p_value(p) == text


def test_nothing_between_two_is_p_one():
    right = np.array([True, False, True])
    assert mcnemar(right, right, np.arange(3)).p == 1
    truth = np.array([True, True, False, False])
    assert delong(truth, np.arange(4.0), np.arange(4.0), np.arange(4)).p == 1


@pytest.mark.parametrize("seed", range(3))
def test_holm_is_statsmodels(seed):
    p = np.random.default_rng(seed).random(7) ** 3
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
    assert len(holm([])) == 0


def test_p_is_twice_the_tail_beyond_nothing():
    draws = np.concatenate([[0.3], np.linspace(-0.1, 0.9, 999)])
    jack = np.full(5, 0.3)
    found = difference(draws, np.zeros(1000), jack, np.zeros(5))
    assert found.p == pytest.approx(2 * (1 + (draws[1:] <= 0).sum()) / 1000)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws[1:], [0.025, 0.975])))
    far = difference(draws + 9, np.zeros(1000), jack, np.zeros(5))
    assert far.p == pytest.approx(2 / 1000)


@pytest.mark.parametrize("draws", [[1, 0, 0, 2, 3], [-1, 0, -2, -3], [0, 0, 0], [1, 2, -3, np.nan]])
def test_p_counts_a_draw_of_nothing_on_both_sides_and_is_no_more_than_one(draws):
    whole = np.array([1.0, *draws])
    known = [d for d in draws if d == d]
    smaller = min(sum(d <= 0 for d in known), sum(d >= 0 for d in known))
    found = difference(whole, np.zeros_like(whole), np.zeros(4), np.zeros(4))
    assert found.p == min(1, 2 * (1 + smaller) / (1 + len(known)))


def test_a_difference_is_that_of_the_differences():
    """Subtracted before or after, draws and jackknife give one value and the same intervals."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.8, 0.05, 500), rng.normal(0.75, 0.05, 500)
    without, its = rng.gamma(2, 0.01, 40), rng.gamma(1, 0.03, 40)
    found = difference(one, other, without, its)
    expected = difference(one - other, np.zeros(500), without - its, np.zeros(40))
    assert np.isfinite(found.bca).all()
    assert found == expected
    assert found.value == one[0] - other[0]


def contender(seed, truth, groups, gain):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(3), len(truth)) + gain * np.eye(3)[truth]
    ids = np.arange(len(truth)).astype(str)
    p /= p.sum(axis=1, keepdims=True)
    return Answered(ids, truth, groups, {}, (p,), (np.zeros(len(truth), np.intp),))


def test_differences_are_of_the_same_patients():
    rng = np.random.default_rng(0)
    truth, groups = rng.integers(0, 3, 120), np.repeat(np.arange(40), 3)
    three = {
        n: contender(i, truth, groups, g)
        for i, (n, g) in enumerate([("a", 0.4), ("b", 0.4), ("c", 0.1)])
    }
    found = {one.name: one for one in compare(three, "a", "xyz", 0)}
    assert set(found) == {"b", "c"}
    for name, one in found.items():
        rights = [sk.accuracy_score(truth, three[n].runs[0].argmax(1)) for n in (name, "a")]
        assert one.differences["accuracy"].value == pytest.approx(rights[0] - rights[1])
        loops = []
        for _ in range(2000):
            rows = (rng.integers(0, 40, 40)[:, None] * 3 + np.arange(3)).ravel()
            each = [(three[n].runs[0].argmax(1) == truth)[rows].mean() for n in (name, "a")]
            loops.append(each[0] - each[1])
        low, high = np.percentile(loops, [2.5, 97.5])
        assert one.differences["accuracy"].low == pytest.approx(low, abs=0.1 * (high - low))
        assert one.differences["accuracy"].high == pytest.approx(high, abs=0.1 * (high - low))
    ps = [found[n].differences["auroc"].p for n in "bc"]
    corrected = [found[n].p_holm["auroc"] for n in "bc"]
    np.testing.assert_allclose(corrected, multipletests(ps, method="holm")[1])


def test_contenders_of_other_images_are_not_compared():
    rng = np.random.default_rng(0)
    truth, groups = rng.integers(0, 3, 60), np.arange(60)
    one = contender(0, truth, groups, 0.4)
    with pytest.raises(DataError, match="not tested on the same"):
        compare({"a": one, "b": one.take(np.arange(60) < 50)}, "a", "xyz", 0)

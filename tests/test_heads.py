"""The other heads against statsmodels, SciPy and scikit-learn; and what all heads refuse."""

from __future__ import annotations

import re
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, logsumexp, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedstore.classifier import VectorClassifier
from embedstore.probes.knn import KNNProbe
from embedstore.probes.logistic import LogisticProbe
from embedstore.probes.mlp import MLPProbe
from embedstore.probes.ordinal import OrdinalProbe
from embedstore.probes.prototype import PrototypeProbe
from embedstore.probes.text import TextProbe
from embedstore.probes.zeroshot import ZeroShotProbe
from embedstore.registry import PROBES, available, load
from embedstore.testing import check_probe


class Prompted(ZeroShotProbe):
    """With vectors for whatever classes scikit-learn's checks come with."""

    def fit(self, X, y):
        self.class_vectors, asked = None, self.class_vectors
        try:
            x, codes = self._read(X, y)
            means = [x[codes == c].mean(axis=0) - x.mean(axis=0) for c in range(codes.max() + 1)]
            self.class_vectors = dict(zip(self.classes_.tolist(), means, strict=True))
            return super().fit(X, y)
        finally:
            self.class_vectors = asked


@parametrize_with_checks(
    [
        MLPProbe(max_epochs=30),
        OrdinalProbe(),
        PrototypeProbe("euclidean"),
        TextProbe(),
    ]
)
def test_head_keeps_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (KNNProbe, {}),
        (LogisticProbe, {}),
        (MLPProbe, {"max_epochs": 10, "learning_rate": 0.01}),
        (OrdinalProbe, {}),
        (PrototypeProbe, {}),
        (TextProbe, {"temperature": 0.1}),
        (ZeroShotProbe, {}),
    ],
)
def test_head_keeps_embedstores_contract(make, settings):
    check_probe(make, scikit_learn=False, **settings)


class Honest(ClassifierMixin, BaseEstimator):
    """A head in the smallest form; the mutants below each break one promise."""

    def fit(self, X, y):
        if not np.isfinite(X).all():
            raise ValueError("NaN")
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == c].mean(axis=0) for c in self.classes_])
        return self

    def predict_proba(self, X):
        return softmax(-((X[:, None] - self.means_) ** 2).sum(axis=2), axis=1)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class Unsummed(Honest):
    def predict_proba(self, X):
        return super().predict_proba(X) * 0.9


class Guessing(Honest):
    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


class Random(Honest):
    def fit(self, X, y):
        super().fit(X, y)
        self.means_ = self.means_ + np.random.default_rng().normal(0, 1e-3, self.means_.shape)
        return self


class Meddling(Honest):
    def fit(self, X, y):
        super().fit(X, y)
        X -= 1
        return self


class Careless(Honest):
    def fit(self, X, y):
        return super().fit(np.nan_to_num(X, posinf=0), y)


class Sociable(Honest):
    def predict_proba(self, X):
        return super().predict_proba(X - X.mean(axis=0))


class Contrary(Honest):
    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmin(axis=1)]


class Mistaken(Honest):
    default_grid = {"nothing": (1, 2)}


class Leaking(Honest):
    """Its grid standardises by all rows."""

    def fit_grid(self, X, y, splits, grid):
        z = (X - X.mean(axis=0)) / X.std(axis=0) * 2
        fitted = [type(self)().fit(z[a], y[a]) for a, _ in splits]
        return [
            [(f.predict_proba(z[b]), f.classes_) for f, (_, b) in zip(fitted, splits, strict=True)]
        ]


def test_check_probe_takes_an_honest_head():
    check_probe(Honest, scikit_learn=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Unsummed, "do not sum to 1"),
        (Guessing, "learnt nothing"),
        (Random, "two fits to the same data differ"),
        (Meddling, "fit changed the vectors"),
        (Careless, "are taken without a word"),
        (Sociable, "depends on the rows beside it"),
        (Contrary, "predict is not the most probable"),
        (Mistaken, "no parameters"),
        (Leaking, "fit_grid and fit differ"),
    ],
)
def test_check_probe_finds_what_a_head_does_wrong(make, message):
    with pytest.raises(AssertionError, match=message):
        check_probe(make, scikit_learn=False)


def graded(n, d, cuts=(-2.0, 0.0, 1.5), seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.5 + 2
    z = (x - 2) @ rng.normal(size=d) * 2
    return x, np.digitize(z + rng.logistic(size=n), cuts)


def test_ordinal_without_a_penalty_is_statsmodels_ordered_model():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from statsmodels.miscmodels.ordinal_model import OrderedModel

        x, y = graded(400, 5)
        model = OrderedModel(y, x, distr="logit")
        fitted = model.fit(method="bfgs", disp=0, gtol=1e-8)
    ours = OrdinalProbe(C=1e9, tol=1e-13).fit(x, y)
    np.testing.assert_allclose(ours.coef_, fitted.params[:5], atol=1e-4)
    theta = model.transform_threshold_params(fitted.params)[1:-1]
    np.testing.assert_allclose(ours.thresholds_, theta, atol=1e-3)
    np.testing.assert_allclose(ours.predict_proba(x), fitted.predict(x), atol=1e-4)


@pytest.mark.parametrize(("n", "d"), [(200, 4), (30, 50)])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_ordinal_is_at_the_minimum_that_scipy_finds(n, d, class_weight):
    x, y = graded(n, d)
    counts = np.bincount(y)
    weight = (n / (4 * counts) if class_weight else np.ones(4))[y]
    C = 0.3

    def loss(at):
        w, theta = at[:d], np.sort(at[d:])
        cumulative = expit(np.concatenate([[-40], theta, [40]]) - (x @ w)[:, None])
        p = np.diff(cumulative)[np.arange(n), y]
        return -(weight * np.log(np.clip(p, 1e-300, None))).sum() + w @ w / (2 * C)

    ours = OrdinalProbe(C, class_weight, tol=1e-12).fit(x, y)
    reached = loss(np.concatenate([ours.coef_, ours.thresholds_]))
    start = np.concatenate([np.zeros(d), [-1, 0, 1]])
    best = min(
        minimize(loss, start, method=m, options={"maxiter": 5000}).fun for m in ("BFGS", "SLSQP")
    )
    assert reached <= best * (1 + 1e-6)


def test_ordinal_of_two_grades_is_logistic_regression():
    x, y = graded(300, 6, cuts=(0.0,))
    ours = OrdinalProbe(C=0.5, tol=1e-13).fit(x, y)
    theirs = LogisticRegression(C=0.5, tol=1e-9, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_[0], atol=1e-4)
    np.testing.assert_allclose(-ours.thresholds_, theirs.intercept_, atol=1e-4)


def test_moving_along_its_weights_never_lowers_the_odds_of_a_higher_grade():
    x, y = graded(300, 6)
    probe = OrdinalProbe(C=1.0).fit(x, y)
    way = x[0] + np.linspace(-9, 9, 400)[:, None] * probe.coef_
    p = probe.predict_proba(way)
    above = p[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    assert (np.diff(above, axis=0) >= -1e-12).all()
    assert above[0].max() < 0.01
    assert above[-1].min() > 0.99
    assert (p > 0).all()  # also far out, where 1 - 1 would be 0


def test_prototype_by_squared_difference_is_the_nearest_centroid():
    x, y = graded(200, 5)
    ours = PrototypeProbe("euclidean").fit(x, y)
    theirs = NearestCentroid().fit(x, y)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    square = ((x[:, None] - theirs.centroids_) ** 2).mean(axis=2)
    np.testing.assert_allclose(ours.predict_proba(x), softmax(-square / 0.1, axis=1), atol=1e-6)


def test_prototype_by_cosine_is_the_softmax_of_cosines_with_mean_unit_vectors():
    x, y = graded(200, 5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = np.stack([unit[y == c].mean(axis=0) for c in range(4)])
    cosines = unit @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    p = PrototypeProbe(temperature=0.05).fit(x * np.arange(1, 201)[:, None], y).predict_proba(x)
    np.testing.assert_allclose(p, softmax(cosines / 0.05, axis=1), atol=1e-4)


def described(seed=0, n=60, d=16, noise=1.0):
    """Images around the vectors of their classes' descriptions, of any length."""
    rng = np.random.default_rng(seed)
    names = np.array(["dense", "fatty", "mixed"])
    texts = {name: rng.normal(size=d) for name in names.tolist()}
    y = names[np.arange(n) % 3]
    x = np.stack([texts[v] for v in y]) + noise * rng.normal(size=(n, d))
    return x * rng.uniform(0.1, 10, (n, 1)), y, texts


def test_zero_shot_is_the_softmax_of_cosines_over_the_temperature():
    x, y, texts = described()
    probe = ZeroShotProbe(texts, temperature=0.5).fit(x[:9], y[:9])
    cosines = [[v @ t / np.linalg.norm(v) / np.linalg.norm(t) for t in texts.values()] for v in x]
    np.testing.assert_allclose(
        probe.predict_proba(x), softmax(np.array(cosines) / 0.5, axis=1), atol=1e-5
    )


def test_zero_shot_answers_classes_that_the_training_side_lacks():
    x, y, texts = described()
    probe = ZeroShotProbe(texts).fit(x[y != "mixed"], y[y != "mixed"])
    assert probe.classes_.tolist() == ["dense", "fatty", "mixed"]
    assert (probe.predict(x[y == "mixed"]) == "mixed").mean() > 0.8


@pytest.mark.parametrize("make", [ZeroShotProbe, TextProbe])
def test_descriptions_that_do_not_fit_are_refused_by_name(make):
    x, y, texts = described()
    with pytest.raises(ValueError, match="class_vectors has none of mixed"):
        make({k: v for k, v in texts.items() if k != "mixed"}).fit(x, y)
    with pytest.raises(
        ValueError, match=r"class_vectors are \(15,\) each, the images' are \(16,\)"
    ):
        make({k: v[1:] for k, v in texts.items()}).fit(x, y)


def test_zero_shot_without_descriptions_is_refused():
    x, y, _ = described()
    with pytest.raises(ValueError, match="class_vectors is None"):
        ZeroShotProbe().fit(x, y)


@pytest.mark.parametrize("C", [1e-4, 1e-2])
def test_text_is_at_the_minimum_of_its_penalised_loss(C):
    x, y, texts = described(noise=3)
    probe = TextProbe(texts, C=C, temperature=0.1, tol=1e-13).fit(x, y)
    z = x / np.linalg.norm(x, axis=1, keepdims=True) / 0.1
    T = np.stack([t / np.linalg.norm(t) for t in texts.values()])
    logits = z @ probe.coef_.T + probe.intercept_
    truth = (y[:, None] == np.array(list(texts))).astype(float)
    residual = np.exp(logits - logsumexp(logits, axis=1, keepdims=True)) - truth
    np.testing.assert_allclose(C * residual.T @ z, T - probe.coef_, atol=1e-5)
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-3)
    assert np.abs(T - probe.coef_).max() > 1e-3


def test_text_with_no_descriptions_is_logistic_regression_on_unit_vectors():
    x, y, _ = described(noise=3)
    z = x / np.linalg.norm(x, axis=1, keepdims=True) / 0.1
    theirs = LogisticRegression(C=0.01, tol=1e-9, max_iter=1000).fit(z, y)
    ours = TextProbe(C=0.01, temperature=0.1).fit(x, y)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(z), atol=1e-4)


def test_with_two_labels_a_class_the_descriptions_help():
    losses = {"text": [], "plain": []}
    for seed in range(5):
        x, y, texts = described(seed, n=120, noise=2.5)
        for name, vectors in (("text", texts), ("plain", None)):
            probe = TextProbe(vectors, C=1e-3, temperature=0.1).fit(x[:6], y[:6])
            losses[name].append(log_loss(y[6:], probe.predict_proba(x[6:])))
    assert np.mean(losses["text"]) < 0.8 * np.mean(losses["plain"])


def checkerboard(n=600, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 2))
    return x, (x[:, 0] > 0) ^ (x[:, 1] > 0)


def test_mlp_parts_what_no_line_parts():
    x, y = checkerboard()
    new, truth = checkerboard(seed=1)
    assert LogisticProbe(C=10).fit(x, y).score(new, truth) < 0.65
    for sizes in ((64,), (32, 32)):
        probe = MLPProbe(sizes, learning_rate=0.01, weight_decay=0.0).fit(x, y)
        assert probe.score(new, truth) > 0.95
        assert [w.shape[1] for w in probe.weights_] == [*sizes, 2]


def test_mlp_trains_as_long_as_the_part_held_back_gains():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 40)), rng.integers(0, 2, 400)  # nothing to learn but by heart
    probe = MLPProbe(patience=5, learning_rate=0.01).fit(x, y)
    losses = probe.validation_losses_
    assert len(losses) == np.argmin(losses) + 1 + 5
    shorter = MLPProbe(patience=5, learning_rate=0.01, max_epochs=int(np.argmin(losses)) + 1)
    for a, b in zip(probe.weights_, shorter.fit(x, y).weights_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_mlp_that_runs_away_is_refused_with_what_to_do():
    x, y = checkerboard(80)
    with pytest.raises(ValueError, match="give a learning_rate below"):
        MLPProbe(learning_rate=1e30).fit(x * 1e30, y)


def test_mlp_answers_as_torchs_layers_with_its_weights():
    x, y = checkerboard()
    probe = MLPProbe((8, 5), max_epochs=3).fit(x, y)
    rows = torch.as_tensor(x)
    for i, (w, b) in enumerate(zip(probe.weights_, probe.biases_, strict=True)):
        rows = torch.nn.functional.linear(rows, *(torch.as_tensor(v).double() for v in (w.T, b)))
        rows = torch.relu(rows) if i < 2 else torch.softmax(rows, dim=1)
    np.testing.assert_allclose(probe.predict_proba(x), rows, rtol=1e-6)


def test_mlp_leaves_torchs_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    MLPProbe(max_epochs=2).fit(*checkerboard(60))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("make", [LogisticProbe, MLPProbe, OrdinalProbe, TextProbe])
def test_balanced_weights_let_a_rare_class_be_found(make):
    rng = np.random.default_rng(0)
    y = (np.arange(400) % 20 == 0).astype(int)
    x = rng.normal(size=(400, 6)) + y[:, None] * 0.8
    few = {"max_epochs": 60} if make is MLPProbe else {}
    plain, even = (make(class_weight=w, **few).fit(x, y) for w in (None, "balanced"))
    assert plain.predict_proba(x)[:, 1].mean() == pytest.approx(0.05, abs=0.03)
    assert even.predict_proba(x)[:, 1].mean() > 0.15
    assert even.predict(x)[y == 1].mean() > 0.6


HEADS = [
    KNNProbe(),
    LogisticProbe(),
    MLPProbe(max_epochs=3),
    OrdinalProbe(),
    PrototypeProbe(),
    TextProbe(temperature=0.1),
    Prompted(),
]
each_head = pytest.mark.parametrize("head", HEADS, ids=lambda h: type(h).__name__)


@each_head
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_numbers_are_refused(head, bad):
    x, y = graded(40, 4)
    fitted = head.fit(x, y)
    x[3, 2] = bad
    for act in (fitted.predict_proba, lambda v: head.fit(v, y)):
        with pytest.raises(ValueError, match="NaN|infinity"):
            act(x)


@each_head
def test_one_class_is_refused_by_name_or_answered(head):
    x, _ = graded(40, 4)
    if isinstance(head, KNNProbe):
        assert (head.fit(x, ["A"] * 40).predict(x) == "A").all()
        return
    with pytest.raises(ValueError, match="all 40 labels are of one class, A: there is nothing"):
        head.fit(x, ["A"] * 40)


@each_head
@pytest.mark.parametrize(
    "missing", [["a", "b", None], ["a", "b", ""], [0.0, 1.0, np.nan], np.array(["a", "b", ""])]
)
def test_missing_labels_are_counted_and_refused(head, missing):
    with pytest.raises(ValueError, match="1 labels are missing; leave those rows out"):
        head.fit(np.eye(3), missing)


@each_head
def test_whole_numbers_as_floats_are_labels_and_others_are_refused(head):
    x, y = graded(60, 4)
    fitted = head.fit(x, y.astype(float))
    assert fitted.classes_.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert set(fitted.predict(x)) <= {0.0, 1.0, 2.0, 3.0}
    with pytest.raises(ValueError, match="continuous"):
        head.fit(x, y + 0.5 * x[:, 0])


@each_head
def test_several_labels_a_row_are_refused_with_what_to_do_and_that_works(head):
    x, y = graded(60, 4)
    several = np.stack([y > 0, y > 1], axis=1).astype(int)
    with pytest.raises(ValueError, match=r"\(60, 2\).*OneVsRestClassifier\(head\)"):
        head.fit(x, several)
    if not isinstance(head, Prompted):
        assert OneVsRestClassifier(head).fit(x, several).predict_proba(x).shape == (60, 2)


@each_head
@pytest.mark.parametrize("labels", [["A"] * 20 + ["B"], ["A"] * 10 + ["B"] * 10 + ["C"]])
def test_a_class_of_one_row_is_learnt(head, labels):
    x = np.random.default_rng(0).normal(size=(len(labels), 5)) * 0.1
    x[:10, 0], x[10:, 1], x[-1] = 1, 1, [0, 0, 0, 0, 2]
    p = head.fit(x, labels).predict_proba(x)
    assert np.isfinite(p).all()
    if not isinstance(head, MLPProbe | OrdinalProbe):  # too little data; not an order
        assert p[:, -1].argmax() == len(labels) - 1


@each_head
def test_constant_columns_and_rows_of_zeros_give_numbers(head):
    x, y = graded(60, 4)
    x[:, 1], x[5] = 0.1, 0
    assert np.isfinite(head.fit(x, y).predict_proba(x)).all()
    assert np.isfinite(head.fit(np.ones_like(x), y).predict_proba(x)).all()


@each_head
def test_more_columns_than_rows(head):
    x, y = graded(20, 300)
    p = head.fit(x, y).predict_proba(x)
    np.testing.assert_allclose(p.sum(axis=1), 1)


@each_head
def test_a_thousand_classes(head):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(1000), 2)
    x = rng.normal(size=(1000, 12))[y] + 0.05 * rng.normal(size=(2000, 12))
    if isinstance(head, LogisticProbe):
        head = LogisticProbe(C=10, tol=1e-4)
    if isinstance(head, TextProbe):
        head = TextProbe(C=0.1, temperature=0.1, tol=1e-4)
    p = head.fit(x, y).predict_proba(x)
    assert p.shape == (2000, 1000)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    if isinstance(head, KNNProbe | LogisticProbe | PrototypeProbe | TextProbe):
        assert (p.argmax(axis=1) == y).mean() > 0.9


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (OrdinalProbe(C=0), "C is 0; give a number above 0"),
        (OrdinalProbe(tol=-1), "tol is -1"),
        (OrdinalProbe(max_iter=0), "max_iter is 0"),
        (PrototypeProbe("manhattan"), "metric is 'manhattan'; give 'cosine' or 'euclidean'"),
        (PrototypeProbe(temperature=0), "temperature is 0"),
        (TextProbe(C=-1), "C is -1"),
        (TextProbe(temperature=None), "temperature is None"),
        (MLPProbe(hidden_layer_sizes=(5, 5, 5)), r"hidden_layer_sizes is \(5, 5, 5\)"),
        (MLPProbe(hidden_layer_sizes=(0,)), "hidden_layer_sizes"),
        (MLPProbe(dropout=1), "dropout is 1"),
        (MLPProbe(weight_decay=-1), "weight_decay is -1"),
        (MLPProbe(learning_rate=0), "learning_rate is 0"),
        (MLPProbe(batch_size=0), "batch_size is 0"),
        (MLPProbe(validation_fraction=1), "validation_fraction is 1"),
    ],
)
def test_bad_parameters_are_refused_by_name_and_value(head, message):
    with pytest.raises(ValueError, match=message):
        head.fit(*graded(40, 4))


@pytest.mark.parametrize("make", [OrdinalProbe, TextProbe])
def test_a_grid_of_what_a_head_cannot_sweep_is_refused(make):
    x, y = graded(40, 4)
    with pytest.raises(ValueError, match="grid is of C, not of tol"):
        make().fit_grid(x, y, [(np.arange(30), np.arange(30, 40))], {"tol": [1]})


def test_every_head_has_the_shared_ground():
    assert all(isinstance(head, VectorClassifier) for head in HEADS)


def test_the_guide_runs_and_its_head_keeps_the_contract(monkeypatch):
    module = types.ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", module)  # so that its head can be pickled
    names = vars(module)
    text = (Path(__file__).parents[1] / "docs" / "heads.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, names)
    assert names["head"].predict_proba(names["images"]).shape == (20, 2)


def test_the_guides_table_has_every_head_and_parameter():
    lines = (Path(__file__).parents[1] / "docs" / "heads.md").read_text().splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    for name in available(PROBES):
        head = load(PROBES, name)
        missing = [p for p in head().get_params() if f"`{p}`" not in rows[name]]
        assert not [p for p in missing if p != "class_vectors"], f"{name}: {missing}"
        assert ("as they are" in rows[name]) == (not head.standardize)

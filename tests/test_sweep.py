"""Choosing parameters on the training side, learning from few, and heads from anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as sk_log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from test_evaluate import cohort
from threadpoolctl import threadpool_limits
from vector_stores import unit, write

from embedstore import choose
from embedstore.cli import _run
from embedstore.errors import DataError, UnknownName, UsageError
from embedstore.evaluate import evaluate
from embedstore.few import Few
from embedstore.fitted import fit
from embedstore.heads import grids, load_heads
from embedstore.probes.logistic import LogisticProbe
from embedstore.splits import inner_folds, kfold, linked


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Matrices this small take twice as long on two threads."""
    with threadpool_limits(1):
        yield


def parts(embeddings):
    labels = embeddings.columns["y"]
    truth = np.unique(labels, return_inverse=True)[1].astype(np.intp)
    return np.asarray(embeddings.vectors, np.float32), truth, linked(embeddings), labels


@pytest.mark.parametrize("head", ["logistic", "sklearn.neighbors:KNeighborsClassifier"])
def test_what_is_chosen_is_what_an_explicit_nested_search_chooses(head):
    embeddings = cohort(signal=0.5, seed=4)
    vectors, truth, groups, labels = parts(embeddings)
    split, exact = kfold(embeddings, labels, 4, 0), vectors.astype(np.float64)
    (loaded,) = load_heads([head])
    name, values = ("C", [1e-4, 1e-2, 1.0]) if head == "logistic" else ("n_neighbors", [3, 9, 27])
    found = choose.chosen(loaded, {name: values}, vectors, truth, groups, list(split))

    def reference(value):
        if head == "logistic":
            own = LogisticRegression(C=value, tol=1e-8, max_iter=10_000)
        else:
            own = KNeighborsClassifier(value)
        return make_pipeline(StandardScaler(), own)

    for (train, test), one in zip(split, found, strict=True):
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
        losses = []
        for value in values:
            inner = np.zeros((len(train), 3))
            for a, b in splitter.split(train, truth[train], groups[train]):
                model = reference(value).fit(exact[train[a]], truth[train[a]])
                inner[b] = model.predict_proba(exact[train[b]])
            losses.append(sk_log_loss(truth[train], np.clip(inner, 1e-15, 1), labels=[0, 1, 2]))
        best = values[int(np.argmin(losses))]
        assert one.parameters == {name: best}
        model = reference(best).fit(exact[train], truth[train])
        np.testing.assert_allclose(one.answers, model.predict_proba(exact[test]), atol=1e-3)


def test_a_choice_never_sees_the_tested_side():
    embeddings = cohort(signal=0.5, seed=4)
    vectors, truth, groups, labels = parts(embeddings)
    sides = list(kfold(embeddings, labels, 4, 0))[:1]
    grid = {"C": [1e-4, 1e-2, 1.0, 100.0]}
    before = choose.chosen(LogisticProbe, grid, vectors, truth, groups, sides)
    other = truth.copy()
    other[sides[0][1]] = (other[sides[0][1]] + 1) % 3  # another truth of the tested images
    after = choose.chosen(LogisticProbe, grid, vectors, other, groups, sides)
    assert after[0].parameters == before[0].parameters
    np.testing.assert_array_equal(after[0].answers, before[0].answers)


def test_inner_folds_keep_groups_together_and_test_every_row_once():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    truth = np.repeat(rng.integers(0, 3, 40), 3)
    folds = inner_folds(truth, groups, 0)
    assert sorted(np.concatenate([b for _, b in folds])) == list(range(120))
    for a, b in folds:
        assert not set(groups[a]) & set(groups[b])
        assert set(truth[a]) == {0, 1, 2}


@pytest.mark.parametrize(("held", "most", "folds"), [(20, 5, 5), (20, 3, 3), (2, 5, 2), (4, 5, 4)])
def test_inner_folds_are_scikit_learns_and_fewer_where_a_class_has_few_groups(held, most, folds):
    rng = np.random.default_rng(held)
    groups = rng.permutation(np.repeat(np.arange(20 + held), 3))
    truth = (groups < held).astype(int)
    for seed in range(3):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        found = inner_folds(truth, groups, seed, **({} if most == 5 else {"most": most}))
        for sides, expected in zip(found, splitter.split(truth, truth, groups), strict=True):
            for side, rows in zip(sides, expected, strict=True):
                np.testing.assert_array_equal(side, rows)


def test_a_class_of_one_patient_cannot_be_chosen_on():
    groups = np.repeat(np.arange(10), 3)
    truth = np.where(groups == 0, 1, 0)
    with pytest.raises(DataError, match="one patient on a training side"):
        inner_folds(truth, groups, 0)


def test_the_edge_of_a_grid_is_said():
    embeddings = cohort(signal=0.4, seed=1)
    narrow = evaluate(embeddings, "y", LogisticProbe, "logistic", grid={"C": [1e-9, 1e-8, 1e-7]})
    assert any("C is mostly 1e-07, the edge" in note for note in narrow.notes)
    assert [c["C"] for c in narrow.chosen] == [1e-7] * 5
    wide = evaluate(embeddings, "y", LogisticProbe, "logistic", grid={"C": [1e-9, 1e-2, 1e6]})
    assert not any("edge" in note for note in wide.notes)


def test_scores_become_probabilities_on_folds_of_whole_patients():
    embeddings = cohort(seed=3)
    vectors, truth, groups, labels = parts(embeddings)
    train, test = next(iter(kfold(embeddings, labels, 4, 0)))
    fitted = fit(LinearSVC(C=0.01), vectors[train], truth[train], groups[train])
    scaler = StandardScaler().fit(vectors[train])
    cv = list(
        StratifiedGroupKFold(5, shuffle=True, random_state=0).split(
            train, truth[train], groups[train]
        )
    )
    least = min(len(np.unique(groups[train][truth[train] == c])) for c in range(3))
    assert least >= 5
    own = CalibratedClassifierCV(LinearSVC(C=0.01), cv=cv, ensemble=False)
    own.fit(scaler.transform(vectors[train]), truth[train])
    expected = own.predict_proba(scaler.transform(vectors[test]))
    np.testing.assert_allclose(fitted.answers(vectors[test], 3), expected, atol=1e-4)


@pytest.mark.parametrize("few", [Few(of_each_class=3), Few(share=0.25)])
def test_few_are_drawn_from_the_training_side_class_by_class(few):
    groups = np.repeat(np.arange(60), 2)
    truth = np.repeat(np.arange(60) % 3, 2)
    train = np.flatnonzero(groups < 48)
    drawn = few.take(truth, groups, train, 7)
    assert set(drawn) <= set(train.tolist())
    assert len(set(drawn.tolist())) == len(drawn)
    expected = few.of_each_class or round(0.25 * 32)
    assert np.bincount(truth[drawn]).tolist() == [expected] * 3
    assert len(np.unique(groups[drawn])) == len(drawn)  # enough patients for one image each
    assert few.take(truth, groups, train, 7).tolist() == drawn.tolist()
    assert few.take(truth, groups, train, 8).tolist() != drawn.tolist()


def test_smaller_draws_are_within_larger_ones():
    groups, truth = np.arange(60), np.arange(60) % 3
    draws = [Few(n).take(truth, groups, np.arange(60), 5) for n in (1, 2, 4, 8)]
    for small, large in zip(draws, draws[1:], strict=False):
        assert set(small) < set(large)


def test_more_than_there_is_cannot_be_drawn():
    with pytest.raises(UsageError, match="has 5 images of a class, fewer than 6"):
        Few(6).take(np.arange(10) % 2, np.arange(10), np.arange(10), 0)


def test_learning_from_everything_is_the_plain_score():
    embeddings = cohort(seed=2)
    plain = evaluate(embeddings, "y", LogisticProbe, "logistic")
    whole = evaluate(embeddings, "y", LogisticProbe, "logistic", few=Few(share=1.0))
    assert whole.metrics == plain.metrics
    assert evaluate(embeddings, "y", LogisticProbe, "logistic", few=Few(1)).n_train == 3


MINE = """
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

class Mine(ClassifierMixin, BaseEstimator):
    def __init__(self, power=1.0):
        self.power = power
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self
    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))
"""


def test_a_head_from_a_file_and_its_settings(tmp_path: Path):
    (tmp_path / "mine.py").write_text(MINE)
    (head, logistic) = load_heads(
        [f"{tmp_path}/mine.py:Mine", "logistic"], ["Mine.power=2.5", "C=0.5", "class_weight=None"]
    )
    assert head().get_params() == {"power": 2.5}
    assert (logistic().C, logistic().class_weight) == (0.5, None)
    assert head(power=7).power == 7
    report = evaluate(cohort(), "y", head, head.name)
    assert report.metrics["auroc"].value == pytest.approx(0.5)
    unset = load_heads([f"{tmp_path}/mine.py:Mine", "logistic"])
    tried = grids(unset, ["Mine.power=1,2.5,word"])
    assert tried["Mine"] == {"power": [1, 2.5, "word"]}
    assert tried["logistic"] == {"C": list(LogisticProbe.default_grid["C"])}


@pytest.mark.parametrize(
    ("names", "settings", "error", "text"),
    [
        (["nosuch"], [], UnknownName, "FILE.py:CLASS"),
        (["./nosuch.py:Mine"], [], UsageError, "no such file"),
        (["sklearn.svm:Nothing"], [], UsageError, "no 'Nothing'; it has"),
        (["sklearn.svm:SVR"], [], UsageError, "not a classifier"),
        (["no.such.module:A"], [], UsageError, "cannot import"),
        (["logistic"], ["Z=1"], UsageError, "logistic has C"),
        (["logistic"], ["C"], UsageError, "NAME=VALUE"),
        (["logistic", "knn"], ["knn.C=1"], UsageError, "knn has n_neighbors"),
    ],
)
def test_heads_and_settings_that_are_not_there(names, settings, error, text):
    with pytest.raises(error, match=text):
        load_heads(names, settings)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--grid", "C=1"], "give --sweep too"),
        (["--few-shot", "0"], "whole numbers"),
        (["--label-fraction", "1.5"], "shares such as"),
        (["--few-shot", "1", "--label-fraction", "1"], "not both"),
        (["--few-shot", "1", "--sweep"], "leave it out"),
        (["--head", "sklearn.svm:LinearSVC", "--sweep"], "nothing to try of LinearSVC"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    arguments, text, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write(tmp_path / "s.zarr", unit(0, 4, 3), labels={"y": [*"abab"]})
    assert _run(["probe", str(tmp_path / "s.zarr"), "--label", "y", *arguments], False) == 2
    said = capfd.readouterr().err
    assert text in said
    assert said.count("\n") == 1

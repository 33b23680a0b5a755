"""Answers brought to units, subgroups and diagrams, against polars and scikit-learn."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy.optimize import minimize_scalar
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from test_evaluate import cohort
from test_levels import screening

from embedstore.answered import Answered
from embedstore.cli import _run
from embedstore.errors import DataError, UsageError
from embedstore.evaluate import evaluate, judge
from embedstore.few import Few
from embedstore.levels import units
from embedstore.probes.logistic import LogisticProbe
from embedstore.protocol import Protocol
from embedstore.report import score_plot
from embedstore.scoring import scores, subgroups
from embedstore.split_files import SavedSplit
from embedstore.splits import holdout, kfold, linked, with_validation
from embedstore.subgroups import By
from embedstore.types import VALIDATION

NAMES = ("a", "b", "c")


def answered(embeddings, labels, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.searchsorted(NAMES, labels)
    runs = tuple(rng.dirichlet(np.ones(3), len(labels)) for _ in range(2))
    folds = tuple(kfold(embeddings, labels, 3, s).fold for s in range(2))
    columns = {"y": labels, "patient": embeddings.groups, **embeddings.columns}
    return Answered(embeddings.ids, truth, linked(embeddings), columns, runs, folds)


def test_an_exams_answer_is_the_mean_of_its_images_and_two_labels_are_none():
    embeddings = screening(patients=20, lost=0.2, seed=4)
    rng = np.random.default_rng(0)
    of_patient = dict(zip(np.unique(embeddings.groups), rng.choice(NAMES, 20), strict=True))
    labels = np.array([of_patient[g] for g in embeddings.groups])
    odd = rng.random(len(labels)) < 0.1
    labels[odd] = "c"
    each = answered(embeddings, labels)
    of = units(embeddings, "exam")
    made, differ = each.at(of, labels)
    table = pl.DataFrame({"exam": embeddings.columns["exam"], "y": labels, "p": each.runs[1][:, 2]})
    expected = table.group_by("exam").agg(pl.col("y").n_unique().alias("k"), pl.col("p").mean())
    one = expected.filter(pl.col("k") == 1).sort("exam")
    assert made.ids.tolist() == one["exam"].to_list()
    np.testing.assert_allclose(made.runs[1][:, 2], one["p"].to_numpy())
    assert sorted(of.ids[differ].tolist()) == sorted(
        expected.filter(pl.col("k") > 1)["exam"].to_list()
    )
    for exam, fold in zip(made.ids, made.fold[0], strict=True):
        assert set(each.fold[0][embeddings.columns["exam"] == exam].tolist()) == {int(fold)}


def test_a_subgroups_scores_are_those_of_its_images_alone():
    embeddings = screening(patients=30, seed=5)
    labels = np.random.default_rng(1).choice(NAMES, len(embeddings))
    each = answered(embeddings, labels)
    found = {g.value: g for g in subgroups(each, NAMES, 0, [By("view")])}
    assert set(found) == {"CC", "MLO"}
    for view, group in found.items():
        rows = embeddings.columns["view"] == view
        assert (group.n_images, group.n_patients) == (rows.sum(), 30)
        right = np.mean([(run.argmax(1) == each.truth)[rows].mean() for run in each.runs])
        assert group.metrics["accuracy"].value == pytest.approx(right)
        areas = [
            sk.roc_auc_score(each.truth[rows], run[rows], multi_class="ovr") for run in each.runs
        ]
        assert group.metrics["auroc"].value == pytest.approx(np.mean(areas))
        kappas = [
            sk.cohen_kappa_score(each.truth[rows], run[rows].argmax(1), weights="linear")
            for run in each.runs
        ]
        assert group.metrics["linear_kappa"].value == pytest.approx(np.mean(kappas))


def test_the_reliability_diagram_is_scikit_learns():
    embeddings = screening(patients=60, seed=6)
    labels = np.random.default_rng(1).choice(NAMES, len(embeddings))
    each = answered(embeddings, labels)
    confidence = each.runs[0].max(axis=1)
    right = each.runs[0].argmax(axis=1) == each.truth
    accuracy, mean = calibration_curve(right, confidence, n_bins=10)
    bins = each.reliability()
    np.testing.assert_allclose([b.accuracy for b in bins], accuracy)
    np.testing.assert_allclose([b.confidence for b in bins], mean)
    assert sum(b.n for b in bins) == len(labels)


def test_a_grouping_is_scored_as_a_question_of_two_classes():
    embeddings = screening(patients=30, seed=7)
    labels = np.random.default_rng(1).choice(NAMES, len(embeddings))
    each = answered(embeddings, labels)
    found = scores(each, NAMES, 0, [("b", "c")])
    two = [sk.roc_auc_score(each.truth > 0, run[:, 1] + run[:, 2]) for run in each.runs]
    assert found["b+c: auroc"].value == pytest.approx(np.mean(two))
    assert found["b+c: auroc"].floor == 0.5
    assert "b+c: sensitivity@0.9" in found
    for wrong, said in ((("x",), "no class 'x'"), (NAMES, "some of the classes")):
        with pytest.raises(UsageError, match=said):
            scores(each, NAMES, 0, [wrong])


def with_exams(embeddings):
    exams = np.char.add(embeddings.groups, "e")
    sides = np.resize(["L", "R"], len(exams))
    columns = {**embeddings.columns, "exam": exams, "laterality": sides}
    return replace(embeddings, columns=columns)


@pytest.mark.parametrize("fuse", ["probabilities", "mean", "max", "concat"])
def test_an_exam_is_learnt_from_and_tested_once(fuse):
    embeddings = with_exams(cohort(3, patients=50, images=4))
    report = evaluate(embeddings, "y", LogisticProbe, "l", level="exam", fuse=fuse)
    assert report.n_test == report.n_patients == 50
    assert (report.level, report.fuse) == ("exam", fuse)
    assert report.n_train == (160 if fuse == "probabilities" else 40)
    assert report.metrics["auroc"].value > report.metrics["auroc"].floor + 0.2
    assert (report.sides is not None) == (fuse == "probabilities")


def test_left_and_right_that_disagree_are_kept_and_left_out_of_the_exam():
    embeddings = with_exams(cohort(2, patients=50, images=2))
    labels = embeddings.columns["y"].copy()
    labels[0] = "b" if labels[0] == "a" else "a"
    odd = replace(embeddings, columns={**embeddings.columns, "y": labels})
    trial = judge(odd, "y", LogisticProbe, "l", Protocol(level="exam"))
    assert trial.report.n_test == 49
    assert "y differs between the images of 1 exams" in " ".join(trial.report.notes)
    right = trial.answered.runs[0].argmax(axis=1)
    pairs = zip(odd.columns["exam"][::2], right[::2], right[1::2], strict=True)
    apart = {exam for exam, one, other in pairs if one != other}
    assert set(trial.report.sides.apart) == apart
    breasts = evaluate(odd, "y", LogisticProbe, "l", level="breast")
    assert breasts.n_test == 100


@pytest.mark.parametrize("draw", ["_intervals", "_curves"])
def test_a_picture_of_scores_shows_the_reports_numbers(draw):
    table = cohort()
    few = [Few(share=share) for share in (0.5, 1.0)]
    reports = [evaluate(table, "y", LogisticProbe, "logistic", few=one) for one in few]
    panel = Figure().subplots()
    getattr(score_plot, draw)(panel, reports, "auroc")
    scores = [r.metrics["auroc"] for r in reports]
    numbers = {
        round(float(v), 9) for line in panel.lines for v in (*line.get_xdata(), *line.get_ydata())
    } | {
        round(float(v), 9)
        for drawn in panel.collections
        for path in drawn.get_paths()
        for v in path.vertices.ravel()
    }
    for score in scores:
        for value in (score.value, score.low, score.high, score.floor):
            assert round(value, 9) in numbers
    if draw == "_curves":
        assert {float(r.n_train) for r in reports} <= numbers


def test_the_options_of_scores(films: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    store, picture = tmp_path / "s.zarr", tmp_path / "r.png"
    _run(["extract", str(films), "--store", str(store), "--backbone", "statistics"], False)
    say = ["probe", str(store), "--label", "tissue", "--folds", "2"]
    drawn = [*say, "--head", "logistic", "--head", "prototype", "--reliability", str(picture)]
    drawn += ["--metric", "log_loss", "--metric", "recall:dark"]
    assert _run([*drawn, "--plot", str(tmp_path / "scores.svg")], False) == 0
    assert (tmp_path / "scores.svg").read_text().count('<g id="axes_') == 2
    shown = capfd.readouterr().out
    assert "recall of" in shown
    assert "McNemar" in shown
    assert _run(drawn, False) == 2
    assert "is there already" in capfd.readouterr().err
    with Image.open(picture) as image:
        assert image.width > image.height > 100
    capfd.readouterr()
    for wrong, said in (
        (["--metric", "beauty"], "--metric beauty: there are accuracy"),
        (["--reference", "mlp"], "--reference mlp: give one of statistics/logistic"),
        (["--by", "tissue"], "what is predicted"),
        (["--fuse", "mean"], "needs a --level"),
        (
            ["--head", "sklearn.svm:LinearSVC", "--save", str(tmp_path / "p")],
            "LinearSVC has no probabilities",
        ),
        (["--by", "colour"], "no column 'colour'"),
        (["--level", "exam", "--fuse", "sum"], "--fuse"),
        (["--reliability", "x.doc"], "ends in .png"),
        (["--plot", "x.doc"], "ends in .png"),
        (["--split", "column"], "column split"),
        (["--split", str(tmp_path / "no.json")], "no such split"),
        (["--split", "column", "--test-share", "0.2"], "leave --test-share"),
        (["--level", "exam", "--fuse", "mean", "--save", str(tmp_path / "p")], "--save"),
    ):
        # a split leaves nothing to --folds
        assert _run([*(say[:4] if "--split" in wrong else say), *wrong], False) in {1, 2}
        error = capfd.readouterr().err
        assert said in error
        assert "Traceback" not in error


def test_what_is_missing_is_said():
    embeddings = with_exams(cohort(3, patients=50, images=4))
    sides, views = embeddings.columns["laterality"].copy(), np.resize(["CC", "MLO"], 200)
    sides[:7] = ""
    ages = np.repeat(np.linspace(40, 70, 50), 4).astype("<U5")
    ages[[3, 9, 11]] = ["NaN", "", "nan"]
    columns = {**embeddings.columns, "laterality": sides, "view": views, "age": ages}
    gappy = replace(embeddings, columns=columns)
    report = evaluate(gappy, "y", LogisticProbe, "l", by=(By("age", (55.0,)),))
    assert sum(g.n_images for g in report.subgroups) == 197
    assert "3 without age are in none of its subgroups" in report.notes
    report = evaluate(gappy, "y", LogisticProbe, "l", level="breast")
    assert any("7 images without a laterality are taken for a breast" in n for n in report.notes)
    report = evaluate(gappy, "y", LogisticProbe, "l", level="exam")
    assert any("7 images without a laterality are of neither side" in n for n in report.notes)


def test_one_class_left_at_a_level_is_no_score():
    embeddings = with_exams(cohort(2, patients=40, images=2))
    labels = embeddings.columns["y"].copy()
    labels[1::2] = "a"
    odd = replace(embeddings, columns={**embeddings.columns, "y": labels})
    with pytest.raises(DataError, match="y has one value left, a"):
        evaluate(odd, "y", LogisticProbe, "l", level="exam")


def test_a_class_that_sounds_like_nothing_known_is_said():
    embeddings = cohort(2, patients=40)
    labels = np.where(embeddings.columns["y"] == "a", "NaN", "b")
    report = evaluate(replace(embeddings, columns={"y": labels}), "y", LogisticProbe, "l")
    assert any("'NaN' is a class of y" in note for note in report.notes)


def test_what_is_not_a_number_is_null_in_json_and_comes_back():
    embeddings = with_exams(cohort(2, patients=40))
    groups = np.where(embeddings.columns["y"] == "a", "x", "z")
    columns = {**embeddings.columns, "group": groups}
    report = evaluate(
        replace(embeddings, columns=columns), "y", LogisticProbe, "l", by=(By("group"),)
    )
    text = json.dumps(report.to_dict(), allow_nan=False)
    again = type(report).from_dict(json.loads(text))
    assert np.isnan(again.subgroups[0].metrics["auroc"].value)
    assert again.metrics == report.metrics


def test_exams_are_tempered_by_the_exams_of_the_validation_side():
    embeddings = with_exams(cohort(2, patients=120, images=2))
    labels = embeddings.columns["y"]
    split = with_validation(embeddings, labels, holdout(embeddings, labels, 0.3, 0), 0.4)
    saved = SavedSplit("holdout", "patient", "y", (split,))
    how = Protocol(split=saved, level="exam")

    def overconfident(**settings):
        return LogisticProbe(C=1e4, **settings)

    plain = judge(embeddings, "y", overconfident, "l", how)
    sure = judge(embeddings, "y", overconfident, "l", replace(how, calibrate=True))
    aside = split.fold == VALIDATION
    each, exams = plain.answered.runs[0], embeddings.columns["exam"]
    means = np.array([each[exams == e].mean(axis=0) for e in np.unique(exams[aside])])
    truth = np.array([plain.answered.truth[exams == e][0] for e in np.unique(exams[aside])])

    def loss(t):
        powers = means ** (1 / t)
        return sk.log_loss(truth, powers / powers.sum(axis=1, keepdims=True), labels=[0, 1])

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    tested = plain.scored.tested
    powers = plain.scored.runs[0][tested] ** (1 / best)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(sure.scored.runs[0][tested], expected, atol=2e-3)
    assert abs(best - 1) > 0.2  # so that the test tells tempered from not

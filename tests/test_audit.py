"""An audit of stores with planted faults: each is found, and a clean store has none."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_stores import Collection, clean, with_vendor, with_view
from scipy.stats import chi2_contingency
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from embedstore.audit import Audit, Finding, Questions, audit, trials
from embedstore.audit.erasure import Eraser
from embedstore.audit.shortcuts import chance_of, cramers_v, shuffled
from embedstore.audit.strays import is_empty
from embedstore.audit.trials import Question
from embedstore.cli import app
from embedstore.errors import UsageError
from embedstore.metrics import measured, patient_draws
from embedstore.split_columns import from_column
from embedstore.splits import kfold
from embedstore.store import Store


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw patients fewer times: no test here is of the width of an interval."""
    monkeypatch.setattr(trials, "RESAMPLES", 200)


OUTLIERS = "Outliers and empty images"


def audited(made: Collection, folder: Path, **asked: Any) -> Audit:
    spec = made.write(folder / "s.zarr")
    return audit(Store.open(folder / "s.zarr"), spec, Questions("density", **asked))


def section(found: Audit, title: str) -> tuple[Finding, ...]:
    return next(s.findings for s in found.sections if s.title == title)


def ids(finding: Finding) -> set[str]:
    """Return every image that the evidence names."""
    told = " ".join(str(v) for line in finding.evidence for v in line.values())
    return set(re.findall(r"image-\d{4}", told))


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["audit", *arguments], catch_exceptions=False)
    return done.exit_code, done.stdout


def with_split(made: Collection, rule: str) -> Collection:
    """Add a column of splits: by patient, or by image."""
    places = {p: i for i, p in enumerate(dict.fromkeys(made.patients))}
    number = [places[p] // 3 if rule == "patient" else i // 3 for i, p in enumerate(made.patients)]
    split = [("train", "test")[n % 4 == 0] for n in number]
    return replace(made, columns={**made.columns, "split": split})


def test_a_clean_store_has_nothing_wrong(tmp_path: Path) -> None:
    made = with_split(with_view(with_vendor(clean(), agrees=0)), "patient")
    found = audited(made, tmp_path)
    assert found.of("wrong") == ()
    for split in ([], ["--split", "column"]):
        code, said = run(str(tmp_path / "s.zarr"), "--label", "density", *split)
        assert code == 0, said
        assert "0 wrong" in said


def test_a_split_by_image_is_wrong_and_says_who_is_on_both_sides(tmp_path: Path) -> None:
    made = with_split(clean(each=4), "image")
    found = audited(made, tmp_path, split="split")
    (wrong,) = found.of("wrong")
    sides = [
        {p for p, s in zip(made.patients, made.columns["split"], strict=True) if s == side}
        for side in ("train", "test")
    ]
    assert wrong.text.startswith(f"{len(sides[0] & sides[1])} patients on both sides")
    assert found.split == "column split"
    store = str(tmp_path / "s.zarr")
    assert run(store, "--label", "density", "--split", "column")[0] == 3
    assert run(store, "--label", "density")[0] == 0


@pytest.mark.parametrize(("by", "code"), [("patient", 0), ("image", 3)])
def test_a_split_from_a_file_is_judged(tmp_path: Path, by: str, code: int) -> None:
    clean(patients=30).write(tmp_path / "s.zarr")
    store, split = str(tmp_path / "s.zarr"), str(tmp_path / "split.json")
    made = ["split", store, "--label", "density", "--by", by, "--out", split]
    assert CliRunner().invoke(app, made, catch_exceptions=False).exit_code == 0
    found, said = run(store, "--label", "density", "--split", split, "--json")
    assert (found, json.loads(said)[0]["split"]) == (code, f"5-fold by {by}")


def test_a_near_identical_image_of_another_patient_is_found(tmp_path: Path) -> None:
    made = clean().with_copy(7, "someone else", clean().labels["density"][7])
    (wrong,) = audited(made, tmp_path).of("wrong")
    assert "near-identical" in wrong.text
    assert [(p["id"], p["and"]) for p in wrong.evidence] == [("image-0007", "image-0120")]
    assert {wrong.evidence[0]["patient"], wrong.evidence[0]["and patient"]} == {
        "patient-0003",
        "someone else",
    }


@pytest.mark.parametrize(("side", "wrong"), [("test", 1), ("train", 0)])
def test_with_a_split_only_pairs_across_it_count(tmp_path: Path, side: str, wrong: int) -> None:
    made = clean()
    split = ["train" if i // 2 % 4 else "test" for i in range(120)]
    made = replace(made, columns={**made.columns, "split": split})
    assert split[7] == "train"
    made = made.with_copy(7, "someone else", made.labels["density"][7])
    made.columns["split"][-1] = side
    assert len(audited(made, tmp_path, split="split").of("wrong")) == wrong


def test_one_file_of_two_patients_is_wrong(tmp_path: Path) -> None:
    made = clean()
    made.content[50] = made.content[3]
    wrong = audited(made, tmp_path).of("wrong")
    assert any(
        "several patients" in f.text and ids(f) == {"image-0003", "image-0050"} for f in wrong
    )


@pytest.mark.parametrize("copied", ["file", "image"])
def test_labels_that_contradict_each_other_are_wrong(tmp_path: Path, copied: str) -> None:
    made = clean()
    other = next(v for v in "ABC" if v != made.labels["density"][7])
    made = made.with_copy(7, made.patients[7] if copied == "file" else "someone else", other)
    if copied == "file":
        made.content[-1] = made.content[7]
    wrong = [f for f in audited(made, tmp_path).of("wrong") if "different labels" in f.text]
    assert [ids(f) for f in wrong] == [{"image-0007", "image-0120"}]


def test_a_patient_with_two_labels_is_looked_at_where_others_have_one(tmp_path: Path) -> None:
    made = clean()
    made.labels["density"][20] = next(v for v in "ABC" if v != made.labels["density"][21])
    (found,) = (f for f in section(audited(made, tmp_path), "Labels") if "patients have" in f.text)
    assert found.level == "look at"
    assert ids(found) == {"image-0020", "image-0021"}


def test_no_patient_is_looked_at_where_labels_are_of_images(tmp_path: Path) -> None:
    made = clean(each=4)
    made = replace(made, labels={"density": ["AB"[i % 2] for i in range(240)]})
    assert not [f for f in section(audited(made, tmp_path), "Labels") if "patients have" in f.text]


def test_planted_label_errors_are_suggested(tmp_path: Path) -> None:
    made = clean(patients=90)
    planted = [12, 45, 77, 110, 151]
    for row in planted:
        made.labels["density"][row] = "BCA"["ABC".index(made.labels["density"][row])]
    (found,) = (f for f in section(audited(made, tmp_path), "Labels") if "contradict" in f.text)
    named = [str(line["id"]) for line in found.evidence]
    assert {f"image-{row:04d}" for row in planted} <= set(named)
    assert len(named) < 3 * len(planted)


def test_what_a_leak_is_worth_is_what_scikit_learn_says(tmp_path: Path) -> None:
    made = clean(patients=45, each=4)
    rng = np.random.default_rng(5)
    made.vectors = rng.normal(size=(180, 16)) * 0.3 + rng.normal(size=(45, 16)).repeat(4, axis=0)
    found = audited(made, tmp_path)
    store = Store.open(tmp_path / "s.zarr")
    images = store.read(found.spec)
    truth, expected = images.columns["density"], {}
    for by in ("image", "patient"):
        scores = []
        for seed in range(3):
            p = np.zeros((180, 3))
            for train, test in kfold(images, truth, 5, seed, by):
                head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-8))
                p[test] = head.fit(images.vectors[train], truth[train]).predict_proba(
                    images.vectors[test]
                )
            right = accuracy_score(truth, np.array(list("ABC"))[p.argmax(axis=1)])
            scores.append([right, roc_auc_score(truth, p, multi_class="ovr")])
        expected[by] = np.mean(scores, axis=0)
    worth = expected["image"] - expected["patient"]
    said = [
        float(re.search(r"patient: ([+-][\d.]+)", f.text)[1])
        for f in section(found, "What a leak is worth")
    ]
    np.testing.assert_allclose(said, worth, atol=0.0006)
    assert [f.level for f in section(found, "What a leak is worth")] == ["look at"] * 2


def test_one_image_a_patient_has_no_leak_to_be_worth_anything(tmp_path: Path) -> None:
    found = audited(clean(patients=120, each=1), tmp_path)
    (only,) = section(found, "What a leak is worth")
    assert (only.level, "the same" in only.text) == ("fine", True)


def test_a_vendor_that_the_label_is_read_by_is_wrong(tmp_path: Path) -> None:
    made = clean(patients=120, signal=0.5)  # the label is hardly seen but for the vendor
    found = audited(with_view(with_vendor(made, agrees=0.6)), tmp_path)
    levels = {f.text.partition(":")[0]: f.level for f in section(found, "Shortcuts")}
    assert levels == {"vendor": "wrong", "view": "fine"}


def test_a_column_of_findings_is_only_looked_at_unless_named(tmp_path: Path) -> None:
    made = with_vendor(clean(patients=120, signal=0.5), agrees=0.6)
    made.labels["lesion"] = made.labels.pop("vendor")
    for asked, level in (((), "look at"), (("lesion",), "wrong")):
        folder = tmp_path / level.replace(" ", "-")
        found = section(audited(made, folder, shortcuts=asked), "Shortcuts")
        assert {f.level for f in found if f.text.startswith("lesion")} == {level}


def test_erasing_a_vendor_leaves_a_label_that_does_not_need_it(tmp_path: Path) -> None:
    made = with_vendor(clean(patients=120), agrees=0)
    made.write(tmp_path / "s.zarr")
    store = Store.open(tmp_path / "s.zarr")
    images = store.read("toy")
    vendor = images.columns["vendor"]
    auroc = {}
    for told in ("vendor", "density"):
        question = Question.of(images, images.columns[told])
        concept = np.unique(vendor, return_inverse=True)[1]
        for erased, of in (("before", None), ("after", concept)):
            runs = question.tell(question.splits, of)
            auroc[told, erased] = np.mean(
                [roc_auc_score(images.columns[told], r, multi_class="ovr") for r in runs]
            )
    assert auroc["vendor", "before"] > 0.99
    assert 0.35 < auroc["vendor", "after"] < 0.55
    assert auroc["density", "before"] > 0.95
    assert auroc["density", "before"] - auroc["density", "after"] < 0.01


def test_erasure_learns_from_the_training_side_alone(tmp_path: Path) -> None:
    made = with_vendor(clean(), agrees=0)
    made.write(tmp_path / "s.zarr")
    images = Store.open(tmp_path / "s.zarr").read("toy")
    question = Question.of(images, images.columns["density"])
    concept = np.unique(images.columns["vendor"], return_inverse=True)[1]
    split = question.splits[0]
    (run,) = question.tell([split], concept)
    train, test = next(iter(split))
    seen = Eraser.fit(images.vectors[train], concept[train])(images.vectors)
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-8))
    head.fit(seen[train], question.truth[train])
    np.testing.assert_allclose(run[test], head.predict_proba(seen[test]), atol=1e-3)


def test_a_constant_and_a_nearly_constant_picture_are_empty(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = clean()
    made.pictures = [rng.integers(0, 255, (64, 64)).astype(np.uint8) for _ in range(120)]
    made.pictures[10] = np.zeros((64, 64), np.uint8)
    made.pictures[30] = np.full((64, 64), 90, np.uint8)
    made.pictures[30][5, 5:7] = 255
    (wrong,) = audited(made, tmp_path).of("wrong")
    assert "empty" in wrong.text
    assert [line["id"] for line in wrong.evidence] == ["image-0010", "image-0030"]


def test_a_dark_but_real_picture_is_not_empty() -> None:
    film = np.zeros((100, 100), np.uint16)
    assert is_empty(film)
    film[:10, :10] = np.arange(100).reshape(10, 10) + 200  # a hundredth shows something
    assert not is_empty(film)


def test_equal_vectors_of_different_files_are_wrong(tmp_path: Path) -> None:
    made = clean()
    made.vectors[40] = made.vectors[90]
    wrong = [f for f in audited(made, tmp_path).of("wrong") if "equal" in f.text]
    assert [ids(f) for f in wrong] == [{"image-0040", "image-0090"}]


def test_without_kept_pixels_the_audit_says_so(tmp_path: Path) -> None:
    said = [f.text for f in section(audited(clean(), tmp_path), OUTLIERS)]
    assert any("pixels are not kept" in text for text in said)


def test_an_image_unlike_all_others_is_looked_at(tmp_path: Path) -> None:
    made = clean(patients=150, d=8)
    # others lie near a plane, as images of one kind do
    made.vectors[:, 3:] *= 0.05
    made.vectors[33, 3:] += 3
    (found,) = (f for f in audited(made, tmp_path).of("look at") if "are far" in f.text)
    assert found.evidence[0]["id"] == "image-0033"


def test_failures_and_images_without_a_label_are_counted(tmp_path: Path) -> None:
    made = replace(clean(), failures=3)
    made.labels["density"][0] = ""
    found = audited(made, tmp_path)
    assert any(f.text.startswith("3 images gave no vector") for f in found.of("look at"))
    assert "1 images without density left out" in found.notes
    assert found.n_images == 119


def test_unknown_patients_and_vectors_that_are_all_equal_are_said(tmp_path: Path) -> None:
    made = replace(with_view(clean()), patients=[""] * 120)
    made.vectors[:] = 1
    found = audited(made, tmp_path)
    assert any("patients unknown for 120 images" in note for note in found.notes)
    assert any(f.text.startswith("120 different files") for f in section(found, OUTLIERS))
    assert any("near-identical" in f.text for f in found.of("wrong"))


def test_json_page_and_exit_code_say_the_same(tmp_path: Path) -> None:
    made = clean().with_copy(7, "someone else", clean().labels["density"][7])
    made.write(tmp_path / "s.zarr")
    page = tmp_path / "page.html"
    arguments = (str(tmp_path / "s.zarr"), "--label", "density", "--html", str(page))
    code, said = run(*arguments, "--json")
    (told,) = json.loads(said)
    levels = [f["level"] for s in told["sections"] for f in s["findings"]]
    assert (code, told["wrong"], levels.count("wrong")) == (3, 1, 1)
    html = page.read_text()
    assert "image-0120" in html
    assert not re.search("https?:|src=|<link|@import|<script", html)
    assert run(*arguments)[0] == 3  # an earlier page is replaced


def test_a_file_that_is_no_page_is_not_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine")
    done = CliRunner().invoke(app, ["audit", "no.zarr", "--label", "x", "--html", str(mine)])
    assert isinstance(done.exception, UsageError)
    assert "is no audit" in str(done.exception)
    assert mine.read_text() == "<p>mine"


@pytest.mark.parametrize(
    ("asked", "said"),
    [("nothing", "no such column"), ("density", "no such column"), ("site", "1 values")],
)
def test_a_shortcut_that_cannot_be_judged_is_refused(tmp_path: Path, asked: str, said: str) -> None:
    made = clean()
    made.labels["site"] = ["north"] * 120
    with pytest.raises(UsageError, match=said):
        audited(made, tmp_path, shortcuts=(asked,))


def test_cramers_v_is_the_root_of_its_chi_squared() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 3, 500)
    other = np.where(rng.random(500) < 0.4, one, rng.integers(0, 4, 500))
    table = np.histogram2d(one, other, bins=[np.arange(4), np.arange(5)])[0]
    chi2 = chi2_contingency(table, correction=False).statistic
    assert cramers_v(one, other) == pytest.approx(np.sqrt(chi2 / 500 / 2))
    assert cramers_v(one, one) == pytest.approx(1)


def test_chance_is_that_of_chi_squared_and_counts_patients_not_images() -> None:
    rng = np.random.default_rng(1)
    one = rng.integers(0, 3, 400)
    other = np.where(rng.random(400) < 0.1, one, rng.integers(0, 3, 400))
    table = np.histogram2d(one, other, bins=3)[0]
    expected = chi2_contingency(table, correction=False).pvalue
    assert chance_of(one, other, np.arange(400)) == pytest.approx(expected, abs=0.02)
    found = [
        chance_of(
            *np.random.default_rng(s).integers(0, 3, (2, 30)).repeat(20, axis=1),
            np.arange(30).repeat(20),
        )
        for s in range(60)
    ]
    assert sum(p < 0.05 for p in found) <= 9  # by image nearly all would be


def test_a_shuffled_column_keeps_each_patients_values_together() -> None:
    groups = np.random.default_rng(0).permutation(np.arange(40).repeat(5))
    values = groups % 7
    made = shuffled(values, groups)
    assert all(len(set(made[groups == g].tolist())) == 1 for g in range(40))
    assert np.bincount(made, minlength=7).tolist() == np.bincount(values, minlength=7).tolist()
    assert abs(np.corrcoef(made, values)[0, 1]) < 0.5


def test_scores_are_those_of_the_metrics(tmp_path: Path) -> None:
    clean().write(tmp_path / "s.zarr")
    images = Store.open(tmp_path / "s.zarr").read("toy")
    question = Question.of(images, images.columns["density"])
    runs = question.tell(question.splits)
    draws = patient_draws(question.groups, 200, 0)
    expected = np.mean([measured(question.truth, r, draws, "ABC")["auroc"] for r in runs], axis=0)
    np.testing.assert_array_equal(question.measured(runs).values["auroc"], expected)


def test_a_column_of_splits_is_read_as_probe_reads_it(tmp_path: Path) -> None:
    made = with_split(clean(), "patient")
    found = audited(made, tmp_path, split="split")
    images = Store.open(tmp_path / "s.zarr").read("toy")
    assert found.split == from_column(images, images.columns["density"], "split").method

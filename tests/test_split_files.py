"""Splits by columns, what leaks through a split, and splits in files: against explicit sets."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluate import cohort
from test_splits import made, sets_of

from embedstore.cli import _run
from embedstore.errors import DataError, UsageError
from embedstore.evaluate import Protocol, evaluate, judge
from embedstore.leaks import leaks
from embedstore.levels import units
from embedstore.probes.logistic import LogisticProbe
from embedstore.split_columns import from_column, in_time, sites
from embedstore.split_files import SavedSplit, load_split
from embedstore.splits import holdout, kfold, with_validation
from embedstore.types import OUTSIDE, TRAIN, VALIDATION, Split


def with_column(embeddings, name, values):
    columns = {**embeddings.columns, name: np.asarray(values, dtype=str)}
    return replace(embeddings, columns=columns)


def screening(seed=0, patients=40, images=3):
    """Patients of some sites and years, labels at random; a few are seen at two sites."""
    rng = np.random.default_rng(seed)
    n = patients * images
    groups = np.repeat([f"p{i:03d}" for i in range(patients)], images)
    site = np.repeat(rng.choice(["A", "B", "C"], patients), images)
    moved = rng.random(n) < 0.05
    site[moved] = rng.choice(["A", "B", "C"], moved.sum())
    day = np.array([f"20{y:02d}-{m:02d}-01" for y, m in rng.integers([10, 1], [20, 13], (n, 2))])
    embeddings = made(groups.tolist())
    labels = rng.choice(["x", "y"], n)
    return with_column(with_column(embeddings, "site", site), "day", day), labels


def shared(values, split):
    """Values on both sides of a fold, by sets."""
    found = set()
    for train, test in split:
        found |= set(values[train].tolist()) & set(values[test].tolist()) - {""}
    return found


@pytest.mark.parametrize("seed", range(3))
def test_each_site_is_tested_by_heads_that_saw_none_of_its_patients(seed):
    embeddings, labels = screening(seed)
    split = sites(embeddings, labels, "site")
    assert not shared(embeddings.groups, split)
    site = embeddings.columns["site"]
    for k, name in enumerate("ABC"):
        for patient in np.unique(embeddings.groups):
            rows = embeddings.groups == patient
            counts = {s: (site[rows] == s).sum() for s in "ABC"}
            usual = max("ABC", key=lambda s: counts[s])  # the first of equals
            assert (split.fold[rows] == k).all() == (usual == name)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_no_tested_patient_was_last_seen_before_one_learnt_from(share):
    embeddings, labels = screening(1, patients=60)
    split = in_time(embeddings, labels, "day", share)
    assert not shared(embeddings.groups, split)
    days = embeddings.columns["day"]
    latest = {p: max(days[embeddings.groups == p]) for p in np.unique(embeddings.groups)}
    of = [{latest[p] for p in embeddings.groups[split.fold == f]} for f in (0, TRAIN)]
    assert min(of[0]) > max(of[1])
    assert (split.fold == 0).mean() == pytest.approx(share, abs=0.15)


def test_numbers_and_dicom_dates_are_times_too():
    embeddings, labels = screening(2)
    days = embeddings.columns["day"]
    plain = in_time(embeddings, labels, "day", 0.3)
    dicom = with_column(embeddings, "day", [d.replace("-", "") for d in days])
    months = with_column(embeddings, "day", [str(int(d[:4]) * 12 + int(d[5:7])) for d in days])
    for other in (dicom, months):
        np.testing.assert_array_equal(in_time(other, labels, "day", 0.3).fold, plain.fold)


def test_words_for_sides_as_people_write_them():
    embeddings, labels = screening()
    words = ["Train", "training", "TEST", "holdout", "val", "Validation", "dev", "", " train "]
    meaning = [TRAIN, TRAIN, 0, 0, VALIDATION, VALIDATION, VALIDATION, OUTSIDE, TRAIN]
    values = np.resize(words, len(labels))
    split = from_column(with_column(embeddings, "split", values), labels, "split")
    np.testing.assert_array_equal(split.fold, np.resize(meaning, len(labels)))
    ((train, test),) = split
    assert set(train) == set(np.flatnonzero(split.fold == TRAIN))
    assert set(test) == set(np.flatnonzero(split.fold == 0))


def test_fold_numbers_are_folds():
    embeddings, labels = screening()
    values = np.resize(["10", "3", "7"], len(labels))
    split = from_column(with_column(embeddings, "fold", values), labels, "fold")
    np.testing.assert_array_equal(split.fold, np.resize([2, 0, 1], len(labels)))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["train", "tst"], "'tst' is neither"),
        (["train", "train"], "to learn from and to test"),
        (["test", "test"], "to learn from and to test"),
        (["", ""], "to learn from and to test"),
    ],
)
def test_columns_that_are_no_split_are_one_line(values, said):
    embeddings, labels = screening()
    told = with_column(embeddings, "split", np.resize(values, len(labels)))
    with pytest.raises(DataError, match=said):
        from_column(told, labels, "split")


def test_what_cannot_be_split_is_one_line():
    embeddings, labels = screening()
    with pytest.raises(UsageError, match="no column 'hospital'"):
        sites(embeddings, labels, "hospital")
    with pytest.raises(DataError, match="1 value only"):
        sites(with_column(embeddings, "site", np.full(len(labels), "A")), labels, "site")
    days = embeddings.columns["day"].copy()
    days[[3, 5]] = ["soon", ""]
    with pytest.raises(DataError, match=r"image0003 \(soon\), image0005 \(empty\)"):
        in_time(with_column(embeddings, "day", days), labels, "day", 0.3)
    with pytest.raises(DataError, match="same date"):
        in_time(with_column(embeddings, "day", np.full(len(labels), "3")), labels, "day", 0.3)
    one_site = np.repeat(embeddings.columns["site"][::3], 3)
    only_there = np.where(one_site == "A", "x", "y")
    with pytest.raises(DataError, match="without class 'x'"):
        sites(with_column(embeddings, "site", one_site), only_there, "site")


@settings(deadline=None, max_examples=80)
@given(
    keys=st.lists(
        st.tuples(
            st.sampled_from(["", *"abcdef"]), st.sampled_from(["", *"uvwxyz"]), st.integers(0, 9)
        ),
        min_size=2,
        max_size=14,
    ),
    data=st.data(),
)
def test_leaks_are_what_sets_have_in_common(keys, data):
    groups, exams, files = map(list, zip(*keys, strict=True))
    embeddings = made(groups, exams, files)
    fold = np.array(data.draw(st.lists(st.integers(-3, 2), min_size=len(keys), max_size=len(keys))))
    fold[0] = 0
    split = Split("", embeddings.ids, fold, 0)
    values = {
        "patient": np.array(groups),
        "exam": np.array(exams),
        "file": np.array(files).astype(str),
    }
    found = {leak.kind: leak for leak in leaks(embeddings, split)}
    for kind, column in values.items():
        expected = shared(column, split)
        assert (kind in found) == bool(expected)
        if expected:
            assert found[kind].shared == len(expected)
            number = sum(
                int(np.isin(column[test], list(set(column[train].tolist()) - {""})).sum())
                for train, test in split
            )
            assert found[kind].images == number
            for tested, learnt in found[kind].pairs:
                one, other = (int(name.removeprefix("image")) for name in (tested, learnt))
                assert column[one] == column[other] != ""


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["kfold", "holdout", "site", "validation"]))
def test_no_kind_leaks_but_by_image_and_by_exam(seed, kind):
    embeddings, labels = screening(seed)
    exams = [f"e{i // 2}" for i in range(len(labels))]
    embeddings = with_column(embeddings, "exam", exams)
    if kind == "kfold":
        split = kfold(embeddings, labels, 4, seed)
    elif kind == "site":
        split = sites(embeddings, labels, "site")
    else:
        split = holdout(embeddings, labels, 0.3, seed)
    if kind == "validation":
        split = with_validation(embeddings, labels, split, 0.3)
        aside = split.fold == VALIDATION
        assert not set(embeddings.groups[aside]) & set(embeddings.groups[~aside])
    assert leaks(embeddings, split) == []
    for rows in sets_of(embeddings.groups, exams, range(len(labels))):
        assert len(set(split.fold[list(rows)].tolist())) == 1
    by_image = kfold(embeddings, labels, 4, seed, "image")
    assert "patient" in {leak.kind for leak in leaks(embeddings, by_image)}


def test_by_site_keeps_sites_whole():
    embeddings, labels = screening(3)
    wards = with_column(embeddings, "ward", np.repeat([f"w{i}" for i in range(20)], 6))
    split = kfold(wards, labels, 4, 0, "ward")
    assert not shared(wards.columns["ward"], split)
    assert split.method == "4-fold by ward"


def saved(embeddings, labels, repeats=2):
    return SavedSplit(
        "kfold", "patient", "y", tuple(kfold(embeddings, labels, 3, s) for s in range(repeats))
    )


def test_a_file_gives_back_what_was_saved_in_any_order(tmp_path: Path):
    embeddings, labels = screening()
    before = saved(embeddings, labels)
    before.save(tmp_path / "s.json")
    after = load_split(tmp_path / "s.json")
    assert (after.kind, after.by, after.label) == ("kfold", "patient", "y")
    assert after.fingerprint == before.fingerprint
    order = np.random.default_rng(0).permutation(len(labels))
    splits, notes = after.on(embeddings.take(order))
    assert notes == ()
    for one, other in zip(splits, before.splits, strict=True):
        np.testing.assert_array_equal(one.fold, other.fold[order])


def test_images_the_split_does_not_name_and_those_gone_are_counted():
    embeddings, labels = screening()
    known = saved(embeddings.take(np.arange(100)), labels[:100])
    (split, _), notes = known.on(embeddings.take(np.arange(10, len(labels))))
    assert (split.fold[90:] == OUTSIDE).all()
    assert "20 images that the split does not name" in notes[0]
    assert "10 images of the split are not among" in notes[1]
    for train, test in split:
        assert max(train.max(), test.max()) < 90


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: d["repeats"][0]["fold"].__setitem__(0, 2), "changed since"),
        (lambda d: d["ids"].__setitem__(0, "other"), "changed since"),
        (lambda d: d.__setitem__("format", 9), "format 9"),
        (lambda d: d.pop("repeats"), "damaged"),
        (lambda d: d["repeats"][0].__setitem__("fold", "abc"), "damaged"),
    ],
)
def test_a_changed_file_is_one_line(tmp_path: Path, damage, said):
    embeddings, labels = screening()
    file = tmp_path / "s.json"
    saved(embeddings, labels).save(file)
    told = json.loads(file.read_text())
    damage(told)
    file.write_text(json.dumps(told))
    with pytest.raises(UsageError, match=said):
        load_split(file)


def test_no_file_or_another_stores_is_one_line(tmp_path: Path):
    with pytest.raises(UsageError, match="no such split"):
        load_split(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("[1")
    with pytest.raises(UsageError, match="not a split"):
        load_split(tmp_path / "x.json")
    embeddings, labels = screening()
    other = replace(embeddings, ids=np.char.add("z", embeddings.ids))
    with pytest.raises(DataError, match="of another store"):
        saved(embeddings, labels).on(other)


def test_a_split_from_a_file_gives_the_score_of_its_folds():
    embeddings = cohort(3)
    labels = embeddings.columns["y"]
    split = SavedSplit("kfold", "patient", "y", (kfold(embeddings, labels, 4, 7),))
    own = evaluate(embeddings, "y", LogisticProbe, "l", folds=4, seed=7)
    given_ = evaluate(embeddings, "y", LogisticProbe, "l", split=split, seed=7)
    assert given_.metrics == own.metrics
    assert given_.split_fingerprint == own.split_fingerprint == split.splits[0].fingerprint
    assert given_.leak == ""
    assert given_.n_train_patients == own.n_train_patients == 45


def test_a_leaking_split_is_refused_or_stamped():
    embeddings = cohort(2)
    labels = embeddings.columns["y"]
    split = SavedSplit("kfold", "image", "y", (kfold(embeddings, labels, 4, 0, "image"),))
    with pytest.raises(UsageError, match=r"leaks: \d+ patients on both sides.*--allow-leak"):
        evaluate(embeddings, "y", LogisticProbe, "l", split=split)
    report = evaluate(embeddings, "y", LogisticProbe, "l", split=split, allow_leak=True)
    assert report.leak.startswith(f"{len(shared(embeddings.groups, split.splits[0]))} patients")
    assert type(report).from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_units_stand_where_their_images_stand():
    embeddings = cohort(2, patients=30, images=4)
    exams = [f"e{i // 2}" for i in range(120)]
    embeddings = with_column(embeddings, "exam", exams)
    split = SavedSplit("h", "patient", "y", (holdout(embeddings, embeddings.columns["y"], 0.3, 0),))
    of = units(embeddings, "exam")
    at = split.at(of, embeddings.ids).splits[0]
    for unit, fold in zip(at.ids, at.fold, strict=True):
        rows = embeddings.columns["exam"] == unit
        assert set(split.splits[0].fold[rows].tolist()) == {int(fold)}


@pytest.mark.parametrize("folds", [None, 4])
def test_tempering_is_taught_by_other_patients_only(folds):
    embeddings = cohort(2, patients=80)
    labels = embeddings.columns["y"]
    if folds:
        split = kfold(embeddings, labels, folds, 0)
    else:
        split = with_validation(embeddings, labels, holdout(embeddings, labels, 0.3, 0), 0.4)
    how = Protocol(split=SavedSplit("", "patient", "y", (split,)), calibrate=True)

    def overconfident(**settings):
        return LogisticProbe(C=1e4, **settings)

    plain = judge(embeddings, "y", overconfident, "l", replace(how, calibrate=False))
    sure = judge(embeddings, "y", overconfident, "l", how)
    np.testing.assert_array_equal(
        sure.scored.runs[0].argmax(1)[sure.scored.tested],
        plain.scored.runs[0].argmax(1)[plain.scored.tested],
    )
    assert sure.report.metrics["log_loss"].value < plain.report.metrics["log_loss"].value
    # other labels of the tested images change no probability of theirs
    turned = labels.copy()
    k = 0
    turned[split.fold == k] = np.where(labels[split.fold == k] == "a", "b", "a")
    answered = plain.answered
    truth = answered.truth.copy()
    truth[split.fold == k] = 1 - truth[split.fold == k]
    again = replace(answered, truth=truth).calibrated()
    rows = split.fold == k
    np.testing.assert_array_equal(again.runs[0][rows], answered.calibrated().runs[0][rows])


def test_one_holdout_alone_has_nothing_to_calibrate_on():
    with pytest.raises(UsageError, match="validation side"):
        evaluate(cohort(2), "y", LogisticProbe, "l", test_share=0.3, calibrate=True)


def test_the_commands(films: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    store, file = tmp_path / "s.zarr", tmp_path / "split.json"
    _run(["extract", str(films), "--store", str(store), "--backbone", "statistics"], False)
    say = ["split", str(store), "--label", "tissue", "--folds", "2", "--out", str(file)]
    assert _run(say, False) == 0
    assert _run(say, False) == 2
    assert "is there already" in capfd.readouterr().err
    probe = ["probe", str(store), "--label", "tissue", "--json"]
    assert _run([*probe, "--split", str(file)], False) == 0
    (report,) = json.loads(capfd.readouterr().out)
    assert report["split_fingerprint"] == load_split(file).splits[0].fingerprint
    assert _run([*say, "--by", "image", "--force"], False) == 0
    leaky = "LEAK: " in capfd.readouterr().out
    code = _run([*probe, "--split", str(file)], False)
    assert code == (2 if leaky else 0)
    for wrong, said in (
        (["--kind", "site"], "needs --column"),
        (["--kind", "fancy"], "--kind"),
        (["--kind", "time", "--column", "when"], "no column 'when'"),
        (["--kind", "time", "--column", "when", "--repeats", "2"], "same for every seed"),
    ):
        assert _run([*say, "--force", *wrong], False) in {1, 2}
        assert said in capfd.readouterr().err

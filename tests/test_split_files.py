"""Splits by columns, what leaks through a split, and splits in files: against explicit sets."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from test_evaluate import cohort
from test_splits import made, sets_of

from embedstore.cli import _run
from embedstore.errors import DataError, UsageError
from embedstore.evaluate import evaluate, judge
from embedstore.leaks import leaks
from embedstore.levels import Units, units
from embedstore.probes.logistic import LogisticProbe
from embedstore.protocol import Protocol
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


def beside(split):
    """Of each fold the tested rows, and all others the split knows: learnt from or validated on."""
    for k in range(split.fold.max() + 1):
        tested = split.fold == k
        yield np.flatnonzero(~tested & (split.fold != OUTSIDE)), np.flatnonzero(tested)


def shared(values, split):
    """Values that are tested and stand beside the tested, by sets."""
    found = set()
    for others, test in beside(split):
        found |= set(values[others].tolist()) & set(values[test].tolist()) - {""}
    return found


@pytest.mark.parametrize("seed", range(3))
def test_each_site_is_tested_by_heads_that_saw_nothing_of_it_and_none_of_its_patients(seed):
    embeddings, labels = screening(seed)
    site = embeddings.columns["site"]
    site[::17] = ""
    split = sites(embeddings, labels, "site")
    assert not shared(embeddings.groups, split)
    for (train, test), name in zip(split, "ABC", strict=True):
        assert set(site[test].tolist()) == {name}
        assert set(site[train].tolist()) == set("ABC") - {name}
    for patient in np.unique(embeddings.groups):
        rows = np.flatnonzero(embeddings.groups == patient)
        counts = [np.count_nonzero(site[rows] == s) for s in "ABC"]
        usual = counts.index(max(counts))  # the first of equals
        for row in rows:
            assert split.fold[row] == (usual if site[row] == "ABC"[usual] else OUTSIDE)


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


def test_a_site_that_is_nobodys_usual_one_is_no_fold_and_two_sites_are_enough():
    embeddings = made([*"ppprqqqs"])
    told = with_column(embeddings, "site", ["A", "B", "B", "", "C", "C", "C", ""])
    split = sites(told, np.array([*"xyxxyxyx"]), "site")
    assert split.fold.tolist() == [OUTSIDE, 0, 0, OUTSIDE, 1, 1, 1, OUTSIDE]


@pytest.mark.parametrize("share", [0.0, -0.1, 0.51, 1.0])
def test_a_share_of_the_last_patients_is_at_most_a_half(share):
    embeddings, labels = screening()
    with pytest.raises(DataError, match=f"a test share of {share}; give more than 0"):
        in_time(embeddings, labels, "day", share)


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


@pytest.mark.parametrize(
    ("values", "folds"),
    [
        (["10", "3", "7"], [2, 0, 1]),
        (["1.0", "0.0", "-1.0"], [1, 0, TRAIN]),
        (["fold 2", "Fold_1", "fold-10", ""], [1, 0, 2, OUTSIDE]),
        (["1", "01", "2"], [0, 0, 1]),
    ],
)
def test_fold_numbers_are_folds(values, folds):
    embeddings, labels = screening()
    told = with_column(embeddings, "fold", np.resize(values, len(labels)))
    split = from_column(told, labels, "fold")
    np.testing.assert_array_equal(split.fold, np.resize(folds, len(labels)))


@pytest.fixture(params=["America/New_York", "Asia/Tokyo"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_years_months_days_and_times_go_together_wherever_the_machine_is():
    written = ["2019", "2020-01-01 01:00", "2019-12-31T23:30:00-02:00", "2020-01-01 02:00"]
    written += ["2020/01/02", "2020-02"]
    embeddings, labels = made([f"p{i:02d}" for i in range(40)]), np.repeat(["x", "y"], 20)
    for earlier, later in combinations(written, 2):
        told = with_column(embeddings, "when", np.resize([later, earlier], 40))
        split = in_time(told, labels, "when", 0.5)
        np.testing.assert_array_equal(split.fold, np.resize([0, TRAIN], 40))


@pytest.mark.parametrize(
    ("wrong", "others"),
    [("nan", "17"), ("inf", "17"), ("31.12.2019", "2020-01-01"), ("2020-13-01", "2020-01-01")],
)
def test_what_is_no_time_is_named(wrong, others):
    embeddings, labels = screening()
    values = np.full(len(labels), others)
    values = np.where(np.arange(len(labels)) == 7, wrong, values)
    told = with_column(embeddings, "day", values)
    with pytest.raises(
        DataError, match=rf"^column day: .* in image0007 \({re.escape(wrong)}\) of 120 images"
    ):
        in_time(told, labels, "day", 0.3)


def test_ties_in_time_stay_together_and_the_nearest_share_is_taken():
    groups = [f"p{i:02d}" for i in range(20)]
    years = np.repeat(["2001", "2002", "2003", "2004"], [8, 6, 4, 2])
    embeddings, labels = with_column(made(groups), "year", years), np.array(["x", "y"] * 10)
    for share, tested in ((0.01, 2), (0.15, 2), (0.25, 6), (0.4, 6), (0.5, 12)):
        split = in_time(embeddings, labels, "year", share)
        assert (split.fold == 0).sum() == tested
        assert split.method == f"last {tested / 20:.0%} by year"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["train", "tst"], "'tst' is neither"),
        (["train", *"abcd"], "'a', 'b', 'c' and 1 more is neither"),
        (["train", *"abc"], "column split: 'a', 'b', 'c' is neither"),
        (["train", "1"], "'1' is neither"),
        (["1", "-2"], "'-2', '1' is neither"),
        (["1", "²"], "is neither"),
        (["0.5", "1"], "'0.5', '1' is neither"),
        (["-1", "-1"], "to learn from and to test; its one value is '-1'"),
        (["train", "train"], "to learn from and to test; its one value is 'train'"),
        (["test", "test"], "to learn from and to test"),
    ],
)
def test_columns_that_are_no_split_are_one_line(values, said):
    embeddings, labels = screening()
    told = with_column(embeddings, "split", np.resize(values, len(labels)))
    with pytest.raises(DataError, match=said):
        from_column(told, labels, "split")


@pytest.mark.parametrize("value", ["", " "])
def test_a_column_that_says_nothing_is_a_wrong_request(value):
    embeddings, labels = screening()
    told = with_column(embeddings, "split", np.full(len(labels), value))
    with pytest.raises(UsageError, match=f"column split: is empty for all {len(labels)} images"):
        from_column(told, labels, "split")


def test_what_cannot_be_split_is_one_line():
    embeddings, labels = screening()
    with pytest.raises(UsageError, match="no column 'hospital' to split by; there are site, day$"):
        sites(embeddings, labels, "hospital")
    with pytest.raises(UsageError, match="no image has an exam"):
        kfold(embeddings, labels, 4, 0, "exam")
    with pytest.raises(UsageError, match="no column 'ward'.* patient, exam, image, site, day$"):
        kfold(embeddings, labels, 4, 0, "ward")
    with pytest.raises(DataError, match="column site: patients of 0 value only; at least two"):
        sites(with_column(embeddings, "site", np.full(len(labels), "")), labels, "site")
    with pytest.raises(DataError, match="patients of 1 value only, 'A'"):
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
                int(np.isin(column[test], list(set(column[others].tolist()) - {""})).sum())
                for others, test in beside(split)
            )
            assert found[kind].images == number
            for pair in found[kind].pairs:
                one, other = (int(name.removeprefix("image")) for name in pair)
                assert column[one] == column[other] != ""
                assert split.fold[one] >= 0
                assert split.fold[other] not in {split.fold[one], OUTSIDE}


KINDS = {
    "kfold": lambda e, y: kfold(e, y, 3, 5),
    "kfold by site": lambda e, y: kfold(e, y, 2, 5, "site"),
    "holdout": lambda e, y: holdout(e, y, 0.3, 5),
    "holdout with validation": lambda e, y: with_validation(e, y, holdout(e, y, 0.3, 5), 0.3),
    "site": lambda e, y: sites(e, y, "site"),
    "time": lambda e, y: in_time(e, y, "day", 0.3),
    "time with validation": lambda e, y: with_validation(e, y, in_time(e, y, "day", 0.3), 0.3),
}


def mixed(seed):
    """Patients, exams and files that link images in chains; sites and dates that part them."""
    rng = np.random.default_rng(seed)
    n = 90
    groups = [f"p{g}" if rng.random() < 0.9 else "" for g in rng.integers(0, 30, n)]
    exams = [f"e{e}" if rng.random() < 0.5 else "" for e in rng.integers(0, 3 * n, n)]
    files = rng.integers(0, 20 * n, n)
    embeddings = made(groups, exams, files)
    home = dict(zip(sorted(set(groups)), rng.choice([*"ABCD"], n), strict=False))
    site = [home[g] if g and rng.random() < 0.95 else rng.choice([*"ABCD", ""]) for g in groups]
    day = rng.integers(2000, 2012, n)
    embeddings = with_column(with_column(embeddings, "site", site), "day", day)
    return embeddings, rng.choice(["x", "y"], n), sets_of(groups, exams, files)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_no_kind_by_patient_leaks(kind, seed):
    embeddings, labels, together = mixed(seed)
    try:
        split = KINDS[kind](embeddings, labels)
    except (DataError, UsageError):
        reject()
    assert leaks(embeddings, split) == []
    for rows in together:
        assert len(set(split.fold[list(rows)].tolist()) - {OUTSIDE}) <= 1
    for train, test in split:
        assert set(labels[train].tolist()) == {"x", "y"}
        assert len(test)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_rows_does_not_matter(kind, seed):
    embeddings, labels, _ = mixed(seed)
    try:
        split = KINDS[kind](embeddings, labels)
    except (DataError, UsageError):
        reject()
    order = np.random.default_rng(seed).permutation(len(labels))
    again = KINDS[kind](embeddings.take(order), labels[order])
    np.testing.assert_array_equal(again.fold, split.fold[order])
    assert (again.fingerprint, again.method) == (split.fingerprint, split.method)


def test_by_image_and_by_exam_leak_what_they_part():
    embeddings, labels = screening(1, images=4)
    embeddings = with_column(embeddings, "exam", [f"e{i // 2}" for i in range(len(labels))])
    found = {
        by: {leak.kind for leak in leaks(embeddings, kfold(embeddings, labels, 4, 0, by))}
        for by in ("patient", "exam", "image")
    }
    assert found == {"patient": set(), "exam": {"patient"}, "image": {"patient", "exam"}}


def test_a_validation_side_that_knows_the_tested_leaks():
    embeddings = made(["p", "p", "q", "r"])
    split = Split("", embeddings.ids, np.array([0, VALIDATION, TRAIN, TRAIN]), 0)
    (leak,) = leaks(embeddings, split)
    assert str(leak).startswith("1 patient on both sides of the split (1 tested images; image0000")


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_validation_side_is_the_share_asked_for_of_what_was_learnt_from(share):
    embeddings, labels = screening(patients=200)
    before = holdout(embeddings, labels, 0.2, 0)
    split = with_validation(embeddings, labels, before, share)
    np.testing.assert_array_equal(split.ids, embeddings.ids)
    np.testing.assert_array_equal(split.fold == 0, before.fold == 0)
    aside = split.fold == VALIDATION
    assert aside.sum() / (before.fold == TRAIN).sum() == pytest.approx(share, abs=0.02)
    assert (labels[aside] == "x").mean() == pytest.approx((labels == "x").mean(), abs=0.05)
    assert not set(embeddings.groups[aside]) & set(embeddings.groups[~aside])


@pytest.mark.parametrize(
    ("share", "split", "said"),
    [
        (0.0, "holdout", "validation share of 0.0; give more than 0"),
        (0.6, "holdout", "validation share of 0.6; give more than 0 and at most 0.5"),
        (0.0001, "holdout", "validation share of 0.0001 cannot be had of the"),
        (0.2, "kfold", "each calibrates on the others"),
        (0.2, "two folds", "each calibrates on the others"),
        (0.2, "holdout with validation", "a validation side already"),
    ],
)
def test_a_validation_side_that_cannot_be_is_one_line(share, split, said):
    embeddings, labels = screening(patients=60)
    kinds = {**KINDS, "two folds": lambda e, y: kfold(e, y, 2, 5)}
    before = kinds[split](embeddings, labels)
    with pytest.raises(DataError, match=said):
        with_validation(embeddings, labels, before, share)


def test_by_site_keeps_sites_whole():
    embeddings, labels = screening(3)
    wards = with_column(embeddings, "ward", np.repeat([f"w{i}" for i in range(20)], 6))
    split = kfold(wards, labels, 4, 0, "ward")
    assert not shared(wards.columns["ward"], split)
    assert split.method == "4-fold by ward"
    before = holdout(wards, labels, 0.3, 0, "ward")
    split = with_validation(wards, labels, before, 0.3, "ward")
    for one in (before, split):
        assert not shared(wards.columns["ward"], one)
        assert len({*zip(wards.columns["ward"], one.fold, strict=True)}) == 20
    alone = with_column(embeddings, "ward", np.where(labels == "x", "x", wards.columns["ward"]))
    for make, parts in ((kfold, 2), (holdout, 0.5)):
        with pytest.raises(DataError, match=r"class '.' has 1 ward \(\d+ images\)"):
            make(alone, labels, parts, 0, "ward")


def saved(embeddings, labels, repeats=2):
    return SavedSplit(
        "kfold", "patient", "y", tuple(kfold(embeddings, labels, 3, s) for s in range(repeats))
    )


def test_a_file_gives_back_what_was_saved_in_any_order(tmp_path: Path):
    embeddings, labels = screening()
    before = saved(embeddings, labels)
    before.save(tmp_path / "s.json", labels)
    after = load_split(tmp_path / "s.json")
    assert (after.kind, after.by, after.label) == ("kfold", "patient", "y")
    assert after.fingerprint == before.fingerprint
    order = np.random.default_rng(0).permutation(len(labels))
    splits, notes = after.on(embeddings.take(order))
    assert notes == ()
    for one, other in zip(splits, before.splits, strict=True):
        np.testing.assert_array_equal(one.fold, other.fold[order])
        assert one.method == "3-fold by patient"
    assert [one.seed for one in splits] == [0, 1]


def test_a_file_that_is_there_is_replaced_only_where_asked(tmp_path: Path):
    embeddings, labels = screening()
    file = tmp_path / "s.json"
    saved(embeddings, labels, 1).save(file, labels)
    with pytest.raises(UsageError, match="is there already"):
        saved(embeddings, labels, 2).save(file, labels)
    assert len(load_split(file).splits) == 1
    saved(embeddings, labels, 2).save(file, labels, force=True)
    assert len(load_split(file).splits) == 2


def test_a_file_is_plain_and_the_same_for_any_order_of_rows(tmp_path: Path):
    embeddings, labels = screening()
    rng = np.random.default_rng(1)
    for name in ("one", "other"):
        order = rng.permutation(len(labels))
        made_here = saved(embeddings.take(order), labels[order])
        made_here.save(tmp_path / name, labels[order])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    told = json.loads((tmp_path / "one").read_text())
    rows = [embeddings.ids.tolist().index(name) for name in told["ids"]]
    assert sorted(rows) == list(range(len(labels)))
    for repeat, split in zip(told["repeats"], saved(embeddings, labels).splits, strict=True):
        assert repeat["seed"] == split.seed
        assert repeat["fold"] == split.fold[rows].tolist()
        pairs = Counter(zip(split.fold.astype(str).tolist(), labels.tolist(), strict=True))
        of = repeat["counts"]
        assert {(k, name): n for k in of for name, n in of[k].items()} == pairs


def test_fingerprint_of_one_split_is_its_own_and_of_several_that_of_all():
    embeddings, labels = screening()
    one, two = saved(embeddings, labels, 1), saved(embeddings, labels, 2)
    assert one.fingerprint == one.splits[0].fingerprint
    assert two.fingerprint not in {s.fingerprint for s in two.splits}
    turned = replace(two, splits=two.splits[::-1])
    assert turned.fingerprint != two.fingerprint


def test_what_is_outside_changes_no_fingerprint():
    embeddings, labels = screening()
    known = saved(embeddings.take(np.arange(100)), labels[:100], 1)
    (split,), _ = known.on(embeddings)
    assert (split.fold == OUTSIDE).sum() == 20
    assert split.fingerprint == known.fingerprint


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
    ("there", "said"),
    [
        ("abcd", ""),
        ("abc", ""),
        ("ab", "leaves a side of a fold empty"),
        ("a", "leaves a side of a fold empty"),
        ("c", "leaves a side of a fold empty"),
        ("dz", "leaves a side of a fold empty"),
        ("z", "names none of these images"),
    ],
)
def test_of_a_holdout_some_must_be_there_to_test_and_to_learn_from(there, said):
    split = Split("own", np.array([*"abcd"]), np.array([0, 0, TRAIN, VALIDATION]), 3)
    told = SavedSplit("holdout", "patient", "y", (split,))
    embeddings = replace(made([""] * len(there)), ids=np.array([*there]))
    if said:
        with pytest.raises(DataError, match=said):
            told.on(embeddings)
    else:
        (one,), _ = told.on(embeddings)
        assert one.fold.tolist() == split.fold[: len(there)].tolist()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: d["repeats"][0]["fold"].__setitem__(0, 2), "changed since"),
        (lambda d: d["ids"].__setitem__(0, "other"), "changed since"),
        (lambda d: d.__setitem__("format", 9), "format 9"),
        (lambda d: d.pop("repeats"), "damaged"),
        (lambda d: d["repeats"][0].__setitem__("fold", "abc"), "damaged"),
        (lambda d: d["repeats"][0]["fold"].append(0), "damaged"),
        (lambda d: d["ids"].__setitem__(1, d["ids"][0]), "damaged"),
        (lambda d: d["repeats"].clear(), "damaged"),
        (lambda d: d["repeats"][0].__setitem__("fold", 7), "changed since"),
        (lambda d: d["repeats"].pop(), "changed since"),
    ],
)
def test_a_changed_file_is_one_line(tmp_path: Path, damage, said):
    embeddings, labels = screening()
    file = tmp_path / "s.json"
    saved(embeddings, labels).save(file, labels)
    told = json.loads(file.read_text())
    damage(told)
    file.write_text(json.dumps(told))
    with pytest.raises(UsageError, match=said):
        load_split(file)


def test_no_file_or_another_stores_is_one_line(tmp_path: Path):
    with pytest.raises(UsageError, match="no such split"):
        load_split(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        load_split(tmp_path)
    for content in (b"[1", b"[1]", b"{}", b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "x.json").write_bytes(content)
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


def test_a_unit_of_which_some_images_are_tested_is_tested_and_an_unknown_one_is_outside():
    folds = {"a": 1, "b": TRAIN, "c": VALIDATION, "d": TRAIN, "e": OUTSIDE, "f": 0}
    split = Split("own", np.array(list(folds)), np.array(list(folds.values())), 7)
    ids = np.array(["new", "b", "a", "c", "d", "e", "f", "f2"])
    of = Units("exam", np.array([*"stuvw"]), np.array([4, 0, 0, 1, 1, 2, 3, 3]))
    at = SavedSplit("column", "patient", "y", (split,)).at(of, ids)
    assert (at.kind, at.by, at.label) == ("column", "patient", "y")
    (one,) = at.splits
    assert dict(zip(one.ids, one.fold, strict=True)) == {
        "s": 1, "t": TRAIN, "u": OUTSIDE, "v": 0, "w": OUTSIDE
    }  # fmt: skip
    assert (one.method, one.seed) == ("own", 7)


def test_how_a_split_was_made_is_said():
    embeddings, labels = screening()
    kinds = KINDS.keys() - {"kfold by site"}  # there are too few
    splits = {kind: KINDS[kind](embeddings, labels) for kind in kinds}
    last = f"last {(splits['time'].fold == 0).mean() * 100:.0f}% by day"
    assert {kind: (split.method, split.seed) for kind, split in splits.items()} == {
        "kfold": ("3-fold by patient", 5),
        "holdout": ("holdout of 30% by patient", 5),
        "holdout with validation": ("holdout of 30% by patient, 30% of the rest aside", 5),
        "site": ("leave one site out, 3 of them", 0),
        "time": (last, 0),
        "time with validation": (f"{last}, 30% of the rest aside", 0),
    }
    told = with_column(embeddings, "arm", np.resize(["train", "test"], len(labels)))
    split = from_column(told, labels, "arm")
    assert (split.method, split.seed) == ("column arm", 0)
    assert split.ids is told.ids


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


@pytest.fixture
def store(films: Path, tmp_path: Path) -> Path:
    """Two films of each of six patients; a column that parts patients, and some that do not."""
    table = pl.read_csv(films)
    numbers = [int(p.removeprefix("pat")) for p in table["patient"]]
    table.with_columns(
        pl.Series("split", ["Train", "test"] * 6),
        pl.Series("arm", ["holdout" if n > 3 else "training" for n in numbers]),
        pl.Series("hospital", ["north" if n < 2 else "south" for n in numbers]),
        pl.Series("day", [f"2020-0{n + 1}-01" for n in numbers]),
    ).write_csv(films)
    path = tmp_path / "s.zarr"
    assert (
        _run(["extract", str(films), "--store", str(path), "--backbone", "statistics"], False) == 0
    )
    return path


def test_probe_goes_by_the_file_that_split_wrote(store: Path, capfd: pytest.CaptureFixture[str]):
    file = store.with_name("split.json")
    probe = ["probe", str(store), "--label", "tissue", "--json"]
    say = ["split", str(store), "--label", "tissue", "--out", str(file), "--force"]
    for kind, tested, learnt in (
        (["--folds", "3"], 6, 4),
        (["--kind", "holdout", "--test-share", "0.34"], 2, 4),
        (["--kind", "site", "--column", "hospital"], 6, 3),
        (["--kind", "time", "--column", "day", "--test-share", "0.3"], 2, 4),
        (["--kind", "column", "--column", "arm"], 2, 4),
    ):
        assert _run([*say, *kind], False) == 0
        capfd.readouterr()
        assert _run([*probe, "--split", str(file)], False) == 0
        (report,) = json.loads(capfd.readouterr().out)
        told = json.loads(file.read_text())
        assert report["split_fingerprint"] == told["fingerprint"]
        assert report["split"] == told["repeats"][0]["method"]
        assert (report["n_patients"], report["n_train_patients"]) == (tested, learnt)
        assert report["n_train"] == 2 * learnt


def test_probe_refuses_what_leaks_and_stamps_what_is_forced(
    store: Path, capfd: pytest.CaptureFixture[str]
):
    file = store.with_name("split.json")
    said = "6 patients on both sides of the split (6 tested images; film01 and film00, say)"
    say = ["split", str(store), "--label", "tissue", "--kind", "column", "--out", str(file)]
    assert _run(say, False) == 0
    assert f"LEAK: {said}" in capfd.readouterr().out
    for split in (str(file), "column", "column:split"):
        probe = ["probe", str(store), "--label", "tissue", "--split", split]
        assert _run(probe, False) == 2
        shown = capfd.readouterr()
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1
        assert said in shown.err
        assert "--allow-leak" in shown.err
        assert shown.out == ""
        assert _run([*probe, "--allow-leak", "--json"], False) == 0
        assert json.loads(capfd.readouterr().out)[0]["leak"] == said
        assert _run([*probe, "--allow-leak"], False) == 0
        assert "THE SPLIT LEAKS: 6 patients" in capfd.readouterr().out
    assert _run([*probe[:-1], "column:arm"], False) == 0
    assert "LEAKS" not in capfd.readouterr().out


def test_what_split_cannot_do_is_one_line(store: Path, capfd: pytest.CaptureFixture[str]):
    file = store.with_name("split.json")
    say = ["split", str(store), "--label", "tissue", "--out", str(file)]
    for wrong, said in (
        (["--test-share", "0.2"], "--test-share is of --kind holdout and time, not of kfold"),
        (["--kind", "holdout", "--folds", "5"], "--folds is of --kind kfold, not of holdout"),
        (["--kind", "column", "--seed", "0"], "--seed is of --kind kfold and holdout, not of col"),
        (["--kind", "column", "--column", "view"], "column view: is empty for all 12 images"),
        (["--kind", "site"], "needs --column"),
        (["--kind", "fancy"], "--kind"),
        (["--kind", "time", "--column", "when"], "no column 'when'"),
        (["--kind", "time", "--column", "hospital"], "nor a date such as 2024-03-31, in film00"),
        (["--kind", "time", "--column", "day", "--repeats", "2"], "same for every seed"),
        (["--kind", "site", "--column", "view"], "patients of 0 value only"),
        (["--kind", "site", "--column", "tissue"], "would train without class"),
        (["--kind", "site", "--column", "hospital", "--by", "exam"], "leave --by out"),
        (["--by", "exam"], "no image has an exam"),
        (["--column", "arm"], "takes no --column"),
        (["--folds", "7"], "7 folds of 6 patients; give 2 to 6"),
        (["--folds", "2", "--validation-share", "0.2"], "calibrates on the others"),
        (["--kind", "holdout", "--validation-share", "0.01"], "cannot be had of the"),
        (["--kind", "column", "--column", "hospital"], "'north', 'south' is neither train, val"),
    ):
        assert _run([*say, *wrong], False) in {1, 2}
        error = capfd.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert not file.exists()
    assert _run([*say, "--folds", "2"], False) == 0
    before = file.read_bytes()
    assert _run([*say, "--folds", "2", "--seed", "1"], False) == 2
    assert "is there already" in capfd.readouterr().err
    assert file.read_bytes() == before

"""Splits against a breadth-first search for links, and counts."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from embedstore.errors import DataError, UsageError
from embedstore.splits import check_classes, holdout, kfold, linked
from embedstore.types import Embeddings, Recipe, Spec, Split


def made(groups, exams=None, files=None):
    """Embeddings of these patients, exams and file contents; only what links them is real."""
    n = len(groups)
    digests = np.zeros((n, 16), np.uint8)
    digests[:, :4] = np.arange(n, dtype=">u4").view(np.uint8).reshape(n, 4)
    if files is not None:
        digests[:, :4] = np.array(files, dtype=">u4").view(np.uint8).reshape(n, 4)
    return Embeddings(
        Spec("none", "", Recipe(), "", 1),
        np.array([f"image{i:04d}" for i in range(n)]),
        np.zeros((n, 1), np.float32),
        np.array(groups, dtype=str),
        digests,
        {} if exams is None else {"exam": np.array(exams, dtype=str)},
    )


def sets_of(groups, exams, files):
    """Sets of rows joined by any shared non-empty key, by breadth-first search."""
    keys = [
        {("g", g)} - {("g", "")} | {("e", e)} - {("e", "")} | {("f", f)}
        for g, e, f in zip(groups, exams, files, strict=True)
    ]
    left, found = set(range(len(keys))), set()
    while left:
        queue = [left.pop()]
        component = set(queue)
        while queue:
            row = queue.pop()
            near = {j for j in left if keys[j] & keys[row]}
            left -= near
            component |= near
            queue += near
        found.add(frozenset(component))
    return found


def partition(numbers):
    return {frozenset(np.flatnonzero(numbers == v).tolist()) for v in np.unique(numbers)}


KEYS = st.lists(
    st.tuples(
        st.sampled_from(["", *"abcdef"]), st.sampled_from(["", *"uvwxyz"]), st.integers(0, 9)
    ),
    min_size=1,
    max_size=14,
)


@settings(deadline=None, max_examples=150)
@given(KEYS)
def test_linked_sets_are_those_a_search_over_shared_keys_finds(keys):
    groups, exams, files = map(list, zip(*keys, strict=True))
    assert partition(linked(made(groups, exams, files))) == sets_of(groups, exams, files)


def test_same_name_as_patient_and_as_exam_is_no_link():
    assert len(partition(linked(made(["x", ""], ["", "x"])))) == 2


def test_unknown_patients_are_not_one_patient():
    assert len(partition(linked(made(["", "", ""])))) == 3


@pytest.mark.parametrize("byte", range(16))
def test_digests_differing_in_one_byte_are_not_identical(byte):
    two = made(["", ""], files=[0, 0])
    assert len(partition(linked(two))) == 1
    digests = two.digests.copy()
    digests[1, byte] = 1
    assert len(partition(linked(replace(two, digests=digests)))) == 2


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    patients=st.integers(6, 30),
    classes=st.integers(2, 4),
    parts=st.one_of(st.integers(2, 6), st.floats(0.05, 0.5)),
)
def test_no_patient_exam_or_identical_file_on_two_sides(seed, patients, classes, parts):
    rng = np.random.default_rng(seed)
    n = 3 * patients
    groups = [f"p{g}" if rng.random() < 0.9 else "" for g in rng.integers(0, patients, n)]
    exams = [f"e{e}" if rng.random() < 0.5 else "" for e in rng.integers(0, 3 * n, n)]
    files = rng.integers(0, 20 * n, n)
    labels = np.array([f"c{c}" for c in rng.integers(0, classes, n)])
    embeddings = made(groups, exams, files)
    try:
        make = kfold if isinstance(parts, int) else holdout
        split = make(embeddings, labels, parts, seed)
    except (DataError, UsageError):
        reject()
    sides = list(split)
    assert len(sides) == (parts if make is kfold else 1)
    for train, test in sides:
        assert len(test)
        assert sorted([*train, *test]) == list(range(n))
        assert set(labels[train]) == set(labels)
        for rows in sets_of(groups, exams, files):
            assert rows <= set(train.tolist()) or rows <= set(test.tolist())
    tested = Counter(np.concatenate([test for _, test in sides]).tolist())
    assert set(tested.values()) == {1}
    if make is kfold:
        assert len(tested) == n
    else:
        assert set(labels[sides[0][1]]) == set(labels)


SHARES = {"a": 0.6, "b": 0.3, "c": 0.1}


def cohort(patients=200, per_patient=4, seed=0):
    """Patients of one class each, in shares of 60, 30 and 10 per cent."""
    rng = np.random.default_rng(seed)
    own = rng.permutation(np.repeat(list(SHARES), [patients * v for v in (0.6, 0.3, 0.1)]))
    groups = np.repeat([f"p{i}" for i in range(patients)], per_patient)
    return made(groups), np.repeat(own, per_patient)


@pytest.mark.parametrize("folds", [2, 5, 10])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_class_shares_of_every_fold_are_those_of_all(folds, seed):
    embeddings, labels = cohort()
    for _, test in kfold(embeddings, labels, folds, seed):
        assert len(test) == pytest.approx(len(labels) / folds, rel=0.1)
        for name, share in SHARES.items():
            assert (labels[test] == name).mean() == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
def test_holdout_tests_the_share_asked_for_in_every_class(share):
    embeddings, labels = cohort()
    ((train, test),) = holdout(embeddings, labels, share, 0)
    assert len(train) + len(test) == len(labels)
    assert len(test) / len(labels) == pytest.approx(share, abs=0.03)
    for name in SHARES:
        assert (labels[test] == name).mean() == pytest.approx(SHARES[name], abs=0.03)


@pytest.mark.parametrize(("make", "parts"), [(kfold, 5), (holdout, 0.3)])
def test_same_seed_same_split_whatever_the_order_of_the_rows(make, parts):
    embeddings, labels = cohort(40)
    split = make(embeddings, labels, parts, 3)
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(len(labels))
        other = make(embeddings.take(rows), labels[rows], parts, 3)
        np.testing.assert_array_equal(other.fold, split.fold[rows])
        assert other.fingerprint == split.fingerprint


@pytest.mark.parametrize(("make", "parts"), [(kfold, 5), (holdout, 0.3)])
def test_another_seed_is_another_split(make, parts):
    embeddings, labels = cohort(40)
    prints = {make(embeddings, labels, parts, seed).fingerprint for seed in range(5)}
    assert len(prints) == 5


def test_fingerprint_changes_with_one_image_and_with_nothing_but_who_stands_where():
    ids, fold = np.array(["a", "b", "c", "d"]), np.array([0, 1, 1, -1])
    split = Split("m", ids, fold, 0)
    assert Split("other", ids[::-1], fold[::-1], 9).fingerprint == split.fingerprint
    assert Split("m", ids, np.array([0, 1, 0, -1]), 0).fingerprint != split.fingerprint
    assert Split("m", np.array(["a", "b", "c", "e"]), fold, 0).fingerprint != split.fingerprint


def test_class_rarer_than_the_folds_is_learnt_in_every_fold_without_a_warning():
    groups = [f"p{i}" for i in range(33)]
    labels = np.array(["a"] * 15 + ["b"] * 15 + ["rare"] * 3)
    for train, _ in kfold(made(groups), labels, 10, 0):
        assert (labels[train] == "rare").sum() >= 2


TWELVE = [f"p{i}" for i in range(12)]
HALVES = ["a"] * 6 + ["b"] * 6


@pytest.mark.parametrize(
    ("groups", "labels", "make", "parts", "message"),
    [
        (TWELVE, ["a"] * 12, kfold, 2, "two classes; the labels have one value: 'a'"),
        (TWELVE, ["a"] * 12, holdout, 0.5, "two classes; the labels have one value: 'a'"),
        (TWELVE, ["a"] * 11 + ["b"], kfold, 2, "class 'b' has 1 patient"),
        (TWELVE, ["a"] * 11 + ["b"], holdout, 0.5, "class 'b' has 1 patient"),
        (["p"] * 6 + TWELVE[:6], ["b"] * 6 + ["a"] * 6, kfold, 2, "class 'b' has 1 patient"),
        (TWELVE, HALVES, kfold, 13, "13 folds of 12 patients; give 2 to 6"),
        (TWELVE, HALVES, kfold, 7, "7 folds of 12 patients; give 2 to 6"),
        (TWELVE[:3] * 4, ["a", "b"] * 6, kfold, 4, "4 folds of 3 patients; give 2 to 3"),
        (TWELVE, HALVES, kfold, 1, "1 folds of 12 patients"),
        (TWELVE, HALVES, kfold, 0, "0 folds of 12 patients"),
        (TWELVE, HALVES, holdout, 0.0, "test share of 0.0"),
        (TWELVE, HALVES, holdout, -0.1, "test share of -0.1"),
        (TWELVE, HALVES, holdout, 0.51, "test share of 0.51"),
        (TWELVE, HALVES, holdout, 1.0, "test share of 1.0"),
        (TWELVE, HALVES, holdout, float("nan"), "test share of nan"),
        (TWELVE, HALVES, holdout, 0.01, "too small for 12 images"),
        (TWELVE, ["a"] * 10 + ["b"] * 2, holdout, 0.1, "class 'b' would not be tested"),
    ],
)
def test_what_cannot_be_split_honestly_is_refused_in_one_line(groups, labels, make, parts, message):
    with pytest.raises(UsageError if " folds of " in message else DataError) as caught:
        make(made(groups), np.array(labels), parts, 0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_fold_is_ever_empty():
    # scikit-learn's splitter leaves one of five empty here
    groups = np.repeat(["p0", "p1", "p2", "p3", "p4"], [2, 5, 4, 5, 3])
    labels = np.repeat(["a", "a", "b", "b", "a"], [2, 5, 4, 5, 3])
    tested = []
    for seed in range(5):
        try:
            tested += [len(test) for _, test in kfold(made(groups), labels, 5, seed)]
        except DataError as error:
            tested += ["would be empty" in str(error)]
    assert all(tested)


def test_no_labels_at_all_are_no_two_classes():
    nothing = np.empty(0, dtype=int)
    with pytest.raises(DataError, match="the labels have one value: none$"):
        check_classes(nothing.astype(str), nothing)

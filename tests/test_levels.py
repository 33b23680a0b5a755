"""Fusing images to breasts and exams, against polars and plain loops."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from embedstore.errors import DataError
from embedstore.levels import fused, sides, units
from embedstore.protocol import Protocol, pose
from embedstore.splits import linked
from embedstore.subgroups import By
from embedstore.types import Embeddings, Recipe, Spec

VIEWS = [("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO")]


def screening(patients=30, d=5, lost=0.0, seed=0, exam_known=True):
    """Two exams a patient, four views each, of which a share is lost."""
    rng = np.random.default_rng(seed)
    rows = [
        {"patient": f"p{p}", "exam": f"p{p}e{e}" if exam_known else "", "laterality": s, "view": v}
        for p in range(patients)
        for e in range(2)
        for s, v in VIEWS
    ]
    table = pl.DataFrame(rows)[np.flatnonzero(rng.random(len(rows)) >= lost)].sample(
        fraction=1, shuffle=True, seed=seed
    )
    n = len(table)
    columns = {c: table[c].to_numpy().astype(str) for c in ("exam", "laterality", "view")}
    digests = rng.integers(0, 256, (n, 16)).astype(np.uint8)
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    ids = np.array([f"i{i:04d}" for i in range(n)])
    groups = table["patient"].to_numpy().astype(str)
    return Embeddings(Spec("b", "", Recipe(), "pooled", d), ids, vectors, groups, digests, columns)


def frame(embeddings):
    columns = {"patient": embeddings.groups, "id": embeddings.ids, **embeddings.columns}
    vectors = {f"v{i}": embeddings.vectors[:, i] for i in range(embeddings.vectors.shape[1])}
    return pl.DataFrame({**columns, **vectors})


@pytest.mark.parametrize(
    ("level", "by"),
    [
        ("view", ["exam", "laterality", "view"]),
        ("breast", ["exam", "laterality"]),
        ("exam", ["exam"]),
        ("patient", ["patient"]),
        ("image", ["id"]),
    ],
)
@pytest.mark.parametrize("how", ["mean", "max"])
def test_fused_vectors_are_what_polars_groups(level, by, how):
    embeddings = screening(lost=0.3, seed=1)
    of = units(embeddings, level)
    made, notes = fused(embeddings, of, how)
    each = pl.col("^v[0-9]+$").mean() if how == "mean" else pl.col("^v[0-9]+$").max()
    expected = frame(embeddings).group_by(by).agg(each).sort(by)
    np.testing.assert_allclose(made.vectors, expected.select("^v[0-9]+$").to_numpy(), rtol=1e-5)
    joined = expected.select(pl.concat_str(by, separator=" ")).to_series().to_list()
    assert made.ids.tolist() == joined
    assert notes == ()


def test_views_side_by_side_stand_in_the_same_places_for_every_exam():
    embeddings = screening(lost=0.1, seed=2)
    made, notes = fused(embeddings, units(embeddings, "exam"), "concat")
    table = frame(embeddings)
    whole = table.group_by("exam").len().filter(pl.col("len") == 4)["exam"].sort()
    assert made.ids.tolist() == whole.to_list()
    assert f"{60 - len(whole)} exams without all" in notes[0]
    for exam, vector in zip(made.ids, made.vectors, strict=True):
        parts = [
            table.row(
                by_predicate=(pl.col("exam") == exam)
                & (pl.col("laterality") == side)
                & (pl.col("view") == view),
                named=True,
            )
            for side, view in VIEWS
        ]
        np.testing.assert_allclose(vector, [p[f"v{i}"] for p in parts for i in range(5)], rtol=1e-6)


def test_fused_vectors_never_meet_others():
    embeddings = screening()
    keys = {
        fused(embeddings, units(embeddings, level), how)[0].spec.key
        for level in ("breast", "exam")
        for how in ("mean", "max", "concat")
    }
    assert len(keys | {embeddings.spec.key}) == 7


def test_what_was_linked_as_images_is_linked_as_units():
    embeddings = screening(patients=6)
    digests = embeddings.digests.copy()
    first, second = (np.flatnonzero(embeddings.groups == p)[0] for p in ("p0", "p5"))
    digests[first] = digests[second]
    shared = Embeddings(
        embeddings.spec,
        embeddings.ids,
        embeddings.vectors,
        embeddings.groups,
        digests,
        embeddings.columns,
    )
    made, _ = fused(shared, units(shared, "exam"), "mean")
    together = linked(made)[[i for i, e in enumerate(made.ids) if e[:2] in {"p0", "p5"}]]
    assert len(together) == 4
    assert len(set(together.tolist())) == 1
    assert len(set(linked(made).tolist())) == 5


def test_a_column_keeps_what_all_known_values_of_a_unit_agree_on():
    embeddings = screening(patients=3)
    of = units(embeddings, "exam")
    rng = np.random.default_rng(0)
    values = rng.choice(["", "a", "b"], len(embeddings), p=[0.5, 0.4, 0.1])
    agreed, differ = of.agreed(values)
    for u, exam in enumerate(of.ids):
        known = set(values[embeddings.columns["exam"] == exam].tolist()) - {""}
        assert differ[u] == (len(known) > 1)
        assert agreed[u] == (known.pop() if len(known) == 1 else "")


def test_an_image_without_an_exam_belongs_to_its_patients_only_one():
    embeddings = screening(patients=4)
    exams = np.where(embeddings.groups == "p2", "", embeddings.columns["exam"])
    embeddings.columns["exam"] = exams
    of = units(embeddings, "exam")
    assert len(of.ids) == 7
    assert len(set(of.of[embeddings.groups == "p2"].tolist())) == 1


def test_left_and_right_are_set_against_each_other():
    embeddings = screening(patients=20, lost=0.2, seed=3)
    rng = np.random.default_rng(1)
    answers = rng.dirichlet(np.ones(3), len(embeddings))
    tested = rng.random(len(embeddings)) < 0.9
    of = units(embeddings, "exam")
    found = sides(embeddings, of, answers, tested, ("a", "b", "c"))
    counts, apart = np.zeros((3, 3), int), []
    for exam in sorted(set(embeddings.columns["exam"].tolist())):
        rows = [
            tested & (embeddings.columns["exam"] == exam) & (embeddings.columns["laterality"] == s)
            for s in "LR"
        ]
        if all(r.any() for r in rows):
            left, right = (int(answers[r].mean(axis=0).argmax()) for r in rows)
            counts[left, right] += 1
            apart += [exam] * (left != right)
    assert found.answers == tuple(map(tuple, counts.tolist()))
    assert list(found.apart) == apart
    assert 0 < len(apart) < counts.sum()
    assert sides(embeddings, units(embeddings, "breast"), answers, tested, ("a",) * 3) is None


def test_a_level_nothing_is_known_of_is_one_line():
    embeddings = screening(exam_known=False)
    with pytest.raises(DataError, match="no image has a known exam"):
        units(embeddings, "exam")
    embeddings = screening()
    embeddings.columns["laterality"] = np.full(len(embeddings), "")
    with pytest.raises(DataError, match="no image has a known laterality"):
        units(embeddings, "breast")


def test_one_view_cannot_be_put_beside_others():
    embeddings = screening()
    embeddings.columns["laterality"] = np.full(len(embeddings), "")
    embeddings.columns["view"] = np.full(len(embeddings), "MLO")
    with pytest.raises(DataError, match="--fuse mean"):
        fused(embeddings, units(embeddings, "exam"), "concat")


@pytest.mark.parametrize("fuse", ["probabilities", "mean"])
def test_a_column_that_differs_within_all_is_not_said_to_be_empty(fuse):
    embeddings = screening()
    embeddings.columns["y"] = np.where([g[1:] in {*"02468"} for g in embeddings.groups], "a", "b")
    how = Protocol(folds=2, level="patient", fuse=fuse, by=(By("laterality"),))
    with pytest.raises(DataError, match="the patient it has no value.* differs within 30 of 30 pa"):
        pose(embeddings, "y", how)
    pose(embeddings, "y", replace(how, level="breast"))

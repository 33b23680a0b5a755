"""Quality of retrieval against scikit-learn, plain loops, and every order there is."""

from __future__ import annotations

import itertools
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score
from sklearn.neighbors import NearestNeighbors
from statsmodels.stats.multitest import multipletests

from embedstore.errors import DataError, UsageError
from embedstore.metrics import Draws
from embedstore.retrieval import Asked, compare, judge, pose, ranking
from embedstore.retrieval.measures import by_chance, class_gains, dcg_by_chance, ideal_dcg
from embedstore.retrieval.ranking import rankings
from embedstore.retrieval.texts import weighted_median
from embedstore.types import Embeddings, Recipe, Spec


def made(vectors, labels, patients=None, exams=None, files=None, dtype=np.float32):
    n = len(vectors)
    digests = np.zeros((n, 16), np.uint8)
    digests[:, 14:] = np.arange(n, dtype=">u2").view(np.uint8).reshape(n, 2)
    if files is not None:
        digests[:, 14:] = 0
        digests[:, 13] = files
    columns = {"y": np.asarray(labels, dtype=str)}
    columns["exam"] = np.array([""] * n if exams is None else exams, dtype=str)
    return Embeddings(
        Spec("made", "", Recipe(), "", np.shape(vectors)[1]),
        np.array([f"i{i:03d}" for i in range(n)]),
        np.asarray(vectors, dtype=dtype),
        np.asarray(np.arange(n) if patients is None else patients, dtype=str),
        digests,
        columns,
    )


def cohort(seed=0, n=90, d=5, shares=(0.6, 0.25, 0.15), dtype=np.float32):
    """Skewed classes around centres of their own, patients of one to five images."""
    rng = np.random.default_rng(seed)
    patients = np.sort(rng.integers(0, n // 3, n))
    of_patient = rng.choice(len(shares), n // 3, p=shares)
    y = np.where(rng.random(n) < 0.8, of_patient[patients], rng.integers(0, len(shares), n))
    vectors = rng.normal(size=(len(shares), d))[y] + rng.normal(size=(n, d))
    vectors *= rng.uniform(0.5, 20, (n, 1))  # cosine must not care
    order = rng.permutation(n)
    return made(vectors[order], np.array(list("abcdefg"))[y][order], patients[order], dtype=dtype)


def run(embeddings, **asked):
    task, unit = pose(embeddings, Asked("y", **asked))
    return judge(task, unit, embeddings.spec)


def cosines(embeddings):
    x = embeddings.vectors.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("same_patient", [False, True])
@pytest.mark.parametrize("order", [(), ("b", "a", "c")])
def test_every_query_scores_what_scikit_learn_and_loops_give(order, same_patient, dtype):
    embeddings = cohort(dtype=dtype)
    judged = run(embeddings, ks=(1, 5, 40), order=order, same_patient=same_patient)
    y, everyone = embeddings.columns["y"], np.arange(len(embeddings))
    cosine = cosines(embeddings)
    assert len(judged.task.queries) == len(embeddings)
    for at, query in enumerate(judged.task.queries):
        others = everyone != query
        if not same_patient:
            others = embeddings.groups != embeddings.groups[query]
        score, label = cosine[query, others], y[others]
        relevant = label == y[query]
        gains = relevant.astype(float)
        if order:
            steps = np.array([abs(order.index(v) - order.index(y[query])) for v in label])
            gains = 1 - steps / 2
        found = sorted(everyone[others], key=lambda j: -cosine[query, j])
        hits = [y[j] == y[query] for j in found]
        np.testing.assert_array_equal(judged.neighbours[at], found[:40])
        expected = {
            "map": average_precision_score(relevant, score),
            "r_precision": np.mean(hits[: relevant.sum()]),
            "mrr": 1 / (hits.index(True) + 1),
        }
        for k in (1, 5, 40):
            precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(k) if hits[i]]
            expected[f"precision@{k}"] = sum(hits[:k]) / k
            expected[f"map@{k}"] = sum(precisions) / min(k, relevant.sum())
            expected[f"hit@{k}"] = float(any(hits[:k]))
            expected[f"ndcg@{k}"] = ndcg_score([gains], [score], k=k, ignore_ties=True)
        assert {n: v[at] for n, v in judged.values.items()} == pytest.approx(expected)


def test_precision_is_that_of_scikit_learns_neighbours():
    embeddings = cohort(3)
    alone = made(embeddings.vectors, embeddings.columns["y"])
    near = NearestNeighbors(n_neighbors=6, metric="cosine").fit(alone.vectors)
    rows = near.kneighbors(return_distance=False)
    y = alone.columns["y"]
    expected = (y[rows] == y[:, None]).mean(axis=1)
    np.testing.assert_allclose(run(alone, ks=(6,)).values["precision@6"], expected)


def test_means_over_queries_over_classes_and_of_each_class():
    judged = run(cohort(9, shares=(0.9, 0.05, 0.05)), ks=(5,))
    y = judged.task.truth[judged.task.queries]
    each = judged.values["map@5"]
    of_class = [each[y == c].mean() for c in range(3)]
    report = judged.report
    assert report.metrics["map@5"].value == pytest.approx(each.mean())
    assert report.metrics["macro map@5"].value == pytest.approx(np.mean(of_class))
    assert [s.metrics["map@5"].value for s in report.per_class] == pytest.approx(of_class)
    assert [s.n_images for s in report.per_class] == np.bincount(y).tolist()
    assert abs(np.mean(of_class) - each.mean()) > 0.05  # the classes are skewed: two numbers


def by_loop(hits, k):
    total = sum(hits)
    at = [sum(hits[: i + 1]) / (i + 1) if hits[i] else 0 for i in range(len(hits))]
    first = hits.index(True) + 1
    return {
        f"precision@{k}": sum(hits[:k]) / k,
        f"map@{k}": sum(at[:k]) / min(k, total),
        "r_precision": sum(hits[:total]) / total,
        f"hit@{k}": float(any(hits[:k])),
        "mrr": 1 / first,
        "map": sum(at) / total,
        "rank": first,
    }


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_chance_is_the_mean_over_every_order_there_is(data):
    n = data.draw(st.integers(1, 9))
    r, k = data.draw(st.integers(1, n)), data.draw(st.integers(1, n))
    every = [
        by_loop([i in places for i in range(n)], k)
        for places in itertools.combinations(range(n), r)
    ]
    expected = {name: np.mean([one[name] for one in every]) for name in every[0]}
    found = by_chance(np.array([n]), np.array([r]), (k,))
    assert {name: v[0] for name, v in found.items()} == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("order", [(), ("a", "b", "c", "d")])
def test_chance_of_gains_is_the_mean_over_every_order_there_is(order):
    counts = np.array([2, 1, 3, 1])
    for own in range(4):
        gains = class_gains(4, bool(order))[own]
        items = np.repeat(gains, counts)
        for k in (1, 3, 7):
            sums = [
                sum(g / log2(i + 2) for i, g in enumerate(some))
                for some in itertools.permutations(items, k)
            ]
            found = dcg_by_chance(gains[None], counts[None], (k,))[0, 0]
            assert found == pytest.approx(np.mean(sums))
            assert ideal_dcg(gains[None], counts[None], (k,))[0, 0] == pytest.approx(max(sums))


def by_numpy(labels, own, k):
    """Score (m, n) orders of labels 0, 1, 2 for a query of label `own`."""
    hits = labels == own
    places = np.arange(1, hits.shape[1] + 1)
    precision, total = hits.cumsum(axis=1) / places, hits[0].sum()
    gains = 1 - np.abs(labels - own) / 2
    discounts = 1 / np.log2(places[:k] + 1)
    return {
        f"precision@{k}": hits[:, :k].mean(axis=1),
        f"map@{k}": (precision * hits)[:, :k].sum(axis=1) / min(k, total),
        "map": (precision * hits).sum(axis=1) / total,
        "r_precision": hits[:, :total].mean(axis=1),
        f"ndcg@{k}": gains[:, :k] @ discounts / (np.sort(gains[0])[::-1][:k] @ discounts),
        f"hit@{k}": hits[:, :k].any(axis=1),
        "mrr": 1 / (hits.argmax(axis=1) + 1),
    }


def test_floors_are_what_shuffled_candidates_get():
    embeddings = cohort(5, n=60)
    order = ("a", "b", "c")
    judged = run(embeddings, ks=(4,), order=order)
    y = np.array([order.index(v) for v in embeddings.columns["y"]])
    rng, rounds, each = np.random.default_rng(0), 2000, {}
    for query in judged.task.queries:
        others = y[embeddings.groups != embeddings.groups[query]]
        shuffled = rng.permuted(np.tile(others, (rounds, 1)), axis=1)
        for name, values in by_numpy(shuffled, y[query], 4).items():
            each.setdefault(name, []).append(values)
    own = y[judged.task.queries]
    for name, values in each.items():
        of_round = {name: np.mean(values, axis=0)}
        of_class = [np.array(values)[own == c].mean(axis=0) for c in range(3)]
        of_round[f"macro {name}"] = np.mean(of_class, axis=0)
        for full, simulated in of_round.items():
            score, error = judged.report.metrics[full], simulated.std() / rounds**0.5
            assert abs(score.floor - simulated.mean()) < 4.5 * error, full
            assert score.floors == {"random": score.floor}
    assert len(each) * 2 == len(judged.report.metrics)


def test_chance_of_a_million_candidates_is_a_number():
    found = by_chance(np.array([10**6] * 3), np.array([1, 1000, 10**6]), (10, 10**5))
    assert all(np.isfinite(v).all() for v in found.values())
    assert found["hit@10"] == pytest.approx([1e-5, 1 - (1 - 1e-3) ** 10, 1], rel=1e-5)
    harmonic = np.log(10**6) + np.euler_gamma
    assert found["mrr"] == pytest.approx([harmonic / 10**6, 0.00691, 1], rel=1e-2)


TWINS = np.array([[1, 0], [1, 0.01], [1, 0.02], [1, 0.03], [0, 1], [-1, 0]])


@pytest.mark.parametrize(
    ("patients", "exams", "files"),
    [
        (list("ppqrst"), None, None),
        (list("pqrstu"), None, [0, 0, 2, 3, 4, 5]),
        (["p", "", "r", "s", "t", "u"], ["e", "e", "", "", "", ""], None),
        # i1 is patient p too: it shares an exam with i5, which is of p
        (["p", "", "r", "s", "t", "p"], ["", "e", "", "", "", "e"], None),
    ],
    ids=["patient", "file", "exam", "exam in a chain"],
)
def test_same_patient_exam_and_file_never_count(patients, exams, files):
    embeddings = made(TWINS, list("xxyxyy"), patients, exams, files)
    apart = run(embeddings, ks=(2,))
    assert apart.neighbours[0].tolist() == [2, 3]
    assert apart.values["precision@2"][0] == 0.5
    leaking = run(embeddings, ks=(2,), same_patient=True)
    assert leaking.neighbours[0].tolist() == [1, 2]
    assert leaking.report.same_patient


def test_equals_come_in_the_order_of_their_rows():
    embeddings = made(np.ones((8, 3)), list("aabbaabb"), list("ppqqrrss"))
    judged = run(embeddings, ks=(6,))
    for query, rows in zip(judged.task.queries, judged.neighbours, strict=True):
        own = embeddings.groups == embeddings.groups[query]
        assert rows.tolist() == np.flatnonzero(~own).tolist()


@pytest.mark.parametrize("cells", [1, 50, 1 << 23])
def test_rankings_are_argsorts_whatever_the_blocks(cells, monkeypatch):
    monkeypatch.setattr(ranking, "CELLS", cells)
    rng = np.random.default_rng(0)
    # whole numbers: cosines that are equal are exactly so, 0 and -0 among them
    queries, rows = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (11, 40))
    own, of = rng.integers(0, 5, 11), rng.integers(0, 5, 40)
    for part, found in rankings(queries, rows, (own, of)):
        for i, order in zip(range(part.start, part.stop), found, strict=True):
            best = np.argsort(-(rows @ queries[i]), kind="stable")
            allowed = of != own[i]
            assert order[: allowed.sum()].tolist() == best[allowed[best]].tolist()
            assert sorted(order.tolist()) == list(range(40))


def test_minus_zero_is_zero_and_the_smallest_numbers_are_told_apart():
    values = np.array([[0.0, -0.0, 1e-40, -1e-40, 0.0, -0.0, -np.inf, 1.0]], dtype=np.float32)
    assert ranking._falling(values)[0].tolist() == [7, 2, 0, 1, 4, 5, 3, 6]


@pytest.mark.parametrize("at", [0, 3])
def test_vector_of_zeros_is_alike_to_nothing_and_is_told(at):
    vectors = np.array([[1, 0], [1, 0.1], [-1, 0.1], [-1, 0], [1, 0.2]], dtype=float)
    vectors[at] = 0
    judged = run(made(vectors, list("aabba")), ks=(4,))
    assert "1 vectors are all zeros: cosine 0 to every other" in judged.report.notes
    places = judged.neighbours[judged.task.queries.tolist().index(1)].tolist()
    assert places.index(at) == {0: 1, 3: 2}[at]  # behind what is alike, before what is opposite


def test_intervals_are_those_of_patients_drawn_whole():
    judged = run(cohort(7, n=60), ks=(3,), seed=4)
    task, each = judged.task, judged.values["precision@3"]
    y, of = task.truth[task.queries], task.patients[task.queries]
    people = np.unique(of)
    rng = np.random.default_rng(4)
    means, macros = [], []
    for _ in range(2000):
        drawn = people[rng.integers(0, len(people), len(people))]
        rows = np.concatenate([np.flatnonzero(of == p) for p in drawn])
        means.append(each[rows].mean())
        macros.append(np.mean([each[rows][y[rows] == c].mean() for c in np.unique(y[rows])]))
    for name, values in (("precision@3", means), ("macro precision@3", macros)):
        score = judged.report.metrics[name]
        assert (score.low, score.high) == pytest.approx(np.quantile(values, [0.025, 0.975]))


def test_backbones_are_compared_on_the_same_queries():
    good = cohort(1, n=150)
    rng = np.random.default_rng(0)
    task, unit = pose(good, Asked("y", ks=(5,)))
    noisy = [unit + s * rng.normal(size=unit.shape).astype(np.float32) for s in (0, 0.1, 0.3, 3)]
    judged = [judge(task, x / np.linalg.norm(x, axis=1, keepdims=True), good.spec) for x in noisy]
    names = ["good", "same", "near", "blind"]
    judged = [judged[0], judged[0], *judged[2:]]
    found = compare({n: j.drawn for n, j in zip(names, judged, strict=True)}, ["map", "macro map"])
    assert [one.name for one in found] == names[1:]
    base = judged[0].report.metrics
    for name in ("map", "macro map"):
        raw = [one.differences[name].p for one in found]
        corrected = multipletests(raw, method="holm")[1]
        assert [one.p_holm[name] for one in found] == pytest.approx(corrected)
        for one, other in zip(found, judged[1:], strict=True):
            less = other.report.metrics[name].value - base[name].value
            assert one.differences[name].value == pytest.approx(less)
        assert found[0].p_holm[name] == 1
        assert found[2].p_holm[name] < 0.01
        assert found[2].differences[name].high < 0


def test_who_has_nothing_to_find_is_no_query_but_is_found():
    vectors = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1]])
    embeddings = made(vectors, ["a", "a", "a", "rare", "rare"], list("pqrss"))
    judged = run(embeddings, ks=(3,))
    assert judged.task.queries.tolist() == [0, 1, 2]
    assert {3, 4} & set(judged.neighbours[0].tolist())
    assert [s.value for s in judged.report.per_class] == ["a"]
    (note,) = (n for n in judged.report.notes if not n.startswith("4 patients"))
    assert note.startswith("2 images are no queries, for none of another patient has their y")
    assert "rare 2" in note
    assert len(run(embeddings, ks=(3,), same_patient=True).task.queries) == 5


def test_unknown_labels_are_neither_queries_nor_found():
    embeddings = cohort(2)
    labels = embeddings.columns["y"].copy()
    labels[::4] = ""
    known = np.flatnonzero(labels != "")
    kept = embeddings.take(known)
    some = run(made(embeddings.vectors, labels, embeddings.groups), ks=(5,))
    assert some.report.n_candidates == len(known)
    expected = run(made(kept.vectors, labels[known], kept.groups), ks=(5,))
    for name, values in expected.values.items():
        np.testing.assert_array_equal(some.values[name], values)
    assert f"{len(labels) - len(known)} images without y left out" in some.report.notes


def test_exams_are_found_by_the_mean_of_their_unit_vectors():
    rng = np.random.default_rng(0)
    exams = np.repeat(np.arange(30), 3)
    y = np.repeat(rng.integers(0, 2, 30), 3)
    vectors = (rng.normal(size=(2, 4))[y] + rng.normal(size=(90, 4))) * rng.uniform(1, 9, (90, 1))
    order = rng.permutation(90)
    labels = np.array(list("ab"))[y]
    images = made(vectors[order], labels[order], exams[order] // 2, exams=exams[order] + 100)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    means = unit.reshape(30, 3, 4).mean(axis=1)
    expected = run(made(means, labels[::3], np.arange(30) // 2), ks=(5,))
    found = run(images, ks=(5,), level="exam")
    assert found.task.ids.tolist() == [str(i + 100) for i in range(30)]
    np.testing.assert_array_equal(found.neighbours, expected.neighbours)
    assert found.report.metrics == expected.report.metrics
    torn = labels[order].copy()
    torn[np.flatnonzero(exams[order] == 4)[0]] = "b" if y[12] == 0 else "a"
    left = run(made(vectors[order], torn, exams[order] // 2, exams[order] + 100), level="exam")
    assert "104" not in left.task.ids
    assert any("differs between the images of 1 exams" in n for n in left.report.notes)


def test_queries_are_drawn_by_patient_and_all_can_be_found():
    embeddings = cohort(n=200)
    judged, other = (run(embeddings, ks=(5,), queries=50, seed=s) for s in (0, 1))
    report, rows = judged.report, judged.task.queries
    assert 40 <= report.n_queries <= 50
    assert (report.n_eligible, report.n_candidates) == (200, 200)
    asked = np.isin(embeddings.groups, embeddings.groups[rows])
    np.testing.assert_array_equal(np.flatnonzero(asked), rows)
    assert rows.tolist() != other.task.queries.tolist()
    whole = run(embeddings, ks=(5,))
    for name, values in judged.values.items():
        np.testing.assert_array_equal(values, whole.values[name][rows])
    with pytest.raises(UsageError, match="--queries 1: the first patient drawn has"):
        run(made(np.eye(4), list("abab"), list("ppqq")), ks=(1,), queries=1)


@pytest.mark.parametrize(
    ("labels", "patients", "asked", "message"),
    [
        ("aaaa", "pqrs", {}, "y has one value, 'a'"),
        (
            [f"{i}" for i in range(501)] * 2,
            range(1002),
            {},
            "y has 501 values, a label at most 500",
        ),
        (["", "", "", ""], "pqrs", {}, "label 'y' is empty for all 4 images"),
        ("abcd", "pqrs", {}, "no image has another of another patient with its y"),
        ("aabb", "ppqq", {}, "no image has another of another patient with its y"),
        ("abab", "ppqq", {"ks": (1, 3)}, "-k 3: image 'i000' has 2 images of other patients"),
        ("abab", "ppqq", {"ks": (4,), "same_patient": True}, "-k 4: image 'i000' has 3 images to"),
        ("abab", "ppqq", {"order": ("a",)}, "the class order leaves out b"),
        ("abab", "ppqq", {"level": "exam"}, "no image has a known exam"),
    ],
)
def test_what_cannot_be_judged_is_refused(labels, patients, asked, message):
    with pytest.raises((DataError, UsageError), match=message):
        run(made(np.eye(len(labels)), list(labels), list(patients)), **({"ks": (1,)} | asked))


def test_unknown_columns_and_vectors_that_are_no_numbers_are_refused():
    embeddings = made(np.eye(4), list("abab"))
    with pytest.raises(UsageError, match="no column 'z'; there are y, exam"):
        pose(embeddings, Asked("z"))
    embeddings.vectors[2, 1] = np.inf
    with pytest.raises(DataError, match="NaN or infinity"):
        run(embeddings, ks=(1,))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=12), st.data()
)
def test_weighted_median_is_that_of_repeated_values(pairs, data):
    values, patient = np.array(pairs, dtype=np.intp).T
    rows = [data.draw(st.lists(st.integers(0, 3), min_size=5, max_size=5)) for _ in range(3)]
    found = weighted_median(values.astype(float), Draws(np.array(rows, np.uint16), patient))
    for weights, median in zip(np.array(rows), found, strict=True):
        drawn = np.repeat(values, weights[patient])
        assert np.isnan(median) if not len(drawn) else median == np.median(drawn)

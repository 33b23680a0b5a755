"""Vectors read by blocks: the answers of vectors in memory, at a memory that does not grow."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import vector_stores as made
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import auc, average_precision_score, log_loss, roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler, normalize
from test_evaluate import cohort

import embedstore.classifier
from embedstore import blocks, types
from embedstore.blocks import Blocks
from embedstore.choose import answers, chosen
from embedstore.classifier import standardisation
from embedstore.cli import _run
from embedstore.distinct import distinct, same_bytes
from embedstore.errors import DataError, StoreError
from embedstore.evaluate import final, judge
from embedstore.fitted import fit
from embedstore.links import chained
from embedstore.metrics import Draws, draws, jackknife, patient_draws, ranks
from embedstore.probes.knn import KNNProbe
from embedstore.probes.logistic import LogisticProbe
from embedstore.probes.mlp import MLPProbe
from embedstore.probes.prototype import PrototypeProbe
from embedstore.protocol import Protocol, labelled
from embedstore.saved import SavedProbe, load
from embedstore.solver import solve
from embedstore.splits import kfold
from embedstore.store import Store
from embedstore.stratified import stratified_folds
from embedstore.types import Embeddings, Split
from embedstore.writer import Writer

D = 12
SCALE = Path(__file__).parents[1] / "docs" / "scale.md"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is small enough for memory, and a block is seven rows."""
    monkeypatch.setattr(blocks, "IN_MEMORY", 0)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 7)
    monkeypatch.setattr(embedstore.classifier, "BLOCK_ROWS", 7)


def data(n: int = 301, k: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)) * rng.uniform(0.2, 5, D) + 3
    y = ((x - 3) @ rng.normal(size=(D, k)) + 3 * rng.gumbel(size=(n, k))).argmax(axis=1)
    return x.astype(np.float16), y


def sides(n: int, folds: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds of pairs of rows; the tested side in no order."""
    fold = np.arange(n) // 2 % folds
    rng = np.random.default_rng(0)
    return [
        (np.flatnonzero(fold != k), rng.permutation(np.flatnonzero(fold == k)))
        for k in range(folds)
    ]


# reading


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("rows", [None, [5, 6, 7, 8], [90, 3, 3, 41], [3, 5, 4, 6]])
@pytest.mark.parametrize(
    "wanted", [slice(None), slice(1, 3), slice(0, 9, 2), slice(3, 1), [2, 0], np.array([], int)]
)
def test_rows_are_those_of_the_array(dtype, rows, wanted):
    array = np.random.default_rng(0).normal(size=(100, D)).astype(dtype)
    at = None if rows is None else np.array(rows, dtype=np.intp)
    of = array if at is None else array[at]
    read = Blocks(array, at)[wanted]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, of[wanted].astype(np.float32))


def test_a_mask_takes_its_rows_and_nothing_is_read_before_it_is_asked_for():
    array = np.random.default_rng(0).normal(size=(100, D)).astype(np.float16)
    mask = np.arange(100) % 3 == 1
    taken = Blocks(array).take(mask).take(np.array([4, 2]))
    array[:] += 1
    np.testing.assert_array_equal(taken[:], array[mask][[4, 2]].astype(np.float32))


def test_what_is_yielded_is_all_of_it_standardised(tiny):
    x, _ = data(50)
    rows = x.astype(np.float32)
    scaler = StandardScaler().fit(rows)
    read = Blocks(x).standardised(scaler.mean_.astype(np.float32), scaler.scale_.astype(np.float32))
    found = [(start, block.copy()) for start, block in read.blocks()]
    assert [start for start, _ in found] == list(range(0, 50, 7))
    every = np.concatenate([block for _, block in found])
    np.testing.assert_allclose(every, scaler.transform(rows), atol=1e-5)


@pytest.mark.parametrize("offset", [0, 1000])
def test_mean_and_scale_equal_scikit_learns(tiny, offset):
    x = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32) + offset
    x[:, 2] = 0.1
    scaler = StandardScaler().fit(x.astype(np.float64))
    mean, scale = standardisation(Blocks(x))
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scale, scaler.scale_, rtol=2e-5)
    assert scale[2] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 20, 29])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_not_a_number_is_found_in_any_block(tiny, bad, row, dtype):
    x = np.zeros((30, D), dtype)
    assert Blocks(x).finite()
    x[row, 3] = bad
    assert not Blocks(x).finite()
    embeddings = cohort(patients=15)
    with pytest.raises(DataError, match="NaN or infinity"):
        labelled(_by_blocks(embeddings, np.tile(x, (1, 1))), "y")


def test_large_numbers_are_numbers(tiny):
    assert Blocks(np.full((30, 4), 3e38, np.float32)).finite()


def test_a_head_that_needs_everything_says_how_much_and_who_does_not():
    endless = np.broadcast_to(np.float16(0), (10**10, 512))
    with pytest.raises(
        DataError, match=r"GaussianNB takes.* about 61440 GB.* free; .*logistic, mlp"
    ):
        fit(GaussianNB(), Blocks(endless), np.zeros(2, int), np.zeros(2, int))


# heads


def _pipeline(x, y, train, test, model, rows=lambda x: x):
    scaler = StandardScaler().fit(x[train])
    found = model.fit(rows(scaler.transform(x[train])), y[train])
    return found.predict_proba(rows(scaler.transform(x[test])))


def test_logistic_answers_as_scikit_learns_pipeline(tiny):
    x, y = data()
    (found,) = answers(
        partial(LogisticProbe, tol=1e-8), {}, Blocks(x), y, np.arange(len(y)), sides(len(y))
    )
    for p, (train, test) in zip(found, sides(len(y)), strict=True):
        model = LogisticRegression(C=0.01, tol=1e-10, max_iter=10_000)
        expected = _pipeline(x.astype(np.float64), y, train, test, model)
        np.testing.assert_allclose(p, expected, atol=1e-4)


def test_knn_answers_as_scikit_learns(tiny):
    x, y = data()
    (found,) = answers(KNNProbe, {}, Blocks(x), y, np.arange(len(y)), sides(len(y)))
    for p, (train, test) in zip(found, sides(len(y)), strict=True):
        # cosine by the distance of unit vectors: |a - b|^2 = 2 - 2 cos
        model = KNeighborsClassifier(20, weights=lambda far: np.exp((1 - far**2 / 2) / 0.07))
        expected = _pipeline(x.astype(np.float64), y, train, test, model, normalize)
        np.testing.assert_allclose(p, expected, atol=1e-4)


def test_knn_fitted_by_blocks_is_saved_and_answers_as_scikit_learns(tiny, tmp_path):
    embeddings = cohort(patients=30)
    how = Protocol()
    blocks = _by_blocks(embeddings, embeddings.vectors)
    trial = judge(blocks, "y", KNNProbe, "knn", how)
    fitted, _ = final(trial, how)
    spec, classes = embeddings.spec, trial.report.classes
    probe = SavedProbe("knn", fitted, spec, "float32", "y", classes, 1.0, trial.report)
    probe.save(tmp_path / "p")
    x, y = embeddings.vectors.astype(np.float64), embeddings.columns["y"]
    model = KNeighborsClassifier(20, weights=lambda far: np.exp((1 - far**2 / 2) / 0.07))
    everything = np.arange(len(y))
    expected = _pipeline(x, y, everything, everything, model, normalize)
    np.testing.assert_allclose(load(tmp_path / "p").predict(embeddings), expected, atol=1e-4)


def test_class_means_are_numpys(tiny):
    x, y = data()
    head = PrototypeProbe("euclidean").fit(Blocks(x), y)
    means = [x[y == c].astype(np.float64).mean(axis=0) for c in range(3)]
    np.testing.assert_allclose(head.means_, means, rtol=1e-6)


def test_mlp_takes_the_same_steps_as_in_memory(tiny):
    x, y = data(200)
    small = {"max_epochs": 12, "hidden_layer_sizes": (16,)}
    one = MLPProbe(**small).fit(Blocks(x), y)
    other = MLPProbe(**small).fit(x.astype(np.float32), y)
    for a, b in zip(one.weights_, other.weights_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(one.validation_losses_, other.validation_losses_, rtol=1e-5)


def test_the_documented_head_is_fitted_by_blocks(tiny):
    (code,) = re.findall(r"```python\n(.*?)```", SCALE.read_text(), flags=re.DOTALL)
    names: dict[str, type] = {}
    exec(code, names)
    x, y = data()
    head = fit(names["NearestMean"](), Blocks(x), y, y).head
    rows = StandardScaler().fit_transform(x.astype(np.float64))
    np.testing.assert_allclose(head.means_, NearestCentroid().fit(rows, y).centroids_, atol=1e-5)


@pytest.mark.parametrize("name", ["logistic", "knn"])
def test_a_grid_is_searched_as_in_memory(tiny, name):
    x, y = data(240)
    make, grid = {
        "logistic": (partial(LogisticProbe, tol=1e-8), {"C": [1e-4, 0.01, 1.0]}),
        "knn": (KNNProbe, {"n_neighbors": [1, 20]}),
    }[name]
    groups = np.arange(len(y)) // 2
    one = chosen(make, grid, Blocks(x), y, groups, sides(len(y)))
    other = chosen(make, grid, x.astype(np.float32), y, groups, sides(len(y)))
    assert [c.parameters for c in one] == [c.parameters for c in other]
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a.answers, b.answers, atol=2e-4)


def test_every_fold_and_c_reaches_scikit_learns_optimum_though_a_fold_lacks_a_class(tiny):
    x, y = data(400)
    weights = (np.arange(400) % 3 != np.arange(3)[:, None]) * np.array([1.0, 2.0, 0.5])[y]
    weights[1, y == 2] = 0
    found = solve(Blocks(x), y, weights, [0.001, 0.1], tol=1e-8)
    assert found.converged.all()
    rows = x.astype(np.float64)
    for fold in range(3):
        for c, C in enumerate((0.001, 0.1)):
            used = weights[fold] > 0
            model = LogisticRegression(C=C, tol=1e-10, max_iter=10_000)
            model.fit(rows[used], y[used], sample_weight=weights[fold, used])
            logits = found.logits(x, fold)[c][:, model.classes_]
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            expected = model.predict_proba(rows)
            np.testing.assert_allclose(p, expected, atol=1e-3)
            ours, theirs = (
                weights[fold, used] @ -np.log(q[used, np.searchsorted(model.classes_, y[used])])
                for q in (p, expected)
            )
            assert ours == pytest.approx(theirs, rel=1e-4)


# a whole evaluation


def _by_blocks(embeddings: Embeddings, vectors: np.ndarray | None = None) -> Embeddings:
    vectors = embeddings.vectors if vectors is None else vectors
    vectors = (
        vectors if vectors.shape[1] == embeddings.spec.dim else vectors[:, : embeddings.spec.dim]
    )
    return Embeddings(
        embeddings.spec,
        embeddings.ids,
        Blocks(vectors),
        embeddings.groups,
        embeddings.digests,
        embeddings.columns,
    )


@pytest.mark.parametrize("blank", [False, True])
def test_scores_are_those_of_an_explicit_pipeline(tiny, blank):
    """Also where rows without a label lie between the others."""
    embeddings = cohort()
    y = embeddings.columns["y"].copy()
    if blank:
        y[::5] = ""
    embeddings = _by_blocks(embeddings)
    embeddings = Embeddings(
        embeddings.spec,
        embeddings.ids,
        embeddings.vectors,
        embeddings.groups,
        embeddings.digests,
        {"y": y},
    )
    trial = judge(embeddings, "y", partial(LogisticProbe, tol=1e-8), "logistic", Protocol())
    kept = y != ""
    x, truth = (
        embeddings.vectors[kept].astype(np.float64),
        np.unique(y[kept], return_inverse=True)[1],
    )
    split = kfold(embeddings.take(kept), y[kept], 5, 0)
    p = np.zeros((len(truth), 3))
    for train, test in split:
        model = LogisticRegression(C=0.01, tol=1e-10, max_iter=10_000)
        p[test] = _pipeline(x, truth, train, test, model)
    np.testing.assert_allclose(trial.answered.runs[0], p, atol=1e-4)
    assert trial.report.metrics["log_loss"].value == pytest.approx(log_loss(truth, p), abs=1e-4)
    fitted, _ = final(trial, Protocol())
    model = LogisticRegression(C=0.01, tol=1e-10, max_iter=10_000)
    expected = _pipeline(x, truth, np.arange(len(x)), np.arange(len(x)), model)
    np.testing.assert_allclose(fitted.answers(Blocks(x.astype(np.float32)), 3), expected, atol=2e-4)


def _store(path: Path, n: int = 120) -> tuple[Store, np.ndarray]:
    """Vectors written in another order than the table's, one sample deleted."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, n // 2)[np.arange(n) // 2]
    x = (np.eye(3, 16)[label] + rng.normal(size=(n, 16))).astype(np.float16)
    made.write(
        path,
        x,
        groups=[f"p{i // 2}" for i in range(n)],
        labels={"grade": [("", "A", "B", "C")[c + 1] for c in label], "site": ["x"] * n},
        spec=made.spec_of(16, "float16"),
        order=rng.permutation(n),
    )
    with Writer(path) as writer:
        writer.delete(np.array([7]))
        writer.commit()
    return Store.open(path), np.delete(x, 7, axis=0)


@pytest.mark.parametrize("verify", [False, True])
def test_a_stores_vectors_stay_on_the_disk(tiny, tmp_path, verify):
    store, x = _store(tmp_path / "s.zarr")
    read = Store.open(store.path, verify).read("texture", ["grade"])
    assert isinstance(read.vectors, Blocks)
    np.testing.assert_array_equal(read.vectors[:], x.astype(np.float32))
    assert set(read.columns) == {"grade", "exam"}
    np.testing.assert_array_equal(read.ids, np.delete([f"i{i}" for i in range(120)], 7))


def test_damage_is_noticed_where_it_is_asked_for(tiny, tmp_path):
    store, _ = _store(tmp_path / "s.zarr")
    (chunk,) = (store.path / "embeddings").glob("*/vectors/c/0/0")
    chunk.write_bytes(b"\x01" + chunk.read_bytes()[1:])
    with pytest.raises(StoreError, match="checksum differs"):
        Store.open(store.path, verify=True).read("texture").vectors[:]


@pytest.mark.parametrize("more", [[], ["--sweep"], ["--level", "patient", "--calibrate"]])
def test_the_command_prints_what_it_prints_in_memory(tmp_path, capsys, monkeypatch, request, more):
    store, _ = _store(tmp_path / "s.zarr")
    command = ["probe", str(store.path), "--label", "grade", "--head", "logistic", "--json"]
    command += ["--set", "tol=1e-8"]

    def printed() -> dict:
        assert _run([*command, *more], False) == 0
        return json.loads(capsys.readouterr().out)[0]

    in_memory = printed()
    request.getfixturevalue("tiny")
    by_blocks = printed()
    assert by_blocks["split_fingerprint"] == in_memory["split_fingerprint"]
    assert by_blocks["chosen"] == in_memory["chosen"]
    for name in ("auroc", "log_loss", "brier"):  # an accuracy is moved by one answer in 119
        score = in_memory["metrics"][name]
        for end in ("value", "low", "high"):
            assert by_blocks["metrics"][name][end] == pytest.approx(score[end], abs=2e-3), name


MEMORY = """
import sys, threading, time
import numpy as np
from embedstore import blocks
from embedstore.blocks import Blocks
from embedstore.classifier import standardisation
from embedstore.fitted import fit
from embedstore.probes.logistic import LogisticProbe

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(l.split()[1]) for l in lines if l.startswith("RssAnon")) << 10

def watch():
    while True:
        most[0] = max(most[0], anonymous())
        time.sleep(0.002)

blocks.IN_MEMORY = 0
x = Blocks(np.memmap(sys.argv[1], np.float16, "r", shape=(int(sys.argv[2]), 256)))
y = np.arange(len(x)) % 2
fit(LogisticProbe(), Blocks(np.zeros((4, 4), np.float32)), y[:4], y[:4])  # what is loaded once
most = [0]
before = anonymous()
threading.Thread(target=watch, daemon=True).start()
assert x.finite()
splits = [(np.arange(len(x)), np.arange(1000))]
LogisticProbe(max_iter=3).fit_grid(x, y, splits, {})
print((most[0] - before) / 1e6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_vectors(tmp_path):
    n = 400_000  # 205 MB, 410 MB as float32
    file = tmp_path / "vectors"
    block = np.random.default_rng(0).normal(size=(10_000, 256)).astype(np.float16).tobytes()
    with file.open("wb") as out:
        for _ in range(n // 10_000):
            out.write(block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = subprocess.run(
            [sys.executable, "-c", MEMORY, str(file), str(n)],
            capture_output=True,
            text=True,
            check=True,
        )
    # codes, weights and blocks of two threads, and no copy of the vectors
    assert float(run.stdout) < 150


# what goes with ten million rows


@pytest.mark.parametrize("k", [2, 3, 11])
def test_folds_are_scikit_learns(k):
    rng = np.random.default_rng(k)
    tried = 0
    for seed in range(40):
        n, folds = int(rng.integers(20, 300)), int(rng.integers(2, 7))
        _, groups = np.unique(rng.integers(0, n // 2, n), return_inverse=True)
        labels = rng.integers(0, k, n)[groups] if seed % 2 else rng.integers(0, k, n)
        _, labels = np.unique(labels, return_inverse=True)
        if labels.max() < 1 or np.bincount(labels).max() < folds:
            continue
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        expected = np.empty(n, int)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for fold, (_, test) in enumerate(splitter.split(labels, labels, groups)):
                expected[test] = fold
        np.testing.assert_array_equal(stratified_folds(labels, groups, folds, seed), expected)
        tried += 1
    assert tried > 20


def test_links_are_the_components_of_the_graph():
    rng = np.random.default_rng(0)
    for trial in range(60):
        n = int(rng.integers(2, 50))
        patient = rng.integers(0, n, n)
        exam = patient * 2 + rng.integers(0, 2, n)  # within patients
        columns = [c.astype(str) for c in (patient, exam, rng.integers(0, 2 * n, n))][
            : trial % 3 + 1
        ]
        if trial % 2:
            columns = [np.where(rng.random(n) < 0.3, "", c) for c in columns[::-1]]
        same = np.zeros((n, n), bool)
        for column in columns:
            same |= (column[:, None] == column) & (column != "")
        _, expected = connected_components(coo_array(same), directed=False)
        found = chained(columns)
        np.testing.assert_array_equal(found[:, None] == found, expected[:, None] == expected)
        # in the order of their first rows
        np.testing.assert_array_equal(found, np.unique(expected, return_inverse=True)[1])


@pytest.mark.parametrize("k", [1, 3, 500])
def test_distinct_values_are_numpys(k):
    values = np.random.default_rng(0).integers(0, k, 3000).astype(str)
    for found, expected in zip(
        distinct(values), np.unique(values, return_inverse=True), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_a_rare_value_is_no_less_distinct():
    values = np.full(5000, "a")
    values[4321] = "b"
    names, number = distinct(values)
    assert names.tolist() == ["a", "b"]
    assert np.flatnonzero(number).tolist() == [4321]


@pytest.mark.parametrize("width", [8, 16, 5])
def test_same_bytes_have_the_same_number(width):
    rows = np.random.default_rng(0).integers(0, 2, (300, width)).astype(np.uint8)
    number = same_bytes(rows)
    equal = (rows[:, None] == rows).all(axis=2)
    np.testing.assert_array_equal(number[:, None] == number, equal)


def test_the_fingerprint_is_that_of_the_sorted_pairs_as_json(monkeypatch):
    monkeypatch.setattr(types, "_HASHED", 4)
    rng = np.random.default_rng(0)
    ids = np.array([f"x{i}é" for i in range(23)])[rng.permutation(23)]
    fold = rng.integers(-3, 3, 23)
    pairs = sorted([i, f] for i, f in zip(ids.tolist(), fold.tolist(), strict=True) if f != -3)
    text = json.dumps(pairs, separators=(",", ":"))
    expected = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert Split("m", ids, fold, 0).fingerprint == expected


# scores of many


def _scored(n: int, share: float = 0.3, decimals: int | None = None):
    rng = np.random.default_rng(0)
    patient = np.arange(n) // 2
    positive = (rng.random(n // 2) < share)[patient]
    score = positive + rng.normal(size=n) + rng.normal(size=n // 2)[patient] / 2
    return positive, score if decimals is None else score.round(decimals), patient


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("share", [0.3, 0.02])
def test_areas_by_levels_are_scikit_learns_on_the_same_draws(monkeypatch, decimals, share):
    monkeypatch.setattr(ranks, "MANY", 1000)
    monkeypatch.setattr(ranks, "_TABLE", 1 << 20)
    positive, score, patient = _scored(20_000, share, decimals)
    drawn = patient_draws(patient, 4, 0)
    found = ranks.ranked(positive, score, drawn, (0.9,))
    for draw, weights in enumerate(drawn.weights):
        weight = weights[drawn.patient]
        exact = draw == 0
        area = roc_auc_score(positive, score, sample_weight=weight)
        precision = average_precision_score(positive, score, sample_weight=weight)
        assert found["auroc"][draw] == pytest.approx(area, abs=1e-9 if exact else 1e-4)
        assert found["average_precision"][draw] == pytest.approx(
            precision, abs=1e-9 if exact else 3e-3
        )
        fpr, tpr, _ = roc_curve(positive, score, sample_weight=weight, drop_intermediate=False)
        room = 1e-9 if exact or decimals else 5e-3
        assert found["sensitivity@0.9"][draw] == pytest.approx(
            tpr[fpr <= 0.1 + 1e-12].max(), abs=room
        )
        assert found["specificity@0.9"][draw] == pytest.approx(
            1 - fpr[tpr >= 0.9 - 1e-12].min(), abs=room
        )


def curve(up, down, one_score, cuts=5000):
    """(2, t) positives and negatives above each threshold; a level of many scores is cut fine."""
    points = [np.zeros((2, 1))]
    for u, d, one in zip(up, down, one_score, strict=True):
        steps = np.ones(1) if one else np.arange(1, cuts + 1) / cuts
        points.append(points[-1][:, -1:] + np.outer([u, d], steps))
    return np.concatenate(points, axis=1)


@pytest.mark.parametrize("levels", [1, 2, 6])
def test_levels_count_as_many_scores_or_as_one(levels):
    rng = np.random.default_rng(levels)
    one_score = rng.random(levels) < 0.5
    up, down = rng.integers(0, 4, (2, levels, 120)) * (rng.random((2, levels, 120)) < 0.7)
    down[0, ::3] = np.maximum(10 - down[1:, ::3].sum(axis=0), 0)  # a tenth of which is one
    at = (0.5, 0.8, 0.9, 1.0)
    found = ranks._of_levels(up.astype(float), down.astype(float), one_score, at)
    for b in range(120):
        ends = curve(up[:, b], down[:, b], np.ones(levels, bool))
        tp, fp = curve(up[:, b], down[:, b], one_score)
        positives, negatives = tp[-1], fp[-1]
        expected = [np.nan] * (2 + 2 * len(at))
        if positives:
            share = [p / (p + n) if p else 0 for p, n in ends.T[1:]]
            expected[1] = (up[:, b] * share).sum() / positives
        if positives and negatives:
            expected[0] = auc(ends[1], ends[0]) / positives / negatives
            for i, x in enumerate(at):
                allowed, enough = fp <= (1 - x) * negatives + 1e-9, tp >= x * positives - 1e-9
                expected[2 + 2 * i] = tp[allowed].max() / positives
                expected[3 + 2 * i] = 1 - fp[enough].min() / negatives
        for ours, theirs in zip(found, expected, strict=True):
            assert ours[b] == pytest.approx(theirs, abs=5e-4, nan_ok=True)


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("share", [0.02, 0.6])
def test_a_level_is_one_score_or_a_part_of_each_sign(monkeypatch, share, decimals):
    monkeypatch.setattr(ranks, "LEVELS", 20)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        score = rng.normal(size=300)
        score = score if decimals is None else score.round(decimals).clip(-2, 1.5)
        positive = rng.random(300) < share
        positive[0] = True
        level, one_score = ranks._levels(positive, score)
        order = np.argsort(-score)
        assert (np.diff(level[order]) >= 0).all()
        assert (np.diff(level[order])[np.diff(score[order]) == 0] == 0).all()
        for number in np.unique(level):
            inside = level == number
            assert one_score[number] == (len(set(score[inside])) == 1)
            if decimals is None:
                for sign in (positive, ~positive):
                    assert sign[inside].sum() <= np.ceil(sign.sum() / 20)


@pytest.mark.parametrize(("seed", "gap"), [(0, -4), (3, 6)])
def test_scores_by_levels_stay_between_nothing_and_all(monkeypatch, seed, gap):
    monkeypatch.setattr(ranks, "MANY", 1000)
    positive = np.arange(3000) < 5
    score = np.random.default_rng(seed).normal(size=3000) + gap * positive
    found = ranks.ranked(positive, score, patient_draws(np.arange(3000), 50, 0), (0.8, 0.9, 0.95))
    known = np.stack(list(found.values()))
    known = known[~np.isnan(known)]
    assert len(known)
    assert known.min() >= 0
    assert known.max() <= 1


def test_parts_of_many_patients_spread_a_mean_as_patients_do(monkeypatch):
    monkeypatch.setattr(draws, "PATIENTS", 3000)
    monkeypatch.setattr(draws, "PARTS", 1000)
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 4, 5000)
    patient = np.repeat(np.arange(5000), sizes)
    values = rng.normal(size=5000)[patient] + rng.normal(size=len(patient))
    drawn = patient_draws(patient, 2000, 0)
    assert drawn.weights.shape == (2001, 1000)
    means = drawn.total(values[:, None])[:, 0] / drawn.total(np.ones((len(values), 1)))[:, 0]
    assert means[0] == pytest.approx(values.mean())
    sums = np.bincount(patient, values - values.mean())
    assert means[1:].std() == pytest.approx(np.sqrt((sums**2).sum()) / len(values), rel=0.1)


def test_images_of_a_patient_are_in_one_part(monkeypatch):
    monkeypatch.setattr(draws, "PATIENTS", 100)
    monkeypatch.setattr(draws, "PARTS", 50)
    patient = np.random.default_rng(0).permutation(np.arange(900) // 3)
    for drawn in (patient_draws(patient, 3, 0), jackknife(patient)):
        of = [set(drawn.patient[patient == p].tolist()) for p in range(300)]
        assert all(len(parts) == 1 for parts in of)
        sizes = np.bincount([parts.pop() for parts in of])
        assert sizes.max() - sizes.min() <= 1


def test_sums_by_cell_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    # the last patient has no image
    drawn = Draws(rng.integers(0, 4, (5, 6)).astype(np.uint16), rng.integers(0, 5, 40))
    cell, values = rng.integers(0, 3, 40), rng.normal(size=40)
    weight = drawn.weights[:, drawn.patient].astype(float)
    for given, each in ((None, np.ones(40)), (values, values)):
        expected = np.stack([weight @ (each * (cell == c)) for c in range(3)], axis=1)
        np.testing.assert_allclose(drawn.sums(cell, 3, given), expected, atol=1e-12)
    two = np.stack([values, cell], axis=1)
    np.testing.assert_allclose(drawn.total(two), weight @ two, atol=1e-12)

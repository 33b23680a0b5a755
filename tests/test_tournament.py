"""The prompt tournament against scikit-learn in a loop, and against what luck does."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn import metrics as sk
from statsmodels.stats.multitest import multipletests

from embedstore import tournament as t
from embedstore.errors import DataError, UsageError
from embedstore.probes.zeroshot import ZeroShotProbe
from embedstore.tournament.areas import areas
from embedstore.tournament.priors import class_shares, matching_weights
from embedstore.types import OUTSIDE, TRAIN, VALIDATION, unit_rows

STUDY = (440, 792, 1832, 788)  # fatty, scattered, heterogeneous, extreme


def a_task(n=400, k=4, d=16, seed=0, folds=5, signal=1.0, names="ABCDEF", temperature=0.05):
    """Images of patients of four, their classes' directions, and folds by patient."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) // 4
    truth = rng.integers(0, k, groups.max() + 1)[groups]
    directions = rng.normal(size=(k, d))
    images = unit_rows(signal * directions[truth] + 2 * rng.normal(size=(n, d)) + 1)
    task = t.Task(images, truth, groups, groups % folds, tuple(names[:k]), temperature)
    return task, directions


def some_entries(directions, variants=12, seed=1, noise=1.0, ensembles=True):
    """Noisy sentences about each class, several for some classes."""
    rng = np.random.default_rng(seed)
    k, d = directions.shape
    each = 3 if ensembles else 1
    sentences, wordings = [], []
    for _ in range(variants):
        wording = []
        for c in range(k):
            m = int(rng.integers(1, each + 1))
            wording.append(tuple(range(len(sentences), len(sentences) + m)))
            sentences += list(directions[c] + noise * rng.normal(size=(m, d)) + 1)
        wordings.append(tuple(wording))
    return t.Entries.of(unit_rows(np.array(sentences)), wordings), wordings


def logits_of(task, entries, wording):
    """Cosine over temperature in float64, by the definition."""
    sentences = entries.sentences.astype(np.float64)
    sentences /= np.linalg.norm(sentences, axis=1, keepdims=True)
    means = np.array([sentences[list(own)].mean(axis=0) for own in wording])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return task.images.astype(np.float64) @ means.T / task.temperature


def by_scikit_learn(truth, logits):
    p = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    answer, k = p.argmax(axis=1), p.shape[1]
    area = (
        sk.roc_auc_score(truth, p[:, 1])
        if k == 2
        else sk.roc_auc_score(truth, p, multi_class="ovr", labels=range(k))
    )
    return {
        "auroc": area,
        "accuracy": sk.accuracy_score(truth, answer),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, answer),
        "macro_f1": sk.f1_score(truth, answer, average="macro"),
        "quadratic_kappa": sk.cohen_kappa_score(truth, answer, weights="quadratic"),
        "class_error": np.abs(truth - answer).mean(),
    }


@pytest.mark.parametrize("k", [2, 3, 4])
def test_scores_are_scikit_learns_in_a_loop(k):
    task, directions = a_task(k=k, seed=k)
    images = task.images.copy()
    images[100:200] = images[:100]  # ties
    task = replace(task, images=images)
    entries, wordings = some_entries(directions)
    (found,) = t.scored(task, entries, [t.tested_side(task, False)])
    for v, wording in enumerate(wordings):
        expected = by_scikit_learn(task.truth, logits_of(task, entries, wording))
        for name, value in expected.items():
            assert found.metric(name)[v] == pytest.approx(value, abs=1e-6), name
    assert found.answers().sum(axis=1) == pytest.approx(1)


def test_probabilities_are_the_zero_shot_heads():
    task, directions = a_task()
    entries, wordings = some_entries(directions)
    sentences = unit_rows(entries.sentences)
    for v in (0, 5):
        vectors = {c: sentences[list(own)].mean(axis=0) for c, own in enumerate(wordings[v])}
        head = ZeroShotProbe(vectors, task.temperature).fit(task.images, task.truth)
        found = t.probabilities(task, entries, v, t.tested_side(task, False))
        assert found == pytest.approx(head.predict_proba(task.images), abs=2e-5)


@pytest.mark.parametrize("levels", [1, 2, 7, 10_000])
def test_areas_count_ties_half(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, (4, 3, 501)).astype(np.float32) / 7
    positive = rng.random((3, 501)) < 0.3
    found = areas(scores, positive)
    for v, r in product(range(4), range(3)):
        expected = sk.roc_auc_score(positive[r], scores[v, r])
        assert found[v, r] == pytest.approx(expected, abs=1e-12)


def test_areas_of_one_side_only_are_unknown():
    scores = np.array([[[0.1, 0.2, 0.3]]], dtype=np.float32)
    for side in (True, False):
        assert np.isnan(areas(scores, np.full((1, 3), side))).all()
    assert np.isnan(areas(scores[:, :, :1], np.ones((1, 1), bool))).all()


def test_a_class_the_side_lacks_is_left_out_of_the_mean():
    task, directions = a_task()
    entries, wordings = some_entries(directions)
    rows = np.flatnonzero(task.truth != 2)
    (found,) = t.scored(task, entries, [t.Side(rows)])
    p = logits_of(task, entries, wordings[3])
    p = np.exp(p - logsumexp(p, axis=1, keepdims=True))[rows]
    each = [sk.roc_auc_score(task.truth[rows] == c, p[:, c]) for c in (0, 1, 3)]
    assert found.auroc[3] == pytest.approx(np.mean(each), abs=1e-6)


def test_very_sure_answers_are_still_ranked():
    # log odds beyond 37, from where on float64 probabilities are all 1
    task, directions = a_task(temperature=0.008, signal=3.0)
    entries, wordings = some_entries(directions)
    (found,) = t.scored(task, entries, [t.tested_side(task, False)])
    for v, wording in enumerate(wordings):
        z = logits_of(task, entries, wording)
        odds = [z[:, c] - logsumexp(np.delete(z, c, axis=1), axis=1) for c in range(4)]
        assert (np.max(odds, axis=0) > 37).mean() > 0.05
        each = [sk.roc_auc_score(task.truth == c, odds[c]) for c in range(4)]
        assert found.auroc[v] == pytest.approx(np.mean(each), abs=1e-5)


def test_blocks_and_threads_change_nothing(monkeypatch):
    task, directions = a_task()
    entries, _ = some_entries(directions, variants=50)
    sides = [t.tested_side(task, True), *(t.choosing_side(r, False) for r in t.choosing_rows(task))]
    whole = t.scored(task, entries, sides)
    monkeypatch.setattr("embedstore.tournament.scores._BLOCK", 7 * 4 * 400 * 4)
    monkeypatch.setattr("embedstore.tournament.scores._PIECE", 3 * 4 * 400 * 4)
    for one, other in zip(whole, t.scored(task, entries, sides), strict=True):
        assert np.abs(one.counts - other.counts).sum() <= 4  # an image on the border, by rounding
        assert one.auroc == pytest.approx(other.auroc, abs=1e-5)


def test_memory_does_not_grow_with_the_variants():
    code = """
import json, resource, sys
import numpy as np
from embedstore import tournament as t
from embedstore.types import unit_rows
rng = np.random.default_rng(0)
n, k = 20_000, 4
images = unit_rows(rng.normal(size=(n, 8)))
task = t.Task(images, np.arange(n) % k, np.arange(n), np.zeros(n, int), tuple("ABCD"))
sentences = unit_rows(rng.normal(size=(4 * 600, 8)))
every = [tuple((4 * v + c,) for c in range(k)) for v in range(600)]
peaks = []
for some in (100, 600):
    t.scored(task, t.Entries.of(sentences, every[:some]), [t.tested_side(task, False)])
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(peaks))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    few, many = json.loads(out.stdout)
    assert many - few < 40  # MiB; their cosines alone are 153 more


@pytest.mark.parametrize(("spread", "lean"), [(1.0, 1.0), (8.0, 4.0), (3.0, 25.0), (0.1, 0.1)])
def test_matched_priors_are_the_minimum_of_their_convex_loss(spread, lean):
    rng = np.random.default_rng(0)
    z = spread * rng.normal(size=(4, 3000)) + lean * rng.normal(size=(4, 1))
    shares = np.array(STUDY) / sum(STUDY)
    likelihood = np.exp(np.maximum(z - z.max(axis=0), -80)).astype(np.float32)
    weights = matching_weights(likelihood, shares)
    p = np.exp(z) * weights[:, None]
    assert (p / p.sum(axis=0)).mean(axis=1) == pytest.approx(shares, abs=1e-3)

    def loss(b):  # its gradient is mean probability less share
        every = z + np.append(b, 0)[:, None]
        q = np.exp(every - logsumexp(every, axis=0))
        value = logsumexp(every, axis=0).mean() - shares @ np.append(b, 0)
        return value, (q.mean(axis=1) - shares)[:3]

    best = np.append(minimize(loss, np.zeros(3), jac=True, method="BFGS").x, 0)
    q = np.exp(z + best[:, None])
    q /= q.sum(axis=0)
    assert np.abs(q - p / p.sum(axis=0)).mean() < 2e-3


def test_priors_are_fitted_without_the_tested_labels():
    task, directions = a_task()
    entries, _ = some_entries(directions)
    tested = t.tested_side(task, True)
    before = t.probabilities(task, entries, 0, tested)
    truth = task.truth.copy()
    own = task.fold == 2
    truth[own] = np.roll(truth[own], 3)
    truth[own & (truth == 0)] = 1
    after = t.probabilities(replace(task, truth=truth), entries, 0, tested)
    assert np.array_equal(before[own], after[own])
    assert not np.array_equal(before[~own], after[~own])  # they were fitted on it


def test_corrected_scores_are_those_of_corrected_probabilities():
    task, directions = a_task(temperature=0.02)
    entries, wordings = some_entries(directions)
    side = t.tested_side(task, True)
    (found,) = t.scored(task, entries, [side])
    for v, wording in enumerate(wordings):
        z = logits_of(task, entries, wording)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        corrected = np.empty_like(p)
        for fold, fit in enumerate(t.choosing_rows(task)):
            shares = np.bincount(task.truth[fit], minlength=4) / len(fit)
            weights = matching_weights(p[fit].T, shares)
            corrected[task.fold == fold] = (p * weights)[task.fold == fold]
        expected = by_scikit_learn(task.truth, np.log(corrected))
        assert found.metric("accuracy")[v] == pytest.approx(expected["accuracy"], abs=1e-6)
        assert found.auroc[v] == pytest.approx(expected["auroc"], abs=1e-4)


def test_choosing_rows_are_those_of_a_split():
    task, _ = a_task()
    fold = np.where(task.groups % 10 == 0, OUTSIDE, np.where(task.groups % 10 < 5, TRAIN, 0))
    fold[task.groups % 10 == 9] = VALIDATION
    held = replace(task, fold=fold)
    (rows,) = t.choosing_rows(held)
    assert np.array_equal(rows, np.flatnonzero(fold == TRAIN))
    assert np.array_equal(held.tested, np.flatnonzero(fold == 0))
    folds = t.choosing_rows(task)
    assert [len(rows) for rows in folds] == [(task.fold != k).sum() for k in range(5)]


def study(seed=0):
    """The study's unbalanced set; a variant that leans to one class, and one that does not."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(4), STUDY)
    axes = np.linalg.qr(rng.normal(size=(64, 6)))[0].T
    images = unit_rows(3 * axes[4] + axes[truth] + 0.05 * rng.normal(size=(3852, 64)))
    healthy = unit_rows(2 * axes[4] + axes[:4])
    # every image is nearer to what is said of class 2, which has less beside the point
    leaning = unit_rows(2 * axes[4] + 0.3 * axes[:4] + axes[5])
    leaning[2] = unit_rows((4 * axes[4] + axes[2])[None])[0]
    task = t.Task(images, truth, np.arange(3852), np.arange(3852) % 5, tuple("ABCD"))
    every = [tuple((start + c,) for c in range(4)) for start in (0, 4)]
    return task, t.Entries.of(np.concatenate([healthy, leaning]), every)


def test_the_studys_zero_shot_is_flagged_as_collapsed_and_a_healthy_one_is_not():
    task, entries = study()
    (plain,) = t.play(task, entries, "accuracy", [False], shown=2)
    (corrected,) = t.scored(task, entries, [t.tested_side(task, True)])
    assert t.collapsed(plain.tested.counts).tolist() == [False, True]
    assert not t.collapsed(corrected.counts).any()  # the wording still tells classes apart
    healthy, fallen = plain.table
    assert healthy.variant == 0
    assert fallen.leaning.collapsed
    assert fallen.leaning.commonest == 2
    assert fallen.leaning.share > 0.9
    assert not healthy.leaning.collapsed
    # what the study reports, and what looks like a result: the majority floor
    assert fallen.metrics["accuracy"].value == pytest.approx(0.476, abs=0.03)
    assert fallen.metrics["accuracy"].floor == pytest.approx(1832 / 3852)


@pytest.mark.parametrize(
    ("truth", "answers", "collapsed"),
    [
        ((25, 25, 25, 25), (5, 85, 5, 5), True),
        ((25, 25, 25, 25), (10, 70, 10, 10), False),
        ((2, 8, 77, 13), (0, 1, 96, 3), True),
        ((2, 8, 77, 13), (2, 8, 77, 13), False),
        ((2, 98), (2, 98), False),
        ((2, 98), (0, 100), True),
        ((0, 100), (0, 100), False),
        ((100, 0), (0, 100), True),
    ],
)
def test_collapse_is_judged_by_what_the_other_classes_are_due(truth, answers, collapsed):
    true = np.repeat(range(len(truth)), truth)
    answer = np.repeat(range(len(answers)), answers)
    counts = sk.confusion_matrix(true, answer, labels=range(len(truth)))
    found = t.leaning(counts)
    assert found.collapsed is collapsed
    assert found.share == max(answers) / 100
    assert found.never == tuple(
        c for c, (a, b) in enumerate(zip(answers, truth, strict=True)) if b and not a
    )


def test_the_winner_of_noise_is_above_chance_where_it_was_chosen_and_at_chance_elsewhere():
    chosen, held_out, holds = [], [], 0
    for seed in range(24):
        task, directions = a_task(n=240, k=2, seed=seed, signal=0.0, folds=3)
        rng = np.random.default_rng(seed)
        noise = unit_rows(rng.normal(size=(400, 16)))
        entries = t.Entries.of(noise, [((2 * v,), (2 * v + 1,)) for v in range(200)])
        sides = [t.choosing_side(rows, False) for rows in t.choosing_rows(task)]
        picks = [
            t.best_variant(entries, found, "auroc") for found in t.scored(task, entries, sides)
        ]
        one = t.honest(task, entries, picks, "auroc", False)
        chosen.append(one.chosen)
        held_out.append(one.metrics["auroc"].value)
        holds += one.metrics["auroc"].low <= 0.5 <= one.metrics["auroc"].high
        assert one.optimism == pytest.approx(one.chosen - one.metrics["auroc"].value)
    error = np.std(held_out) / np.sqrt(24)
    assert np.mean(chosen) > 0.6
    assert abs(np.mean(held_out) - 0.5) < 3 * error
    assert holds >= 19


def test_a_pick_does_not_know_the_fold_it_answers():
    task, directions = a_task(n=200, signal=0.3)
    entries, _ = some_entries(directions, variants=20, noise=3.0)
    rng = np.random.default_rng(0)
    truth = task.truth.copy()
    own = task.fold == 1
    truth[own] = rng.permutation(truth[own])
    for correct in (False, True):
        before, after = (
            t.play(one, entries, "quadratic_kappa", [correct], shown=1, search=True)[0]
            for one in (task, replace(task, truth=truth))
        )
        for way in ("best", "ensemble", "per_class"):
            assert getattr(before, way).picks[1] == getattr(after, way).picks[1]
        assert before.best.picks[0].chosen != after.best.picks[0].chosen


def test_held_out_answers_are_scored_together():
    task, directions = a_task(signal=0.5)
    entries, wordings = some_entries(directions, variants=20, noise=2.0)
    (result,) = t.play(task, entries, "quadratic_kappa", [False], shown=1)
    answers, chosen = np.zeros(400, int), []
    for fold in range(5):
        learn = task.fold != fold
        every = [logits_of(task, entries, w).argmax(axis=1) for w in wordings]
        kappas = [
            sk.cohen_kappa_score(task.truth[learn], a[learn], weights="quadratic") for a in every
        ]
        best = int(np.argmax(kappas))
        chosen.append(kappas[best])
        answers[~learn] = every[best][~learn]
        assert result.best.picks[fold].variant == best
    kappa = sk.cohen_kappa_score(task.truth, answers, weights="quadratic")
    assert result.best.metrics["quadratic_kappa"].value == pytest.approx(kappa)
    assert result.best.chosen == pytest.approx(np.mean(chosen))
    assert sum(result.best.frequency.values()) == pytest.approx(1)


def test_less_is_better_where_it_is():
    task, directions = a_task()
    entries, wordings = some_entries(directions)
    (found,) = t.scored(task, entries, [t.tested_side(task, False)])
    errors = [
        np.abs(task.truth - logits_of(task, entries, w).argmax(axis=1)).mean() for w in wordings
    ]
    assert found.order("class_error")[0] == np.argmin(errors)
    assert found.order("accuracy")[-1] == np.argmin(found.metric("accuracy")[::1])


def test_the_table_compares_with_the_best_and_the_baseline():
    task, directions = a_task(signal=2.0)
    entries, wordings = some_entries(directions, variants=8)
    wordings.append(wordings[0][::-1])  # classes confused
    entries = t.Entries.of(entries.sentences, wordings)
    (result,) = t.play(task, entries, "auroc", [False], shown=3, named=[8], baseline=0)
    lines = {line.variant: line for line in result.table}
    assert {0, 8} <= set(lines)
    values = [line.metrics["auroc"].value for line in result.table]
    assert values == sorted(values, reverse=True)
    assert values == pytest.approx(result.tested.auroc[list(lines)], abs=1e-6)
    assert sum(line.won for line in result.table) == pytest.approx(1)
    best = result.table[0]
    assert best.best is None
    for kind, other in (("best", best), ("baseline", lines[0])):
        against = [getattr(line, kind) for line in result.table if line is not other]
        raw = [one.difference.p for one in against]
        assert [one.p for one in against] == pytest.approx(multipletests(raw, method="holm")[1])
        for line in result.table:
            if line is other:
                continue
            one, value = getattr(line, kind), other.metrics["auroc"].value
            assert one.variant == other.variant
            assert one.difference.value == pytest.approx(line.metrics["auroc"].value - value)
    assert lines[8].baseline.p < 0.01
    assert lines[8].baseline.difference.high < 0


def test_an_ensemble_of_noisy_sentences_beats_each_and_is_scored_as_what_it_is():
    task, directions = a_task(n=800, signal=1.0)
    entries, _ = some_entries(directions, variants=30, noise=3.0, ensembles=False)
    side = t.choosing_side(np.flatnonzero(task.fold != 0), False)
    (found,) = t.scored(task, entries, [side])
    best = t.best_variant(entries, found, "auroc")
    pick = t.ensemble(task, entries, found, side, "auroc")
    assert len(pick.wording[0]) > 1
    assert all(len(own) == len(pick.wording[0]) for own in pick.wording)
    assert pick.chosen > best.chosen + 0.02
    rows = side.rows
    whole = by_scikit_learn(task.truth[rows], logits_of(task, entries, pick.wording)[rows])
    assert pick.chosen == pytest.approx(whole["auroc"], abs=1e-6)
    held = {}
    for name, wording in (("best", best.wording), ("ensemble", pick.wording)):
        z = logits_of(task, entries, wording)[task.fold == 0]
        held[name] = by_scikit_learn(task.truth[task.fold == 0], z)["auroc"]
    assert held["ensemble"] > held["best"]


def test_each_class_finds_its_wording_by_itself():
    task, directions = a_task(n=800, signal=1.5)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4, 16))
    # of variant v only class v is worded well
    sentences = np.concatenate(
        [np.where(np.arange(4)[:, None] == v, directions, noise) for v in range(4)]
    )
    entries = t.Entries.of(
        unit_rows(sentences + 1), [tuple((4 * v + c,) for c in range(4)) for v in range(4)]
    )
    side = t.Side(task.tested)
    (found,) = t.scored(task, entries, [side])
    pick = t.per_class(task, entries, found, side, "auroc")
    assert pick.wording == ((0,), (5,), (10,), (15,))
    whole = by_scikit_learn(task.truth, logits_of(task, entries, pick.wording))
    assert pick.chosen == pytest.approx(whole["auroc"], abs=1e-6)


def test_effects_of_all_combinations_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    slots = {"noun": "abc", "verb": "xy", "label": "pqrs"}
    parts = [dict(zip(slots, own, strict=True)) for own in product(*slots.values())]
    values, answers = rng.random(24), rng.dirichlet(np.ones(3), 24)
    columns = [(s, x) for s, own in slots.items() for x in own]
    design = np.array([[1, *(part[s] == x for s, x in columns)] for part in parts], float)
    found = {(one.part, one.choice): one for one in t.effects(parts, values, answers)}
    assert set(found) == set(columns)
    for y, of in ((values, lambda e: e.change), (answers[:, 1], lambda e: e.answers[1])):
        fitted = np.linalg.lstsq(design, y, rcond=None)[0][1:]
        for slot in slots:
            own = np.array([s == slot for s, _ in columns])
            centred = fitted[own] - fitted[own].mean()
            mine = [
                of(found[column]) for column, is_own in zip(columns, own, strict=True) if is_own
            ]
            assert mine == pytest.approx(centred)
    assert found["noun", "a"].comparisons == 8


def test_effects_compare_only_what_differs_in_one_part():
    parts = [
        {"template": "a", "label": "p"},
        {"template": "b", "label": "p"},
        {"template": "b", "label": "q"},
        {"template": "c", "label": "r"},  # alone
        {"template": "d", "label": "p"},  # unknown value
        {"other": "z"},
    ]
    values = np.array([0.5, 0.7, 0.1, 0.9, np.nan, 0.3])
    found = {(e.part, e.choice): e.change for e in t.effects(parts, values, np.ones((6, 1)))}
    assert found == pytest.approx(
        {("template", "a"): -0.1, ("template", "b"): 0.1, ("label", "p"): 0.3, ("label", "q"): -0.3}
    )


def test_effects_of_templates_are_averaged_over_their_own_slots():
    parts = [
        {"template": "{x}", "label": "p"},
        {"template": "{x}", "label": "q"},
        {"template": "{noun} {x}", "label": "p", "noun": "a"},
        {"template": "{noun} {x}", "label": "p", "noun": "b"},
        {"template": "{noun} {x}", "label": "q", "noun": "a"},
        {"label": "p", "ensemble": "templates"},
        {"label": "q", "ensemble": "templates"},
    ]
    values = np.array([0.1, 0.3, 0.2, 0.4, 0.5, 0.7, 0.8])
    found = {(e.part, e.choice): e for e in t.effects(parts, values, np.ones((7, 1)))}
    template = np.mean([(0.3 - 0.1) / 2, (0.5 - 0.3) / 2])
    assert found["template", "{noun} {x}"].change == pytest.approx(template)
    assert found["noun", "b"].change == pytest.approx(0.1)
    assert found["noun", "b"].comparisons == 1
    # within each template with its slot, and among the ensembles
    label = np.mean([0.2, 0.5 - 0.2, 0.1]) / 2
    assert found["label", "q"].change == pytest.approx(label)
    assert found["label", "q"].comparisons == 3


def test_large_ensembles_are_averaged_in_parts(monkeypatch):
    entries, wordings = some_entries(np.eye(4))
    sets = np.unique(entries.sets)
    whole = entries.vectors(sets)
    monkeypatch.setattr("embedstore.tournament.entries._SENTENCES", 2)
    assert np.array_equal(entries.vectors(sets), whole)
    unit = entries.sentences / np.linalg.norm(entries.sentences, axis=1, keepdims=True)
    mean = unit[list(wordings[0][0])].mean(axis=0)
    assert whole[entries.sets[0, 0]] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


def test_an_entry_is_given_back_as_it_was():
    entries, wordings = some_entries(np.eye(4))
    assert [entries.wording(v) for v in range(len(entries))] == wordings
    assert entries.only([3, 1]).wording(1) == wordings[1]


def test_bad_input_is_refused_in_one_line():
    task, directions = a_task()
    entries, _ = some_entries(directions)
    sentences = entries.sentences
    for wordings, said in (
        ([], "no prompt variant"),
        ([((0,), ())], "sentence for each"),
        ([((0,), (1,)), ((0,),)], "variant 1"),
        ([((0,), (10**6,))], "sentence 1000000 has no vector"),
        ([((0,), (-1,))], "no vector"),
    ):
        with pytest.raises(DataError, match=said):
            t.Entries.of(sentences, wordings)
    for changed, said in (
        ({"images": 2 * task.images}, "length 1"),
        ({"truth": task.truth + 1}, "from 0 to 3"),
        ({"temperature": 0.0}, "temperature"),
        ({"groups": task.groups[1:]}, "groups has 399"),
        ({"fold": np.full(400, TRAIN)}, "tests no image"),
        ({"classes": ("A",)}, "two classes"),
    ):
        with pytest.raises(DataError, match=said):
            replace(task, **changed)
    with pytest.raises(UsageError, match="ranked by"):
        t.play(task, entries, by="ece")
    with pytest.raises(UsageError, match="no variant 99"):
        t.play(task, entries, baseline=99)
    with pytest.raises(UsageError, match="dimensions"):
        t.scored(task, replace(entries, sentences=sentences[:, :5]), [t.Side(task.tested)])
    with pytest.raises(UsageError, match="2 classes"):
        t.scored(task, t.Entries.of(sentences, [((0,), (1,))]), [t.Side(task.tested)])
    with pytest.raises(DataError, match="1 picks for 5"):
        t.honest(task, entries, [t.Pick(entries.wording(0), 0.5)], "auroc", False)


def test_shares_of_a_class_without_an_image_are_not_zero():
    assert class_shares(np.array([0, 0, 2]), 3) == pytest.approx(np.array([2, 0.5, 1]) / 3.5)

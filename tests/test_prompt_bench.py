"""`prompts bench` and `prompts use`, against `probe`, scikit-learn and loops, end to end."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax
from sklearn import metrics as sk
from text_stores import clip, near, said, write

from embedstore import phantoms
from embedstore.cli import _run
from embedstore.lock import lock_of, write_lock
from embedstore.prompt_bench import Asked, choose, pose
from embedstore.prompts.expand import expand
from embedstore.prompts.sets import load
from embedstore.protocol import Protocol
from embedstore.saved import load as load_saved
from embedstore.store import Store
from embedstore.types import unit_rows
from embedstore.writer import Writer

CLASSES = ("A", "B", "C", "D")
SET = """
name: small
classes: {A: [fatty, "1"], B: [scattered, "2"], C: [heterogeneous, "3"], D: [extreme, "4"]}
descriptions:
  words:
    A: almost entirely fatty
    B: of scattered density
    C: "{heterogeneously|unevenly} dense"
    D: [extremely dense, dense throughout]
templates: ["The {breast is|breasts are} {}.", "A film of a breast that is {}"]
ensembles: [templates]
"""
PLAIN = ["almost entirely fatty", "of scattered density", "heterogeneously dense", "dense"]
FEW = {
    "no": """
classes: [A, B]
descriptions: {d: {A: fatty, B: dense}}
templates: ["{}"]
"""
}


def run(*arguments: object, code: int = 0) -> None:
    assert _run([str(a) for a in arguments], debug=code == 0) == code


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Draw patients fewer times, here and in `probe`: no test is of the width of an interval."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("scoring", "tournament.honest", "tournament.table"):
            patch.setattr(import_module(f"embedstore.{name}"), "RESAMPLES", 200)
        yield


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extract phantoms by the real phantom-clip, and put a set beside them."""
    folder = tmp_path_factory.mktemp("films")
    manifest = phantoms.write(folder / "films", patients=16, size=96, seed=3)
    extract = ["extract", manifest, "--backbone", "phantom-clip", "--backbone", "statistics"]
    run(*extract, "--store", folder / "s.zarr", "--workers", 0)
    (folder / "small.yaml").write_text(SET)
    run("prompts", "bench", folder / "s.zarr", "--label", "density", "--set", folder / "small.yaml")
    return folder


@pytest.fixture
def place(films: Path, tmp_path: Path) -> Path:
    for name in ("s.zarr", "s.zarr.key"):
        if (films / name).is_dir():
            shutil.copytree(films / name, tmp_path / name)
        elif (films / name).exists():
            shutil.copyfile(films / name, tmp_path / name)
    shutil.copyfile(films / "small.yaml", tmp_path / "small.yaml")
    return tmp_path


def bench(place: Path, *more: object, label: str = "density", sets: tuple[str, ...] = ()) -> Any:
    """Give the JSON of a bench; the rows of its CSV are left for `rows_of`."""
    names = sets or (str(place / "small.yaml"),)
    chosen = [part for name in names for part in ("--set", name)]
    command = ["prompts", "bench", place / "s.zarr", "--label", label, *chosen]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        run(*command, "--json", "--csv", place / "all.csv", "--force", *more)
    return json.loads(said.getvalue())


def rows_of(place: Path, priors: str = "as they are") -> dict[str, dict[str, Any]]:
    with (place / "all.csv").open(newline="") as handle:
        return {r["variant"]: r for r in csv.DictReader(handle) if r["priors"] == priors}


def by_hand(place: Path, sentences: dict[str, list[str]], scale: float) -> tuple[Any, Any]:
    """Give truth and (n, k) probabilities by numpy from the backbone's own vectors."""
    store = Store.open(place / "s.zarr")
    read = store.read("phantom-clip")
    images = read.vectors.astype(np.float64)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    columns = []
    for own in sentences.values():
        each = said(own).astype(np.float64)
        mean = (each / np.linalg.norm(each, axis=1, keepdims=True)).mean(axis=0)
        columns.append(images @ (mean / np.linalg.norm(mean)))
    labels = read.columns["density"].tolist()
    truth = np.array([list(sentences).index(v) for v in labels])
    return truth, softmax(scale * np.stack(columns, axis=1), axis=1)


def test_every_variant_scores_as_scikit_learn_says(place: Path) -> None:
    found = bench(place, "--no-search")
    rows = rows_of(place)
    variants = list(expand(load(place / "small.yaml"), CLASSES))
    assert list(rows) == [v.name for v in variants]
    assert found["logit_scale"] == pytest.approx(
        float(clip().model.logit_scale.exp())  # type: ignore[attr-defined]
    )
    for variant in variants:
        sentences = {c: list(variant.sentences[c]) for c in CLASSES}
        truth, p = by_hand(place, sentences, found["logit_scale"])
        answer = p.argmax(axis=1)
        expected = {
            "auroc": sk.roc_auc_score(truth, p, multi_class="ovr"),
            "accuracy": sk.accuracy_score(truth, answer),
            "macro_f1": sk.f1_score(truth, answer, average="macro"),
            "quadratic_kappa": sk.cohen_kappa_score(truth, answer, weights="quadratic"),
        }
        for name, value in expected.items():
            assert float(rows[variant.name][name]) == pytest.approx(value, abs=2e-5), name
        shares = np.bincount(answer, minlength=4) / len(answer)
        got = [float(rows[variant.name][f"answers:{c}"]) for c in CLASSES]
        np.testing.assert_allclose(got, shares, atol=1e-9)


def test_a_variant_is_what_probe_s_zero_shot_head_is(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bench(place, "--top", 3, "--no-search")
    best = found["results"][0]["table"][0]
    prompts = [
        part for c, own in best["prompts"].items() for s in own for part in ("--prompt", f"{c}={s}")
    ]
    capsys.readouterr()
    scale = ("--set", f"temperature={1 / found['logit_scale']!r}")
    command = ["probe", place / "s.zarr", "--label", "density", "--backbone", "phantom-clip"]
    run(*command, "--head", "zeroshot", "--order", "A,B,C,D", *scale, *prompts, "--json")
    (report,) = json.loads(capsys.readouterr().out)
    assert report["split_fingerprint"] == found["split_fingerprint"]
    for name in ("accuracy", "auroc", "macro_f1", "quadratic_kappa", "log_loss"):
        for part in ("value", "low", "high", "floor"):
            assert best["metrics"][name][part] == pytest.approx(
                report["metrics"][name][part], abs=1e-5
            ), (name, part)


def test_a_second_run_encodes_nothing_and_says_the_same(place: Path) -> None:
    first = bench(place)
    assert first["sentences_encoded"] == 0  # the fixture's own bench kept them
    root = (place / "s.zarr" / "zarr.json").read_bytes()
    assert bench(place) == first
    assert (place / "s.zarr" / "zarr.json").read_bytes() == root


def test_the_winner_is_scored_where_it_was_not_chosen(place: Path) -> None:
    found = bench(place, "--folds", 4, "--no-search")
    variants = list(expand(load(place / "small.yaml"), CLASSES))
    each = [
        by_hand(place, {c: list(v.sentences[c]) for c in CLASSES}, found["logit_scale"])
        for v in variants
    ]
    truth = each[0][0]
    asked = Asked("density", (load(place / "small.yaml"),), Protocol(folds=4))
    store = Store.open(place / "s.zarr")
    fold = pose(store, store.find("phantom-clip"), asked).tasks[0].fold
    p, chosen, names = np.zeros_like(each[0][1]), [], []
    for k in range(4):
        aside = fold != k
        areas = [sk.roc_auc_score(truth[aside], of[aside], multi_class="ovr") for _, of in each]
        best = int(np.argmax(np.round(areas, 6)))
        chosen.append(areas[best])
        names.append(variants[best].name)
        p[fold == k] = each[best][1][fold == k]
    held_out = sk.roc_auc_score(truth, p, multi_class="ovr")
    got = found["results"][0]["chosen"]["best"]
    assert [pick["variant"] for pick in got["picks"]] == names
    assert got["chosen"] == pytest.approx(np.mean(chosen), abs=1e-5)
    assert got["metrics"]["auroc"]["value"] == pytest.approx(held_out, abs=1e-5)
    assert got["optimism"] == pytest.approx(np.mean(chosen) - held_out, abs=1e-5)


def test_luck_among_many_variants_is_called_optimism(tmp_path: Path) -> None:
    # images of noise: the best of hundreds of variants looks good, and is worth nothing
    rng = np.random.default_rng(5)
    labels = ["A", "B"] * 30
    write(tmp_path / "s.zarr", rng.standard_normal((60, clip().spec.dim)), labels)
    one, other = ("fat|left|photo|round|craniocaudal", "dense|right|report|small|oblique")
    text = FEW["no"].replace("fatty", f'"{{{one}}}"').replace("dense}", f'"{{{other}}}"}}')
    (tmp_path / "small.yaml").write_text(text)
    found = bench(tmp_path, "--no-search")
    best = found["results"][0]["chosen"]["best"]
    assert found["variants"] == 25
    assert found["results"][0]["table"][0]["metrics"]["auroc"]["value"] > 0.55
    assert best["optimism"] > 0.03
    assert best["metrics"]["auroc"]["low"] < 0.5


STUDY = {"A": 440, "B": 792, "C": 1832, "D": 788}


def test_the_study_s_collapse_is_printed_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [c for c, n in STUDY.items() for _ in range(n)]
    order = np.random.default_rng(0).permutation(len(labels) // 4)  # four images a patient
    labels = [labels[4 * at + i] for at in order for i in range(4)]
    truth = np.array([CLASSES.index(v) for v in labels])
    # the study's own phrases; every image lies by that of C, whatever it shows
    phrases = [
        "The breast is Fatty predominance",
        "The breast is Characterized by scattered areas of pattern density",
        "The breast is Heterogeneously dense",
        "The breast is Extremely dense",
    ]
    toward = 0.15 * near(phrases, truth, 0.0) + near(phrases, np.full(len(truth), 2), 0.3)
    write(tmp_path / "s.zarr", toward, labels, a_patient=4)
    command = ["prompts", "bench", tmp_path / "s.zarr", "--label", "density"]
    more = ("--baseline", "molina2025 11", "--test-share", "0.2", "--no-search", "--top", 2)
    run(*command, "--set", "birads-density", *more)
    out = capsys.readouterr().out
    plain, corrected = out.split("class priors corrected")[:2]
    assert "COLLAPSED" in plain.split("as they are")[1]
    found = bench(tmp_path, *more, sets=("birads-density",))
    by_name = {line["variant"]: line for line in found["results"][0]["table"]}
    (baseline,) = [line for name, line in by_name.items() if name.startswith("molina2025 11: ")]
    assert baseline["prompts"]["C"] == ["The breast is Heterogeneously dense"]
    assert baseline["collapsed"]
    assert baseline["commonest"] == "C"
    assert baseline["share"] > 0.95
    # the study's numbers, of answering C for everyone
    accuracy = baseline["metrics"]["accuracy"]
    assert accuracy["value"] == pytest.approx(STUDY["C"] / sum(STUDY.values()), abs=0.02)
    assert accuracy["value"] < accuracy["floor"] + 0.02
    (right,) = [
        line for line in found["results"][1]["table"] if line["variant"] == found["baseline"]
    ]
    assert not right["collapsed"]
    assert "COLLAPSED" not in corrected.split("what choosing is worth")[0]


def test_labels_are_known_by_their_aliases_in_the_set_s_order(place: Path) -> None:
    by_letter = bench(place, "--no-search")
    with Writer(place / "s.zarr") as writer:
        letters = writer.store().array("samples/labels/density").tolist()
        numbers = [
            {"A": "1.0", "B": "scattered", "C": "HETEROGENEOUS", "D": "4"}[v] for v in letters
        ]
        writer.add_label("grade", numbers)
        writer.commit()
    by_number = bench(place, "--no-search", label="grade")
    assert by_number["classes"] == ["1.0", "scattered", "HETEROGENEOUS", "4"]
    for one, other in zip(
        by_letter["results"][0]["table"], by_number["results"][0]["table"], strict=True
    ):
        assert one["variant"] == other["variant"]
        assert one["metrics"]["quadratic_kappa"] == other["metrics"]["quadratic_kappa"]


def test_patients_are_their_images_mean_as_probe_fuses_them(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bench(place, "--level", "patient", "--top", 1, "--no-search", "--folds", 3)
    best = found["results"][0]["table"][0]
    prompts = [
        part for c, own in best["prompts"].items() for s in own for part in ("--prompt", f"{c}={s}")
    ]
    capsys.readouterr()
    scale = ("--set", f"temperature={1 / found['logit_scale']!r}")
    command = ["probe", place / "s.zarr", "--label", "density", "--backbone", "phantom-clip"]
    level = ("--level", "patient", "--fuse", "mean", "--folds", 3)
    run(*command, "--head", "zeroshot", "--order", "A,B,C,D", *scale, *prompts, *level, "--json")
    (report,) = json.loads(capsys.readouterr().out)
    assert found["n_test"] == report["n_test"]
    for name in ("accuracy", "auroc", "quadratic_kappa"):
        value = report["metrics"][name]["value"]
        assert best["metrics"][name]["value"] == pytest.approx(value, abs=1e-5)


def test_several_sets_compete_under_their_names(place: Path) -> None:
    found = bench(
        place, "--no-search", "--top", 12, "--baseline", "small/words 2.1",
        sets=(str(place / "small.yaml"), "birads-density"),
    )  # fmt: skip
    names = [line["variant"] for line in found["results"][0]["table"]]
    assert {name.partition("/")[0] for name in names} == {"small", "birads-density"}
    assert len(names) == len(set(names)) <= 13
    assert found["baseline"] == "small/words 2.1: A film of a breast that is {}"
    p = [line["to_baseline"]["p_holm"] for line in found["results"][0]["table"]
         if line["to_baseline"]]  # fmt: skip
    raw = [line["to_baseline"]["p"] for line in found["results"][0]["table"]
           if line["to_baseline"]]  # fmt: skip
    assert min(p) == pytest.approx(min(1, min(raw) * len(raw)))


def test_variants_may_be_drawn_and_the_first_always_is(place: Path) -> None:
    found = bench(place, "--limit", 20, "--no-search", sets=("birads-density",))
    every = [v.name for v in expand(load("birads-density"), CLASSES)]
    drawn = list(rows_of(place))
    assert len(drawn) == 20
    assert drawn[0] == every[0] == found["baseline"]
    assert drawn == [name for name in every if name in drawn]
    assert f"20 of {len(every)} variants, drawn at random" in found["notes"]


def test_fold_seeds_are_each_chosen_on_and_a_saved_split_is_kept_to(place: Path) -> None:
    found = bench(place, "--repeats", 3, "--no-search")
    alone = bench(place, "--seed", 2, "--no-search")
    assert len(found["repeats"]) == 3
    third, own = found["repeats"][2]["as they are"], alone["repeats"][0]["as they are"]
    assert third["chosen"] == pytest.approx(own["chosen"])
    assert third["metrics"]["auroc"]["value"] == pytest.approx(own["metrics"]["auroc"]["value"])
    run("split", place / "s.zarr", "--label", "density", "--kind", "holdout", "--out",
        place / "split.json")  # fmt: skip
    split = bench(place, "--split", place / "split.json", "--no-search")
    assert split["n_test"] < found["n_test"]
    assert split["split"].startswith("holdout")


def test_priors_are_corrected_without_the_tested_labels(place: Path) -> None:
    lame = SET.replace("[extremely dense, dense throughout]", "[breast, film]")  # hardly answered
    (place / "small.yaml").write_text(lame)
    bench(place, "--no-search", "--folds", 2)
    plain, corrected = rows_of(place), rows_of(place, "corrected")
    shares = np.array([[float(r[f"answers:{c}"]) for c in CLASSES] for r in corrected.values()])
    before = np.array([[float(r[f"answers:{c}"]) for c in CLASSES] for r in plain.values()])
    due = np.full(4, 0.25)  # phantoms are of all densities alike
    assert np.abs(before - due).mean() > 0.07
    assert np.abs(shares - due).mean() < np.abs(before - due).mean() / 2


def test_words_are_drawn_and_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SET.replace("almost entirely fatty", "almost ${entirely|all} fatty, ü_^ [red]")
    (place / "small.yaml").write_text(text)
    command = ["prompts", "bench", place / "s.zarr", "--label", "density"]
    files = ("--plot", place / "words.png", "--set", place / "small.yaml", "--no-search")
    run(*command, *files)
    out = capsys.readouterr().out
    assert "what words do" in out
    assert re.search(r"entirely +│ [+-]0\.\d{3}", out)
    assert "[red]" not in out.split("what words do")[0] or "ü" in out
    with Image.open(place / "words.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 300
    assert (pixels < 100).mean() > 0.002
    run(*command, *files, code=2)
    assert "is there already" in capsys.readouterr().err


def use(place: Path, *more: object) -> None:
    command = ["prompts", "use", place / "s.zarr", "--label", "density"]
    run(*command, "--set", place / "small.yaml", *more)


def test_the_winner_is_a_head_for_predict_and_for_probe(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = bench(place, "--no-search")["results"][0]["table"]
    capsys.readouterr()
    use(place, "--best", "--save", place / "P", "--to", place / "p.txt", "--json")
    captured = capsys.readouterr()
    made = json.loads(captured.out)
    assert made["variant"] == table[0]["variant"]
    assert made["prompts"] == table[0]["prompts"]
    value = made["report"]["metrics"]["auroc"]["value"]
    assert value == pytest.approx(table[0]["metrics"]["auroc"]["value"], abs=1e-5)
    assert "flatters it" in made["report"]["notes"][0]
    # the line that it says is for probe
    (line,) = re.findall(r"`embedstore (probe .+?)`", captured.err)
    run(*shlex.split(line), "--json")
    (report,) = json.loads(capsys.readouterr().out)
    for name, score in made["report"]["metrics"].items():
        value = report["metrics"][name]["value"]
        assert value == pytest.approx(score["value"], abs=1e-5, nan_ok=True), name
    saved = load_saved(place / "P")
    store = Store.open(place / "s.zarr")
    got = saved.predict(store.read("phantom-clip"))
    scale = bench(place, "--no-search")["logit_scale"]
    _, p = by_hand(place, table[0]["prompts"], scale)
    tempered = softmax(np.log(p) / saved.temperature, axis=1)
    np.testing.assert_allclose(got, tempered, atol=1e-4)


@pytest.mark.parametrize(
    "how", [("--folds", 3, "--seed", 4), ("--test-share", 0.3), ("--split", "my split.json")]
)
def test_the_command_for_probe_scores_the_same_images(
    how: tuple[object, ...],
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    run("split", "s.zarr", "--label", "density", "--kind", "holdout", "--out", "my split.json")
    capsys.readouterr()
    use(place, "--best", "--to", "my prompts.txt", "--json", *how)
    captured = capsys.readouterr()
    (line,) = re.findall(r"`embedstore (probe .+?)`", captured.err)
    run(*shlex.split(line), "--json")
    (report,) = json.loads(capsys.readouterr().out)
    made = json.loads(captured.out)["report"]
    for name in ("split_fingerprint", "n_test", "confusion"):
        assert report[name] == made[name]


def test_the_honest_score_of_the_winner_is_bench_s(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worth = bench(place)["results"][0]["chosen"]
    for option, kind in (
        ("--best", "best"),
        ("--ensemble", "ensemble"),
        ("--per-class", "per_class"),
    ):
        capsys.readouterr()
        use(place, option, "--json")
        note = json.loads(capsys.readouterr().out)["report"]["notes"][0]
        assert f"that is scored it is {worth[kind]['metrics']['auroc']['value']:.3f}" in note


def test_with_a_holdout_no_tested_label_has_a_say(place: Path) -> None:
    store = Store.open(place / "s.zarr")
    spec = store.find("phantom-clip")
    asked = Asked("density", (load("birads-density"),), Protocol(test_share=0.3))
    contest = pose(store, spec, asked)
    task = contest.tasks[0]
    lied = task.truth.copy()
    lied[task.tested] = (lied[task.tested] + 1) % 4
    twisted = replace(contest, tasks=(replace(task, truth=lied),))
    for how in ("best", "ensemble", "per-class"):
        one, other = choose(contest, how), choose(twisted, how)
        assert one.sentences == other.sentences
        assert "training images" in one.note
        assert "flatters" not in one.note
    folds = pose(store, spec, replace(asked, how=Protocol(folds=3)))
    lied = (folds.tasks[0].truth + 1) % 4
    twisted = replace(folds, tasks=(replace(folds.tasks[0], truth=lied),))
    assert choose(folds).sentences != choose(twisted).sentences  # the test above can fail


def test_a_variant_is_taken_by_name_and_repeated_sentences_count_twice(place: Path) -> None:
    store = Store.open(place / "s.zarr")
    contest = pose(
        store,
        store.find("phantom-clip"),
        Asked("density", (load(place / "small.yaml"),), Protocol()),
    )
    picked = choose(contest, variant="words 2.1")
    assert picked.sentences["D"] == [
        "A film of a breast that is extremely dense",
        "A film of a breast that is dense throughout",
    ]
    assert picked.note == ""
    mean = unit_rows(said(picked.sentences["D"])).mean(axis=0)
    np.testing.assert_allclose(picked.vectors["D"], mean / np.linalg.norm(mean), atol=1e-5)


BAD = {
    "class without a prompt": (
        SET.replace("    A: almost entirely fatty\n", ""),
        "no description of A",
    ),
    "empty template": (SET.replace('"A film of a breast that is {}"', '""'), "template is empty"),
    "two classes alike": (
        SET.replace("of scattered density", "Almost entirely FATTY"),
        "same text",
    ),
    "a tag": (SET.replace("name: small", "name: !!python/name:os.system small"), "YAML tag"),
    "an unknown label": (
        SET.replace('D: [extreme, "4"]', "E: [extreme]").replace("    D: [", "    E: ["),
        "no class for the label 'D'",
    ),
    "too long": (
        SET.replace("of scattered density", "of scattered " + "dense " * 50),
        "would be cut",
    ),
    "all one variant's worth": (SET, "no variant 'words 9'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_set_is_one_line_and_changes_nothing(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = BAD[name]
    (place / "small.yaml").write_text(text)
    root = (place / "s.zarr" / "zarr.json").read_bytes()
    more = ("--baseline", "words 9") if "words 9" in message else ()
    command = ["prompts", "bench", place / "s.zarr", "--label", "density"]
    run(*command, "--set", place / "small.yaml", *more, code=2)
    captured = capsys.readouterr()
    assert captured.out == ""
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in captured.err
    assert (place / "s.zarr" / "zarr.json").read_bytes() == root


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (
            ("--backbone", "statistics"),
            1,
            "statistics has no text side; sentences need vectors of an image-text model",
        ),
        (("--metric", "log_loss"), 2, "not by 'log_loss'"),
        (("--metric", "auroc", "--metric", "beauty"), 2, "--metric beauty"),
        (("--level", "ward"), 2, "--level is image"),
        (("--folds", 2, "--test-share", 0.2), 2, "not both"),
        (("--label", "group"), 2, "nothing to predict"),
        (("--label", "colour"), 2, "no column 'colour'"),
        (("--label", "view"), 2, "no class for the label 'CC'"),
        (("--plot", "words.txt"), 2, ".png, .svg, .pdf"),
        (("--set", "nothing-like-it"), 2, "no prompt set 'nothing-like-it'"),
        (("--text-backbone", "phantom-clip@x"), 2, "no other weights"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    more: tuple[object, ...], code: int, message: str, films: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ["prompts", "bench", films / "s.zarr", "--label", "density"]
    run(*command, "--set", films / "small.yaml", *more, code=code)
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 1
    assert message in errors


def test_use_wants_one_way_to_choose_and_a_free_place(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prompts", "use", place / "s.zarr", "--label", "density"]
    command += ["--set", place / "small.yaml"]
    for more in ((), ("--best", "--variant", "words 1.1")):
        run(*command, *more, code=2)
        assert "give one of --best" in capsys.readouterr().err
    (place / "p.txt").write_text("mine")
    run(*command, "--best", "--to", place / "p.txt", code=2)
    assert "is there already" in capsys.readouterr().err
    assert (place / "p.txt").read_text() == "mine"


def test_a_file_of_prompts_names_its_bad_line(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "p.txt").write_text("# so\nA=fatty\n\nB dense\n")
    command = ["probe", place / "s.zarr", "--label", "density", "--head", "zeroshot"]
    run(*command, "--prompts", place / "p.txt", code=2)
    assert f"{place / 'p.txt'}:4: a line is CLASS=SENTENCE" in capsys.readouterr().err


MANY = """
import json, resource, sys
from pathlib import Path
import numpy as np
from text_stores import write
from embedstore.protocol import Protocol
from embedstore.kept_texts import layouts
from embedstore.prompt_bench import Asked, pose
from embedstore.prompts.expand import expand
from embedstore.prompts.sets import load
from embedstore.store import Store
from embedstore.tournament import scored, tested_side
from embedstore.types import Recipe, Spec
from embedstore.writer import Writer

place = Path(sys.argv[1])
sets, spec = load(place / "many.yaml"), Spec("toy", "00", Recipe(), "pooled", 128, text=True)
write(place / "s.zarr", np.random.default_rng(0).standard_normal((40, 128)), ["A", "B"] * 20, spec)
with Writer(place / "s.zarr") as writer:  # encoding them takes minutes, and is tested elsewhere
    named, of_them = layouts(spec)
    every = [s for v in expand(sets) for own in v.sentences.values() for s in own]
    writer.extend(named, [np.array(every, dtype=object)])
    writer.extend(of_them, [np.random.default_rng(1).standard_normal((len(every), spec.dim))])
    writer.note_text(spec, {"logit_scale": 10.0})
    writer.commit()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
contest = pose(Store.open(place / "s.zarr"), spec, Asked("density", (sets,), Protocol(folds=2)))
task = contest.tasks[0]
(found,) = scored(task, contest.entries, [tested_side(task, False)])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([len(contest.names), len(found.auroc), (after - before) / 1024]))
"""


def test_a_hundred_thousand_variants_take_little_memory(tmp_path: Path) -> None:
    words = " ".join("{" + "|".join(f"w{i}x{j}" for j in range(10)) + "}" for i in range(5))
    text = FEW["no"].replace('"{}"', f'"{words} {{}}"')
    (tmp_path / "many.yaml").write_text(text)
    path = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    variants, scores, megabytes = json.loads(done.stdout.splitlines()[-1])
    assert variants == scores == 100_000
    assert megabytes < 400


def test_more_variants_than_anybody_reads_are_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "s.zarr", np.ones((20, clip().spec.dim)), ["A", "B"] * 10)
    words = " ".join("{" + "|".join(f"w{i}x{j}" for j in range(10)) + "}" for i in range(7))
    (tmp_path / "many.yaml").write_text(FEW["no"].replace('"{}"', f'"{words} {{}}"'))
    command = ["prompts", "bench", tmp_path / "s.zarr", "--label", "density"]
    run(*command, "--set", tmp_path / "many.yaml", code=2)
    assert "10,000,000 variants; give the set fewer slots" in capsys.readouterr().err


def test_a_store_that_is_being_written_is_benched_all_the_same(films: Path, place: Path) -> None:
    (place / "small.yaml").write_text(SET.replace("A film of", "A new film of"))
    free = bench(place, "--no-search")
    shutil.rmtree(place / "s.zarr")
    shutil.copytree(films / "s.zarr", place / "s.zarr")
    with write_lock(lock_of(place / "s.zarr")):
        busy = bench(place, "--no-search")
    assert busy["sentences_encoded"] > 0
    (note,) = [n for n in busy["notes"] if "not kept" in n]
    assert "being written by process" in note
    for one, other in zip(free["results"], busy["results"], strict=True):
        got = [line["metrics"]["auroc"]["value"] for line in other["table"]]
        expected = [line["metrics"]["auroc"]["value"] for line in one["table"]]
        assert got == pytest.approx(expected, abs=1e-5)


def test_the_documented_snippet_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "s.zarr").rename(place / "S.zarr")
    monkeypatch.chdir(place)
    text = (Path(__file__).parents[1] / "docs" / "prompts.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, names)
    assert set(names["picked"].sentences) == set(CLASSES)
    best = names["plain"].tested.metric("macro_f1").max()
    assert names["first"].metrics["macro_f1"].value == pytest.approx(best)

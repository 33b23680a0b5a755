"""A study's parts: its plan, its keys, what contends, and how it is written down."""

from __future__ import annotations

import csv
import json
import re
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import text_stores
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from statsmodels.stats.multitest import multipletests
from vector_stores import write

from embedstore.cli import _run
from embedstore.errors import UsageError
from embedstore.few import Few
from embedstore.prompts.expand import expand
from embedstore.prompts.sets import load
from embedstore.results import Score
from embedstore.scoring import comparable
from embedstore.store import Store
from embedstore.study import maps, pieces, tables, work
from embedstore.study.collect import collect, parity
from embedstore.study.contenders import fitted_parameters, head_of
from embedstore.study.findings import Findings
from embedstore.study.linear import StudyLinear
from embedstore.study.plan import HeadChoice, Study, read, study_of
from embedstore.study.recipe import alike, unpaired
from embedstore.study.results import Result, texts_from, texts_to
from embedstore.types import Recipe, Spec
from embedstore.writer import Writer

SMALL = Spec("small", "02", Recipe(), "pooled", 5)
OTHER = Spec("other", "01", Recipe(), "pooled", 6)
SETS = {"A": "a dark film", "B": "a grey film", "C": "a bright film"}


def made(folder: Path, n: int = 60, seed: int = 0, others: int = 60) -> Store:
    """Write vectors of phantom-clip near its sentences, and of another that knows less."""
    truth = np.arange(n) // 2 % 3
    labels = ["ABC"[t] for t in truth]
    store = folder / "s.zarr"
    near = text_stores.near(list(SETS.values()), truth, 3.0, seed)
    text_stores.write(store, near, labels)
    rng = np.random.default_rng(seed)
    known = (rng.normal(size=(n, 6)) + 0.8 * truth[:, None])[:others]
    text_stores.write(store, known, labels[:others], OTHER)
    return Store.open(store)


def small(folder: Path) -> None:
    """Write vectors of two backbones without a text side."""
    truth = np.arange(60) // 2 % 3
    rng = np.random.default_rng(0)
    for spec in (SMALL, OTHER):
        vectors = rng.normal(size=(60, spec.dim)) + 0.6 * truth[:, None]
        text_stores.write(folder / "s.zarr", vectors, ["ABC"[t] for t in truth], spec)


def prompt_set(folder: Path) -> Path:
    """Write three wordings, one of which says the classes the wrong way round."""
    file = folder / "films.yaml"
    file.write_text(
        "name: films\nclasses: [A, B, C]\ndescriptions:\n"
        "  right: {A: a dark film, B: a grey film, C: a bright film}\n"
        "  wrong: {A: a bright film, B: a dark film, C: a grey film}\n"
        "  odd: {A: no film, B: a film, C: two films}\n"
        'templates: ["{}"]\n'
    )
    return file


def planned(folder: Path, **more: Any) -> Study:
    values = {"store": str(folder / "s.zarr"), "label": "density", "audit": False, "map": False}
    return study_of(values | {"folds": 3, "sweep": False} | more, "study.toml:")


def carried_out(study: Study, folder: Path) -> tuple[Findings, work.Bench, list[work.Piece]]:
    store = Store.open(study.store)
    cast = pieces.cast_of(study, store)
    table = pieces.table_of(study, store, cast)
    split = pieces.split_of(study, table)
    pieces.keep_split(split, table, folder / "split.json")
    bench = work.Bench(store, study.label, pieces.protocol_of(study, split), folder / "runs")
    made = pieces.pieces_of(study, bench, cast)
    found = {p.stem: work.do(p, folder, lambda done, total: None) for p in made}
    return collect(study, store, cast, table, made, found), bench, made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Findings, work.Bench]:
    folder = tmp_path_factory.mktemp("study")
    made(folder)
    study = planned(
        folder,
        heads=["logistic", {"head": "knn", "set": {"n_neighbors": 3}}],
        prompts=[{"backbone": "phantom-clip", "set": str(prompt_set(folder))}],
        label_fractions=[0.3, 1.0],
        map=True,
    )
    findings, bench, _ = carried_out(study, folder)
    return findings, bench


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "labl = 'y'",
            "finetune, audit, map; did you mean 'label'?",
        ),
        (
            "store = 's'\nlabel = 'y'\n[[finetune]]\nbackbone = 'b'\nepoch = 3",
            "study.toml: [finetune] unknown key 'epoch'; known are backbone, name, recipe",
        ),
        ("store = 's'", "study.toml: no label: give the column"),
        ("label = 'y'", "study.toml: give a store or a manifest"),
        ("label = 'y'\nstore = 's'\nmanifest = 'm'", "give a store or a manifest, one of them"),
        ("label = 'y'\nstore = 's'\nfolds = 1", "folds is 1; give a whole number from 2 up"),
        ("label = 'y'\nstore = 's'\nfolds = true", "folds is True; give a whole number"),
        ("label = 'y'\nstore = 's'\nfolds = 3\nsplit = 'f'", "split and folds: one of them"),
        ("label = 'y'\nstore = 's'\nsweep = 'yes'", "sweep is 'yes'; give true or false"),
        ("label = 'y'\nstore = 's'\nlabel_fractions = [2]", "give shares, such as [0.1"),
        ("label = 'y'\nstore = 's'\nlevel = 'eye'", "level is 'eye'; known are image, view"),
        ("label = 'y'\nstore = 's'\nheads = [{set = {C = 1}}]", "[head] no head"),
        ("label = 'y'\nstore = 's'\n[[prompts]]\nbackbone = 'b'", "[prompts] no set"),
        ("label = 'y'\nmanifest = 'm'", "no backbones: say what"),
        ("label = 'y'\nstore = 's'\nmetric = 'luck'", "luck"),
        ("label = y", "study.toml: not TOML: "),
    ],
)
def test_what_is_wrong_with_a_study_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(UsageError, match=re.escape(said)) as error:
        read(tmp_path / "study.toml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"label": "birads"}, "no column 'birads'; there are density"),
        ({"by": ["vendor"]}, "no column 'vendor'; there are density"),
        ({"order": ["A", "B"]}, "leaves out C"),
        ({"grouping": [["B", "E"]]}, "no class 'E'; there are A, B, C"),
        ({"heads": ["logistik"]}, "did you mean 'logistic'"),
        ({"heads": [{"head": "knn", "grid": {"C": [1]}}]}, "knn has n_neighbors"),
        ({"prompts": [{"backbone": "statistics", "set": "birads"}]}, "no prompt set 'birads'"),
        ({"finetune": [{"backbone": "b", "settings": {"epoch": 3}}]}, "no setting 'epoch'"),
        ({"heads": [{"head": "knn", "grid": {"n_neighbors": [3]}}], "sweep": False}, "sweep is"),
    ],
)
def test_what_cannot_be_is_told_before_an_image_is_embedded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any], said: str
) -> None:
    rows = [f"f{i}.png,p{i},{'ABC'[i % 3]}" for i in range(6)]
    (tmp_path / "films.csv").write_text("image,patient,density\n" + "\n".join(rows) + "\n")
    for i in range(6):  # never read: none is an image
        (tmp_path / f"f{i}.png").write_bytes(b"no image")
    values = {"manifest": "films.csv", "label": "density", "backbones": ["statistics"]} | more
    (tmp_path / "study.toml").write_text(as_toml(values))
    assert _run(["study", str(tmp_path / "study.toml")], debug=False) in {1, 2}
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert said in error
    assert not (tmp_path / "study" / "store.zarr").exists()


def as_toml(values: dict[str, Any]) -> str:
    """Write values as TOML, which lists, texts and numbers of JSON are too; tables inline."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k} = {text(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(text, value)) + "]"
        return json.dumps(value)

    return "\n".join(f"{name} = {text(value)}" for name, value in values.items())


def test_a_head_tries_the_grid_it_is_given(tmp_path: Path) -> None:
    small(tmp_path)
    heads = [{"head": "knn", "grid": {"n_neighbors": [7]}}]
    study = planned(tmp_path, heads=heads, backbones=["small"], sweep=True)
    findings, bench, (piece, *_) = carried_out(study, tmp_path / "out")
    (one,) = findings.contenders
    assert [fold["n_neighbors"] for fold in one.report.chosen] == [7, 7, 7]
    other = planned(tmp_path, heads=["knn"], backbones=["small"], sweep=True)
    cast = pieces.cast_of(other, bench.store)
    assert pieces.pieces_of(other, bench, cast)[0].key != piece.key
    said = next(m for m in findings.methods if m.startswith("small/knn"))
    assert "n_neighbors chosen on inner folds" in said
    assert "n_neighbors 20" not in said  # the default, which was not used


def test_methods_do_not_claim_patients_that_are_not_known(tmp_path: Path) -> None:
    labels = ["ABC"[i // 2 % 3] for i in range(60)]
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 5))
    write(tmp_path / "s.zarr", vectors, groups=[""] * 60, labels={"density": labels})
    findings, _, _ = carried_out(planned(tmp_path), tmp_path / "out")
    assert findings.strangers == 60
    said = " ".join(findings.methods)
    assert "patients unknown for 60" in said
    assert "no patient, exam" not in said
    assert "unknown for 60 images" in tables.markdown(findings)


def test_paths_start_where_the_file_lies(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    (folder / "weights").mkdir(parents=True)
    (folder / "words.yaml").write_text("")
    (folder / "study.toml").write_text(
        'store = "s.zarr"\nlabel = "y"\nsplit = "a/split.json"\nheads = ["my.py:Head", "knn"]\n'
        'backbones = ["./weights", "plain", "timm:m@weights"]\n'
        '[[prompts]]\nbackbone = "plain"\nset = "words.yaml"\n'
        '[[prompts]]\nbackbone = "plain"\nset = "view"\n'
    )
    study = read(folder / "study.toml")
    assert Path(study.store) == folder / "s.zarr"
    assert Path(study.split) == folder / "a" / "split.json"
    assert [h.head for h in study.heads] == [f"{folder}/my.py:Head", "knn"]
    assert study.backbones == (f"{folder}/weights", "plain", f"timm:m@{folder}/weights")
    assert [p.set for p in study.prompts] == [f"{folder}/words.yaml", "view"]


def test_a_key_changes_with_what_decides_a_result_and_with_nothing_else(tmp_path: Path) -> None:
    made(tmp_path)

    def keys(**more: Any) -> list[str]:
        study = planned(tmp_path, heads=["logistic"], backbones=["other"], map=True, **more)
        store = Store.open(study.store)
        cast = pieces.cast_of(study, store)
        split = pieces.split_of(study, pieces.table_of(study, store, cast))
        bench = work.Bench(store, study.label, pieces.protocol_of(study, split), tmp_path)
        return [p.key for p in pieces.pieces_of(study, bench, cast)]

    before = keys()
    assert keys() == before
    for change in ({"seed": 1}, {"folds": 4}, {"level": "exam"}, {"grouping": ["B", "C"]}):
        assert not set(keys(**change)) & set(before), change
    study = planned(tmp_path)
    store = Store.open(study.store)
    cast = pieces.cast_of(study, store)
    how = pieces.protocol_of(study, pieces.split_of(study, pieces.table_of(study, store, cast)))
    bench = work.Bench(store, study.label, how, tmp_path)
    usual = bench.key("probe", OTHER)
    for own in ({"seed": 1}, {"order": ("C", "B", "A")}, {"few": Few(share=0.5)}):
        assert bench.key("probe", OTHER, replace(how, **own)) != usual, own
    probe, own_map = before
    assert keys(sweep=True)[0] != probe
    assert keys(sweep=True)[1] == own_map
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_label("unrelated", ["x"] * 60)
        writer.commit()
    assert keys() == before
    labels = Store.open(tmp_path / "s.zarr").column("density").tolist()
    with Writer(tmp_path / "s.zarr") as writer:
        writer.rewrite("samples/labels/density", [["B", *labels[1:]]])
        writer.commit()
    assert not set(keys()) & set(before)


def test_a_result_is_read_as_it_was_and_never_in_half(tmp_path: Path) -> None:
    ids = ["ünï", 'a"b', ""]
    arrays = {"ids": texts_to(ids), "p": np.arange(6.0).reshape(2, 3).T}
    piece = work.Piece(
        "probe", "a/b c", OTHER, "k", "x", lambda show: Result({"v": float("nan")}, arrays)
    )
    assert work.done(piece, tmp_path) is None
    found = work.do(piece, tmp_path, lambda done, total: None)
    again = work.done(piece, tmp_path)
    assert again is not None
    assert again.told == found.told == {"v": None}
    np.testing.assert_array_equal(again.arrays["p"], arrays["p"])
    assert texts_from(again.arrays["ids"]).tolist() == ids
    file = tmp_path / f"{piece.stem}.safetensors"
    for broken in (b"half", save({"p": arrays["p"].copy()})):
        file.write_bytes(broken)
        assert work.done(piece, tmp_path) is None


def test_differences_and_p_are_of_the_answers(whole: tuple[Findings, work.Bench]) -> None:
    findings, _ = whole
    assert findings.reference == "phantom-clip/logistic"
    accuracy = {
        c.name: float((c.answered.runs[0].argmax(1) == c.answered.truth).mean())
        for c in findings.contenders
    }
    for name, one in findings.compared.items():
        assert one.differences["accuracy"].value == pytest.approx(
            accuracy[name] - accuracy[findings.reference]
        )
    names = list(findings.compared)
    assert len(names) == len(findings.contenders) - 1 == 4
    raw = [findings.compared[n].differences["auroc"].p for n in names]
    corrected = [findings.compared[n].p_holm["auroc"] for n in names]
    np.testing.assert_allclose(corrected, multipletests(raw, method="holm")[1])


def test_wordings_answer_where_they_were_not_chosen(whole: tuple[Findings, work.Bench]) -> None:
    findings, bench = whole
    contender = next(c for c in findings.contenders if c.kind == "prompts")
    spec = contender.report.spec
    images = bench.store.read(spec)
    unit = images.vectors / np.linalg.norm(images.vectors, axis=1, keepdims=True)
    truth = np.array(["ABC".index(v) for v in images.columns["density"].tolist()])
    wordings = {
        "right": ["a dark film", "a grey film", "a bright film"],
        "wrong": ["a bright film", "a dark film", "a grey film"],
        "odd": ["no film", "a film", "two films"],
    }
    scale = float(contender.report.parameters["logit_scale"])
    answers = {}
    for name, sentences in wordings.items():
        texts = text_stores.said(sentences)
        logits = scale * unit @ (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        answers[name] = odds / odds.sum(axis=1, keepdims=True)
    fold = contender.answered.fold[0]
    for k in range(3):
        others = fold != k
        area = {
            n: roc_auc_score(truth[others], p[others], multi_class="ovr")
            for n, p in answers.items()
        }
        best = max(area, key=area.__getitem__)
        np.testing.assert_allclose(
            contender.answered.runs[0][fold == k], answers[best][fold == k], atol=1e-4
        )
    (tournament,) = findings.tournaments
    assert tournament.variants == 3
    first = tournament.best[0]
    value = roc_auc_score(truth, answers["right"], multi_class="ovr")
    assert "right" in first.name
    assert first.metrics["auroc"][0] == pytest.approx(value, abs=1e-4)
    assert contender.trained == 0


def test_a_named_wording_uses_no_labels(tmp_path: Path) -> None:
    made(tmp_path)
    file = prompt_set(tmp_path)
    names = [v.name for v in expand(load(file))]
    wrong = next(n for n in names if n.startswith("wrong"))
    choice = {"backbone": "phantom-clip", "set": str(file), "variant": wrong}
    findings, _, _ = carried_out(
        planned(tmp_path, backbones=["other"], prompts=[choice]), tmp_path / "out"
    )
    contender = next(c for c in findings.contenders if c.kind == "prompts")
    assert contender.report.n_train == 0
    images = Store.open(tmp_path / "s.zarr").read(contender.report.spec)
    cosines = images.unit() @ text_stores.said(["a bright film", "a dark film", "a grey film"]).T
    lengths = np.linalg.norm(
        text_stores.said(["a bright film", "a dark film", "a grey film"]), axis=1
    )
    np.testing.assert_array_equal(
        contender.answered.runs[0].argmax(1), (cosines / lengths).argmax(1)
    )


def test_a_curve_is_of_growing_shares_of_the_first_head(
    whole: tuple[Findings, work.Bench],
) -> None:
    findings, _ = whole
    assert [c.name for c in findings.curves] == ["phantom-clip/logistic", "other/logistic"]
    for curve in findings.curves:
        few, every = (r.n_train for r in curve.reports)
        assert few == pytest.approx(0.3 * every, abs=2)
        assert every == 40
        assert curve.parity is None


# Scores a thousandth apart: numpy's slope overflows between two that differ by a denormal.
THOUSANDTHS = st.integers(0, 1000).map(lambda n: n / 1000)


@given(
    st.lists(st.integers(1, 500), min_size=2, max_size=6, unique=True),
    st.lists(THOUSANDTHS, min_size=6, max_size=6, unique=True),
    THOUSANDTHS,
)
def test_parity_is_interpolated(images: list[int], scores: list[float], goal: float) -> None:
    images, scores = sorted(images), sorted(scores)[: len(images)]
    found = parity(images, scores, goal)
    if goal > scores[-1]:
        assert found is None
    else:
        assert found == pytest.approx(np.interp(goal, scores, images))


def test_parity_is_the_first_time_of_a_curve_that_falls_again() -> None:
    assert parity([10, 20, 40, 80], [0.5, 0.7, 0.6, 0.9], 0.65) == pytest.approx(17.5)
    assert parity([10, 20, 40], [0.5, float("nan"), 0.7], 0.6) == pytest.approx(25)


@pytest.mark.parametrize(
    ("head", "settings", "classes", "count"),
    [
        ("logistic", {}, 4, 4 * 8),
        ("logistic", {}, 2, 8),
        ("mlp", {"hidden_layer_sizes": [5], "max_epochs": 2}, 3, 7 * 5 + 5 + 5 * 3 + 3),
        ("knn", {"n_neighbors": 3}, 3, 0),
        ("sklearn.svm:LinearSVC", {}, 3, 3 * 8),
    ],
)
def test_parameters_are_counted(head: str, settings: dict, classes: int, count: int) -> None:
    made, name = head_of(HeadChoice(head, settings))
    assert fitted_parameters(made, 7, classes) == count
    assert name.startswith(made.name)


def test_images_that_one_backbone_lacks_are_left_out_for_all(tmp_path: Path) -> None:
    made(tmp_path, others=59)
    findings, _, _ = carried_out(planned(tmp_path), tmp_path / "out")
    assert findings.images == 59
    one, other = findings.contenders
    assert comparable(one.answered, other.answered)
    assert "i59" not in one.answered.ids.tolist()
    assert len(findings.compared) == 1
    assert any("1 images that not every contender" in note for note in findings.notes)


def test_a_map_parts_what_is_apart(whole: tuple[Findings, work.Bench]) -> None:
    rng = np.random.default_rng(0)
    label = np.arange(90) % 3
    unit = np.eye(3)[label] @ rng.normal(size=(3, 20)) + 0.05 * rng.normal(size=(90, 20))
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    places, how = maps.flat(unit, np.arange(90), 0)
    assert places.min() == 0
    assert places.max() == 1
    assert (
        KNeighborsClassifier(3).fit(places[::2], label[::2]).score(places[1::2], label[1::2]) == 1
    )
    assert "t-SNE" in how
    findings, bench = whole
    assert [m.backbone for m in findings.maps] == ["phantom-clip", "other"]
    for one in findings.maps:
        known = dict(zip(bench.store.column("id"), bench.store.column("density"), strict=True))
        assert [known[i] for i in one.ids] == one.labels.tolist()
        assert one.pictures is None


def test_a_small_picture_is_the_picture() -> None:
    grey = np.repeat(np.repeat(np.arange(48 * 48).reshape(48, 48) % 251, 2, 0), 2, 1)
    small = maps.small(np.pad(grey.astype(np.uint8), 0))
    assert small.shape == (48, 48)
    smooth = np.tile(np.linspace(0, 255, 96), (96, 1))
    expected = smooth.reshape(48, 2, 48, 2).mean(axis=(1, 3))
    eight, sixteen = smooth.astype(np.uint8), (smooth * 257).astype(np.uint16)
    np.testing.assert_allclose(maps.small(eight)[:, 2:-2], expected[:, 2:-2], atol=1.5)
    np.testing.assert_allclose(maps.small(sixteen)[:, 2:-2], expected[:, 2:-2], atol=1.5)
    colour = np.stack([eight] * 3, axis=-1)
    np.testing.assert_array_equal(maps.small(colour), maps.small(eight))


def test_few_images_and_many_are_laid_out_too() -> None:
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(5, 8)).astype(np.float32)
    places, how = maps.flat(unit, np.arange(5), 0)
    assert places.shape == (5, 2)
    assert "principal components" in how
    rows = maps.drawn(maps.MOST + 500, 3)
    assert len(rows) == maps.MOST == len(set(rows.tolist()))


_UNTEX = {v: k for k, v in tables._TEX.items()}


@given(st.text(st.sampled_from(string.printable.strip() + "κ–é"), max_size=40))
def test_latex_takes_nothing_for_its_own(text: str) -> None:
    escaped = tables.tex(text)
    bare = escaped
    for command in sorted(_UNTEX, key=len, reverse=True):
        bare = bare.replace(command, "")
    assert not set(bare) & set('\\{}$&%#_~^<>|"[]')
    depth = 0
    for place, letter in enumerate(escaped):
        if letter in "{}" and escaped[place - 1 : place] != "\\":
            depth += 1 if letter == "{" else -1
        assert depth >= 0
    assert depth == 0


def test_the_ledger_s_tables_have_what_the_reports_have(
    whole: tuple[Findings, work.Bench],
) -> None:
    findings = whole[0]
    odd = replace(findings.contenders[0], name="a|b_c & 100 %\n<script>")
    findings = replace(findings, contenders=(odd, *findings.contenders[1:]), reference=odd.name)
    text = tables.latex(findings)
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    for line in body:
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1
    assert text.count(r"\begin{") == text.count(r"\end{")
    numbers = " ".join(cell for line in body for cell in line.split("&")[1:])
    assert "$-$0." in numbers
    assert not re.search(r"(?<!\w)-\d", numbers)  # a hyphen is no minus
    assert r"a$|$b\_c \& 100 \% $<$script$>$" in text
    lines = [r for r in tables.markdown(findings).splitlines() if r.startswith("|")]
    cells = list(csv.reader(lines, delimiter="|", escapechar="\\", quoting=csv.QUOTE_NONE))
    assert len({len(row) for row in cells}) == 1
    assert cells[2][1].strip() == "a|b_c & 100 % <script>"
    for row, one in zip(cells[2:], findings.contenders, strict=False):
        assert float(row[2].split()[0]) == pytest.approx(
            one.report.metrics["auroc"].value, abs=5e-4
        )
    assert cells[-1][1].strip() == "floor"


def test_the_json_is_plain(whole: tuple[Findings, work.Bench]) -> None:
    findings = whole[0]
    told = json.loads(json.dumps(tables.plain(findings), allow_nan=False))
    assert [c["name"] for c in told["contenders"]] == [c.name for c in findings.contenders]
    for one, plain in zip(findings.contenders, told["contenders"], strict=True):
        assert plain["report"]["metrics"]["auroc"]["value"] == one.report.metrics["auroc"].value
    assert {p["id"] for p in told["maps"][0]["points"]} == set(findings.maps[0].ids.tolist())
    said = " ".join(findings.methods)
    for must in (findings.split_fingerprint, OTHER.key, "embedstore 0", "seed 0", "torch"):
        assert must in said


def test_the_study_s_probe_is_one_linear_layer_by_adamw() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(40) % 3
    vectors = (rng.normal(size=(40, 6)) + truth[:, None]).astype(np.float32)
    made = StudyLinear(learning_rate=0.01, batch_size=1000, max_epochs=7, validation_fraction=0.01)
    made.fit(vectors, truth)
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01, weight_decay=0.01)
    x, y = torch.tensor(vectors), torch.tensor(truth)
    for _ in range(7):
        smooth = 0.9 * torch.nn.functional.one_hot(y, 3) + 0.1 / 3
        loss = -(smooth * layer(x).log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(made.coef_, layer.weight.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(
        made.predict_proba(vectors), layer(x).softmax(1).detach().numpy(), atol=1e-5
    )


def test_the_study_s_probe_keeps_its_best_epoch_and_stops() -> None:
    rng = np.random.default_rng(0)
    vectors, truth = rng.normal(size=(60, 30)).astype(np.float32), rng.integers(0, 2, 60)
    made = StudyLinear(learning_rate=0.1, max_epochs=100, patience=3).fit(vectors, truth)
    losses = made.validation_losses_
    assert len(losses) == int(np.argmin(losses)) + 4 < 100
    best = StudyLinear(learning_rate=0.1, max_epochs=int(np.argmin(losses)) + 1).fit(vectors, truth)
    np.testing.assert_array_equal(made.coef_, best.coef_)


def test_answers_by_another_split_are_set_beside(whole: tuple[Findings, work.Bench]) -> None:
    one = whole[0].contenders[0].answered
    order = np.random.default_rng(0).permutation(len(one.ids))
    shuffled = replace(
        one,
        ids=one.ids[order],
        truth=one.truth[order],
        groups=one.groups[order],
        runs=(one.runs[0][order],),
        fold=(np.roll(one.fold[0], 1)[order],),
    )
    found = alike(shuffled, one)
    assert found is not None
    np.testing.assert_array_equal(found.runs[0], one.runs[0])
    np.testing.assert_array_equal(found.fold[0], one.fold[0])
    assert alike(one.take(np.arange(len(one.ids)) > 3), one) is None


def test_a_difference_of_other_images_has_the_width_of_both() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.7, 0.03, 200_000) - rng.normal(0.6, 0.04, 200_000)
    half = 1.959964 * np.array([0.03, 0.04])
    one, other = (Score(v, v - h, v + h, 0.5) for v, h in zip((0.7, 0.6), half, strict=True))
    np.testing.assert_allclose(
        unpaired(one, other), [0.1, *np.quantile(draws, [0.025, 0.975])], atol=1e-3
    )
    skewed = unpaired(Score(0.7, 0.66, 0.76, 0), Score(0.6, 0.52, 0.63, 0))
    np.testing.assert_allclose(skewed, [0.1, 0.05, 0.2])

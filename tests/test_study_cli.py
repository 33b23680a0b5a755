"""``embedstore study`` as a user runs it: against ``probe``, through kills and failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_study import OTHER, small

from embedstore import phantoms
from embedstore.backbones import load_backbone
from embedstore.cli import _run
from embedstore.split_files import load_split
from embedstore.store import Store

pytest.importorskip("embedstore.report.study_page")

RESAMPLED = ("audit.trials", "scoring", "tournament.honest", "tournament.table")
COMMAND = f"""
import sys
from importlib import import_module
for name in {RESAMPLED}:
    import_module(f"embedstore.{{name}}").RESAMPLES = 200
from embedstore.cli import main
main()
"""


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Draw patients fewer times, as `COMMAND` does: no test is of the width of an interval."""
    with pytest.MonkeyPatch.context() as patch:
        for name in RESAMPLED:
            patch.setattr(import_module(f"embedstore.{name}"), "RESAMPLES", 200)
        yield


def without_time(value: Any) -> Any:
    """Leave out what no two runs share."""
    if isinstance(value, dict):
        return {k: without_time(v) for k, v in value.items() if k != "seconds"}
    return [without_time(v) for v in value] if isinstance(value, list) else value


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def write_study(folder: Path, text: str) -> Path:
    file = folder / "study.toml"
    file.write_text(f'store = "s.zarr"\nlabel = "density"\nfolds = 3\n{text}')
    return file


QUICK = (
    'heads = ["logistic", {head = "knn", set = {n_neighbors = 3}}]\naudit = false\nmap = false\n'
)


def test_probes_are_those_of_the_command_probe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(tmp_path)
    file = write_study(tmp_path, QUICK)
    assert _run(["study", str(file)], debug=True) == 0
    out = tmp_path / "study"
    capsys.readouterr()
    split = ["--split", str(out / "split.json")]
    heads = ["--head", "logistic", "--head", "knn", "--set", "knn.n_neighbors=3", "--sweep"]
    command = ["probe", str(tmp_path / "s.zarr"), "--label", "density", *heads, *split, "--json"]
    assert _run(command, debug=True) == 0
    probed = json.loads(capsys.readouterr().out)
    told = report(out)
    assert without_time([c["report"] for c in told["contenders"]]) == without_time(probed)
    assert [c["name"] for c in told["contenders"]] == [
        "small/logistic",
        "small/knn n_neighbors=3",
        "other/logistic",
        "other/knn n_neighbors=3",
    ]
    assert load_split(out / "split.json").fingerprint == told["split_fingerprint"]
    for name in ("report.html", "ledger.md", "ledger.tex"):
        assert (out / name).stat().st_size > 500


def test_a_killed_study_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    small(tmp_path)
    file = write_study(tmp_path, QUICK + "label_fractions = [0.3, 0.6, 1.0]\n")
    killed, clean = tmp_path / "killed", tmp_path / "clean"
    run = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "study", str(file), "--out", str(killed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    began = time.monotonic()
    while len(list(killed.glob("results/[a-z]*.json"))) < 2:
        assert time.monotonic() - began < 100
        assert run.poll() is None
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not (killed / "report.json").exists()
    before = {p: p.stat().st_mtime_ns for p in killed.glob("results/[a-z]*.json")}
    assert _run(["study", str(file), "--out", str(killed)], debug=True) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert _run(["study", str(file), "--out", str(clean)], debug=True) == 0
    assert without_time(report(killed)) == without_time(report(clean))
    first = (killed / "report.json").read_bytes()
    every = {p: p.stat().st_mtime_ns for p in killed.glob("results/[a-z]*.json")}
    assert _run(["study", str(file), "--out", str(killed)], debug=True) == 0
    assert (killed / "report.json").read_bytes() == first
    assert {p: p.stat().st_mtime_ns for p in killed.glob("results/[a-z]*.json")} == every


HEADS = """
from sklearn.dummy import DummyClassifier

class Broken(DummyClassifier):
    def fit(self, X, y):
        raise ValueError("no such luck")

class Stopped(DummyClassifier):
    def fit(self, X, y):
        raise KeyboardInterrupt
"""


def test_one_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(tmp_path)
    (tmp_path / "heads.py").write_text(HEADS)
    heads = 'heads = ["heads.py:Broken", "logistic"]\nbackbones = ["other"]\n'
    file = write_study(tmp_path, heads + "audit = false\nmap = false\n")
    assert _run(["study", str(file)], debug=True) == 1
    told = report(tmp_path / "study")
    assert [c["name"] for c in told["contenders"]] == ["other/logistic"]
    assert told["notes"][0] == "probe other/Broken failed: ValueError: no such luck"
    assert "the reference other/Broken is not there" in told["notes"][1]
    printed = capsys.readouterr().out
    assert "\nprobe other/Broken failed: ValueError: no such luck\n" in printed


def test_a_stop_keeps_what_is_done(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "heads.py").write_text(HEADS)
    text = 'heads = ["logistic", "heads.py:Stopped"]\nbackbones = ["other"]\naudit = false\n'
    file = write_study(tmp_path, text)
    assert _run(["study", str(file)], debug=False) == 130
    assert len(list((tmp_path / "study" / "results").glob("probe-*.json"))) == 1
    assert not (tmp_path / "study" / "report.json").exists()


def test_options_are_a_study_too_and_go_with_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(tmp_path)
    store, out = str(tmp_path / "s.zarr"), tmp_path / "out"
    options = ["--label", "density", "--backbone", "other", "--head", "logistic"]
    options += ["--test-share", "0.3", "--grouping", "B,C", "--reference", "logistic"]
    assert _run(["study", store, *options, "--no-map", "--out", str(out)], debug=True) == 0
    told = report(out)
    assert told["split"] == "holdout of 30% by patient"
    assert told["groupings"] == [["B", "C"]]
    assert [a["spec"]["key"] for a in told["audits"]] == [OTHER.key]
    assert told["maps"] == []
    file = write_study(tmp_path, QUICK)
    assert _run(["study", str(file), "--folds", "3"], debug=False) == 2
    assert "says all: write folds there" in capsys.readouterr().err


def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(tmp_path)
    file = write_study(tmp_path, QUICK)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("dear to someone")
    assert _run(["study", str(file), "--out", str(other)], debug=False) == 2
    assert "holds 'chapter.tex'; give --out a folder of its own" in capsys.readouterr().err
    assert [p.name for p in other.iterdir()] == ["chapter.tex"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('backbones = ["third"]\n', "no vectors of third; there are small"),
        ('recipes = ["plain"]\n', "no vectors of recipe plain; there are mammography"),
        ('reference = "luck"\n', "reference luck: give one of small/logistic"),
        ('heads = ["logistic", "logistic"]\n', "two contenders are called"),
        ('heads = ["luck"]\n', "luck"),
        ('by = ["luck"]\n', "no column 'luck'; there are density"),
        ('[[prompts]]\nbackbone = "other"\nset = "luck"\n', "no prompt set 'luck'"),
        ('[[finetune]]\nbackbone = "other"\n', "no pictures kept of other"),
        (
            '[[prompts]]\nbackbone = "other"\nset = "laterality"\n',
            "laterality has no class for the label",
        ),
    ],
)
def test_what_cannot_be_is_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    small(tmp_path)
    file = write_study(tmp_path, text)
    before = set(tmp_path.rglob("*"))
    assert _run(["study", str(file), "--out", str(tmp_path / "new" / "st")], debug=False) == 2
    assert said in capsys.readouterr().err
    assert set(tmp_path.rglob("*")) == before


def test_a_study_of_no_store_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_study(tmp_path, QUICK)
    assert _run(["study", str(file)], debug=False) == 1
    assert "s.zarr: no such store" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 32 films of eight patients, two of each density."""
    folder = tmp_path_factory.mktemp("films")
    return phantoms.write(folder / "films", patients=12, size=64, seed=0)


TUNED = "timm:test_convnext@random"


def test_a_table_is_extracted_and_fine_tuned(films: Path, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        f'manifest = "{films}"\nlabel = "density"\norder = ["A", "B", "C", "D"]\n'
        'heads = ["logistic"]\nbackbones = ["statistics"]\nlabel_fractions = [0.5, 1.0]\n'
        'test_share = 0.34\naudit = false\nby = ["view"]\n'
        f'[[finetune]]\nbackbone = "{TUNED}"\nname = "tuned"\n'
        "settings = {epochs = 1, batch = 8, validation = 0.0}\n"
    )
    assert _run(["study", str(tmp_path / "study.toml")], debug=True) == 0
    out = tmp_path / "study"
    told = report(out)
    probe, tuned = told["contenders"]
    assert (probe["name"], tuned["name"]) == ("statistics/logistic", "tuned")
    assert tuned["report"]["n_test"] == probe["report"]["n_test"]
    assert tuned["report"]["split_fingerprint"] == probe["report"]["split_fingerprint"]
    model = load_backbone(TUNED)
    weights = sum(p.numel() for p in model.model.parameters())  # type: ignore[attr-defined]
    assert tuned["trained"] == weights + 4 * (model.spec.dim + 1)
    (run,) = (out / "runs").iterdir()
    assert load_backbone(str(run)).spec.dim == model.spec.dim
    (curve,) = told["curves"]
    values = [r["metrics"]["auroc"]["value"] for r in curve["reports"]]
    goal = tuned["report"]["metrics"]["auroc"]["value"]
    if goal > max(values):
        assert curve["parity"] is None
    else:
        assert curve["parity"] is not None
    assert {g["value"] for g in tuned["report"]["subgroups"]} == {"CC", "MLO"}


WORDS = """
name: films
classes: [A, B, C, D]
descriptions:
  plain: {A: fatty film, B: film of some tissue, C: film of much tissue, D: dense film}
  molina2025: {A: fatty, B: scattered, C: heterogeneously dense, D: extremely dense}
templates: ["The breast is {}", "A {}"]
"""


def test_the_study_s_protocol_stands_beside_the_corrected(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "both"
    (tmp_path / "words.yaml").write_text(WORDS)
    options = ["--label", "density", "--backbone", "phantom-clip", "--finetune", TUNED]
    options += [
        "--set",
        "epochs=1",
        "--set",
        "batch=8",
        "--set",
        "start=random",
        "--order",
        "A,B,C,D",
        "--folds",
        "3",
    ]
    options += ["--prompts", f"phantom-clip={tmp_path / 'words.yaml'}"]
    options += ["--no-sweep", "--no-audit", "--no-map", "--recipe", "molina2025", "--out", str(out)]
    assert _run(["study", str(films), *options], debug=True) == 0
    told = report(out)
    named = {c["name"]: c for c in told["contenders"]}
    assert list(named) == [
        f"{who}: {what}"
        for what, who in (
            ("zero-shot", "corrected"),
            ("linear probe", "corrected"),
            ("zero-shot", "study"),
            ("linear probe", "study"),
            ("fine-tune", "corrected"),
            ("fine-tune", "study"),
        )
    ]
    for name, one in named.items():
        recipe = one["report"]["spec"]["recipe"]
        if name.startswith("study"):
            assert "patients on both sides" in one["report"]["leak"]
            assert (recipe["resize"], set(recipe["mean"]), set(recipe["std"])) == (
                "squash",
                {0.0},
                {1.0},
            )
        else:
            assert one["report"]["leak"] == ""
            assert recipe["resize"] == "pad"
            assert set(recipe["std"]) != {1.0}
    assert named["study: zero-shot"]["report"]["n_train"] == 0
    (said,) = named["study: zero-shot"]["report"]["parameters"]["sentences"]
    assert said["C"] == ["The breast is heterogeneously dense"]
    assert named["study: linear probe"]["report"]["parameters"]["learning_rate"] == 1e-4
    assert named["study: fine-tune"]["report"]["parameters"]["schedule"] == "plateau"
    choices = {c["name"]: c for c in told["choices"]}
    assert list(choices) == [
        "corrected",
        "split by image",
        "no normalisation",
        "squashed",
        "all of the study",
    ]
    first = named["corrected: linear probe"]["report"]["metrics"]["auroc"]["value"]
    assert choices["corrected"]["score"]["value"] == first
    for one in list(choices.values())[1:]:
        assert one["paired"]
        assert one["difference"][0] == pytest.approx(one["score"]["value"] - first)
    whole = named["study: linear probe"]["report"]["metrics"]["auroc"]["value"]
    assert choices["all of the study"]["score"]["value"] == whole
    assert sum(note.startswith("split by image: AUROC") for note in told["notes"]) == 1
    leaks = {}
    for name in ("split-by-image", "no-normalisation", "squashed"):
        (file,) = (out / "results").glob(f"probe-{name}-*.json")
        leaks[name] = json.loads(file.read_text())["report"]["leak"]
    assert "patients on both sides" in leaks.pop("split-by-image")
    assert set(leaks.values()) == {""}
    _check_unnormalised(Store.open(out / "store.zarr"))


def _check_unnormalised(store: Store) -> None:
    """Compare with the backbone on the kept pictures themselves."""
    spec = next(s for s in store.specs.values() if "not normalised" in s.recipe.name)
    kept = store.kept(spec.recipe)
    rows = kept.rows.tolist()[:3]
    levels = np.stack([k.picture for k in kept.read(rows)])
    scaled = levels.astype(np.float32) / np.iinfo(levels.dtype).max
    import torch

    backbone = load_backbone("phantom-clip")
    with torch.inference_mode():
        batch = torch.from_numpy(np.repeat(scaled[:, None], 3, axis=1))
        expected = backbone.encode_image(batch).float().numpy()
    ids = store.array("samples/id", np.array(rows)).tolist()
    found = store.vectors(spec, ids)
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(cosine / np.linalg.norm(expected, axis=1), 1, atol=2e-3)

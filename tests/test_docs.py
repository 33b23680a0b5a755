"""What the documents say is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dicom_archive as made
import numpy as np
import polars as pl
import pytest
import torch
import zarr
from sklearn.neighbors import NearestCentroid
from test_evaluate import cohort

from embedstore import phantoms
from embedstore.cli import _run
from embedstore.prompts.expand import expand
from embedstore.prompts.sets import load
from embedstore.split_files import SavedSplit
from embedstore.splits import kfold
from embedstore.study.plan import Study, read
from embedstore.types import BackboneRequest, Recipe

ROOT = Path(__file__).parents[1]


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


def test_the_documented_commands_are_the_real_ones() -> None:
    command = [sys.executable, "-m", "typer", "embedstore.cli", "utils", "docs"]
    run = subprocess.run(
        [*command, "--name", "embedstore"], capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs" / "cli.md").read_text() == run.stdout


def test_the_guides_head_answers_as_scikit_learns() -> None:
    names: dict[str, type] = {}
    exec(blocks("CONTRIBUTING.md")[0], names)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 4)), rng.choice(["a", "b", "c"], 60)
    head = names["NearestMean"]().fit(X, y)
    np.testing.assert_array_equal(head.predict(X), NearestCentroid().fit(X, y).predict(X))
    np.testing.assert_allclose(head.predict_proba(X).sum(1), 1)


def test_the_guides_backbone_is_a_backbone() -> None:
    names: dict[str, object] = {}
    exec(blocks("CONTRIBUTING.md")[1], names)
    backbone = names["load"](BackboneRequest("mine", recipe=Recipe()))  # type: ignore[operator]
    batch = torch.rand(2, 3, *backbone.spec.recipe.size)
    np.testing.assert_allclose(backbone.encode_image(batch), batch.numpy().mean((2, 3)), atol=1e-5)
    assert backbone.spec.dim == 3


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_every_link_leads_somewhere(document: str) -> None:
    """Those of the other documents are looked at when the site is built."""
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (ROOT / document).parent.joinpath(target).exists(), target


def test_the_archive_s_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = made.Archive(tmp_path / "ARCHIVE")
    made.studies(archive, patients=2)
    (tmp_path / "labels.csv").write_text("PatientID,density\n00PAT0000,A\n00PAT0001,B\n")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(blocks("docs/dicom.md")[0], names)
    assert [s.labels["density"] for s in names["samples"]] == ["A"] * 4 + ["B"] * 4
    assert all(s.private and "00PAT" not in s.group for s in names["samples"])
    assert (tmp_path / "S.zarr.linkage.csv").exists()


def test_the_notebook_s_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = phantoms.write(Path("films"), patients=10, size=96, seed=0)
    command = ["extract", str(manifest), "--store", "films.zarr", "--backbone", "phantom-clip"]
    assert _run([*command, "--keep-pixels", "--workers", "0"], debug=True) == 0
    names: dict[str, Any] = {}
    for block in blocks("docs/python.md"):
        if "fiftyone" not in block or find_spec("fiftyone"):
            exec(block, names)
    group = zarr.open_group("films.zarr", mode="r")
    raw = group[f"embeddings/{names['store'].find('phantom-clip').key}/vectors"][:]
    np.testing.assert_array_equal(names["store"].vectors("phantom-clip"), raw)
    np.testing.assert_array_equal(pl.read_parquet("films.parquet")["embedding"].to_numpy(), raw)
    assert names["picture"].shape[0] == 3
    assert names["dataset"].classes == ("A", "B", "C", "D")


def test_the_splits_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    embeddings = cohort(4)
    labels = embeddings.columns["y"]
    split = kfold(embeddings, labels, 3, 0)
    SavedSplit("kfold", "patient", "y", (split,)).save(Path("split.json"), labels)
    names: dict[str, Any] = {"embeddings": embeddings}
    exec(blocks("docs/splits.md")[0], names)
    np.testing.assert_array_equal(names["splits"][0].fold, split.fold)
    np.testing.assert_array_equal(names["test"], np.flatnonzero(split.fold == 2))
    assert names["notes"] == ()


def test_the_prompts_snippet_and_set_run(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(blocks("docs/prompts.md")[0], names)
    assert names["number"] > 3
    assert set(names["variant"].sentences) == {"1", "2", "3", "4"}
    text = (ROOT / "docs" / "prompts.md").read_text()
    (mine,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(mine)
    variants = list(expand(load(tmp_path / "mine.yaml")))
    named = {v.name: v.sentences for v in variants}
    assert named["short 1.3: The breasts are {}."]["A"] == (
        "The breasts are almost entirely fatty.",
    )


def test_the_scores_snippet_runs() -> None:
    embeddings = cohort(4, patients=80, names="ABCD")
    named = replace(embeddings, columns={"density": embeddings.columns["y"]})
    names: dict[str, Any] = {"embeddings": named}
    exec(blocks("docs/scores.md")[0], names)
    (found,) = names["found"]
    assert found.name == "logistic"
    assert found.differences["auroc"].value == pytest.approx(
        names["usual"].report.metrics["auroc"].value - names["weak"].report.metrics["auroc"].value
    )


def test_the_study_s_file_is_read_and_every_key_is_told(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "study.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "study.toml").write_text(block)
    study = read(tmp_path / "study.toml")
    assert study.order == ("A", "B", "C", "D")
    assert [choice.set for choice in study.prompts] == ["birads-density"]
    (table,) = re.findall(r"^\| key \|.*?\n\n", text, flags=re.DOTALL | re.MULTILINE)
    told = set(re.findall(r"`\[?\[?(\w+)\]?\]?`", table))
    assert {field.name for field in fields(Study)} <= told

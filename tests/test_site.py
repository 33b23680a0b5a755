"""The documents as a site, the tutorial as commands, and the format as a stranger reads it."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_stores as toy
import yaml
from document_commands import PAGES, commands, run, tokens

import embedstore
from embedstore.delete import delete
from embedstore.errors import BackboneError
from embedstore.store import Store
from embedstore.testing import check_backbone
from embedstore.writer import Writer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout + run.stderr) == (0, "")
    return out


def test_every_document_is_in_the_site(site: Path) -> None:
    for document in (ROOT / "docs").rglob("*.md"):
        assert (site / document.relative_to(ROOT / "docs")).with_suffix(".html").is_file(), document


def imported() -> set[str]:
    """Return what the documents' and notebooks' Python imports of embedstore, by full name."""
    sources = [t.content for page in PAGES for t in tokens(page) if t.info == "python"]
    for path in (ROOT / "examples").rglob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        sources += ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    sources += [path.read_text() for path in (ROOT / "examples").rglob("*.py")]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    return {
        f"{node.module}.{name.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("embedstore.")
        for name in node.names
    }


def test_the_reference_has_every_public_name_with_what_it_raises(site: Path) -> None:
    text = (site / "reference.html").read_text()
    ids = set(re.findall(r'id="((?:embedstore|probes)[\w.]+)"', text))
    public = [getattr(embedstore, name) for name in embedstore.__all__]
    names = {f"{one.__module__}.{one.__qualname__}" for one in public}
    assert len(names) == len(public)
    assert {name.replace("embedstore.probes.", "probes.") for name in names | imported()} <= ids
    assert "Nothing is there, or it is not a store of this format." in text


def test_every_error_is_in_the_documents() -> None:
    tree = ast.parse((ROOT / "embedstore" / "errors.py").read_text())
    told = (ROOT / "docs" / "errors.md").read_text()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            assert f"`{node.name}`" in told, node.name


def test_a_page_opened_from_a_folder_asks_for_nothing_and_searches(
    browser: Any, site: Path
) -> None:
    asked: list[str] = []
    said: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto((site / "howto" / "publish.html").as_uri())
    page.locator("input.md-search__input").fill("tombstones")
    page.locator(".md-search-result__link").first.wait_for()
    page.close()
    assert [u for u in asked if not u.startswith(("file:", "data:", "blob:"))] == []
    assert said == []


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With smaller and fewer films, command by command."""
    monkeypatch.chdir(tmp_path)
    found = commands("docs/tutorial.md")
    assert len(found) > 10
    smaller = {"60": "12", "256": "96", "5": "2", "1,4,16": "1,2"}
    for words in found:
        assert run(words, smaller) in {0, 3 if words[0] == "audit" else 0}, words
    for made in ("like.html", "density.probe", "answers.csv", "split.json", "study/report.html"):
        assert (tmp_path / made).exists(), made


def test_a_reader_of_forty_lines_reads_every_store(tmp_path: Path) -> None:
    """Text, numbers, tombstones and arrays written anew, by the document's own code."""
    block = re.findall(r"```python\n(.*?)```", (ROOT / "docs/format.md").read_text(), re.S)[0]
    assert len([line for line in block.splitlines() if line.strip()]) <= 40
    reader: dict[str, Any] = {}
    exec(block, reader)
    assert {n for n in re.findall(r"^(?:import|from) (\w+)", block, re.M)} == {
        "json",
        "numpy",
        "pathlib",
    }
    samples = toy.toys(30)
    path = tmp_path / "s.zarr"
    toy.write(path, samples)
    good = [t for t in samples if not t.failed and toy.TWO in t.specs]
    delete(path, ids=[good[0].id])
    with Writer(path) as writer:
        row = writer.store().array("samples/id").tolist().index(good[1].id)
        writer.drop(np.array([row]))
        writer.rewrite("samples/view", [["é" * (n % 3) for n in range(len(samples))]])
        writer.commit()
    ids, vectors = reader["vectors"](path, toy.TWO.key)
    order = np.argsort(ids)
    expected = sorted(good[2:], key=lambda t: t.id)
    assert ids[order].tolist() == [t.id for t in expected]
    np.testing.assert_array_equal(vectors[order], [t.vector(toy.TWO) for t in expected])
    root = json.loads((path / "zarr.json").read_bytes())
    views = reader["read"](path, "samples/view", root)
    assert views.tolist() == ["é" * (n % 3) for n in range(len(samples))]


def test_the_key_is_as_the_format_says(tmp_path: Path) -> None:
    import hashlib

    toy.write(tmp_path / "s.zarr", toy.toys(3))
    root = json.loads((tmp_path / "s.zarr" / "zarr.json").read_bytes())

    def hashed(value: Any) -> str:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    for key, entry in root["attributes"]["embedstore"]["embeddings"].items():
        spec = dict(entry["spec"])
        recipe = {k: v for k, v in spec.pop("recipe").items() if k != "name"}
        kept = {k: v for k, v in spec.items() if k not in {"backbone", "text"}}
        assert hashed(kept | {"recipe": hashed(recipe)}) == key


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both examples, installed as packages into a folder of their own."""
    folder = tmp_path_factory.mktemp("plugins")
    sources = []
    for name in ("head", "backbone"):  # a build writes beside its source
        sources.append(shutil.copytree(ROOT / "examples" / name, folder / name))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    command = [*pip, "--no-build-isolation", "--target", folder / "site", *sources]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "site"


def test_the_examples_install_and_are_used_by_name(plugins: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from embedstore.cli import _run\n"
        "assert _run(['phantoms', 'films', '--patients', '8', '--size', '64'], True) == 0\n"
        "assert _run(['extract', 'films/manifest.csv', '--store', 's.zarr', '--backbone', 'bands',"
        " '--workers', '0'], True) == 0\n"
        "print('---')\n"
        "assert _run(['probe', 's.zarr', '--label', 'density', '--head', 'nearest-mean',"
        " '--folds', '2', '--json'], True) == 0\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(plugins)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(run.stdout.partition("---\n")[2])
    assert "nearest-mean" in json.dumps(told)
    vectors = Store.open(tmp_path / "s.zarr").read("bands").vectors
    assert vectors.shape == (32, 16)
    assert np.ptp(vectors) > 0


def test_the_examples_keep_the_contracts(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(plugins))
    from importlib import import_module

    from embedstore.testing import check_probe

    check_probe(import_module("nearest_mean").NearestMean)
    check_backbone(import_module("bands").load)
    lines = [len((ROOT / f"examples/{f}").read_text().splitlines()) for f in EXAMPLES]
    assert lines[0] <= 25
    assert lines[1] <= 40


EXAMPLES = ("head/nearest_mean.py", "backbone/bands.py")


def _broken(how: str) -> Any:
    import torch

    from embedstore.types import Spec

    class Broken:
        def __init__(self, recipe: Any) -> None:
            self.calls = 0
            from dataclasses import replace

            size = (0, 0) if how == "no size" else (8, 8)
            shown = replace(recipe, size=size, mean=(0.0,) * 3, std=(1.0,) * 3, colour="rgb")
            self.spec = Spec("b", str(id(self)) if how == "two keys" else "1", shown, "p", 3)

        def encode_image(self, batch: Any) -> Any:
            if how == "changes images":
                batch += 1
            out = batch.mean((2, 3))
            if how == "wrong size":
                out = out[:, :2]
            if how == "of its batch":
                out = out - out.mean(0)
            if how == "not finite":
                out = out * float("nan")
            if how == "at random":
                out = out + torch.rand(3)
            return out

        def encode_text(self, texts: Any) -> Any:
            if how == "text of another size":
                return torch.zeros(len(texts), 5)
            raise BackboneError("none")

    return lambda request: Broken(request.recipe)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("two keys", "two keys"),
        ("changes images", "changes the images"),
        ("wrong size", "spec.dim"),
        ("of its batch", "depends on what else"),
        ("not finite", "not finite"),
        ("at random", "two answers"),
        ("text of another size", "encode_text"),
        ("no size", "no size"),
    ],
)
def test_check_backbone_finds_what_is_wrong(how: str, said: str) -> None:
    check_backbone(_broken("nothing"))
    with pytest.raises(AssertionError, match=said):
        check_backbone(_broken(how))


def test_the_menu_has_every_document() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = set(re.findall(r"[\w/-]+\.md", json.dumps(menu)))
    there = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert named == there

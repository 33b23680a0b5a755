"""The house: layers, start-up, public names, and what a wheel holds and how it installs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from trove_classifiers import classifiers

import embedstore

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())

# a module may import from the layers before its own, and from its own folder
LAYERS = [
    {"errors", "heap", "mapping", "distinct", "stratified"},
    {"blocks", "bucket"},
    {"places"},
    {"types", "classes", "few", "conditions"},
    {"rough", "lease", "results"},
    {"exact"},
    {
        "registry",
        "images",
        "chunks",
        "lock",
        "links",
        "index",
        "metrics",
        "phantoms",
        "privacy",
        "prompts",
        "readers",
        "where",
    },
    {"solver", "plane", "engine_filter"},
    {"classifier", "pairs"},
    {"testing", "tournament"},
    {"table", "dataset", "output"},
    {"commit", "heads", "manifest", "splits"},
    {"fitted", "leaks", "split_columns"},
    {"choose", "calibration", "levels", "subgroups"},
    {"saved", "texts", "answered", "split_files"},
    {"predict", "scoring", "remarks", "search_tables"},
    {"arrays", "appender", "protocol"},
    {"saved_index", "kept", "kept_texts"},
    {"search"},
    {"queries", "engine"},
    {"store", "indexing"},
    {"writer", "leftovers", "backbones", "archive", "frames", "plan"},
    {"metadata", "selection", "matching", "linkage"},
    {"fiftyone"},
    {"export"},
    {"check", "update", "delete", "merge"},
    {"join", "views", "feed", "register", "backlog", "changes", "copying"},
    {"encode"},
    {"cluster"},
    {"extract", "evaluate"},
    {"finetune"},
    {"phantomclip"},
    {"answering", "embed"},
    {"encode_texts"},
    {"prompt_bench"},
    {"audit", "retrieval"},
    {"study"},
    {"report"},
    {"cli_names"},
    {
        "cli_examples",
        "cli_finetune_options",
        "cli_options",
        "cli_probe_options",
        "cli_choices",
        "cli_prompts_options",
        "cli_study_options",
        "cli_console",
        "look",
        "seen",
    },
    {"showing", "cli_trials"},
    {"server"},
    {
        "cli_backbones",
        "cli_change",
        "cli_check",
        "cli_copy",
        "cli_export",
        "cli_extract",
        "cli_index",
        "cli_probe",
        "cli_prompts",
        "cli_split",
        "cli_view",
    },
    {
        "cli_audit",
        "cli_finetune",
        "cli_predict",
        "cli_prompts_bench",
        "cli_retrieve",
        "cli_search",
        "cli_serve",
        "cli_study",
    },
    {"cli"},
]


def modules() -> list[Path]:
    found = [*(ROOT / "embedstore").rglob("*.py"), *(ROOT / "probes").glob("*.py")]
    return sorted(p for p in found if p != ROOT / "embedstore" / "__init__.py")


def imported(path: Path) -> set[str]:
    """Return the embedstore modules a file imports, also inside functions, by first part."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            parts = [a.name for a in node.names] if node.module == "embedstore" else [""]
            names |= {f"{node.module}.{p}".rstrip(".") for p in parts}
    return {n.split(".")[1] for n in names if n.startswith("embedstore.")}


def layer_of(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down_only(path: Path) -> None:
    place = path.relative_to(ROOT).with_suffix("").parts
    if place[0] == "probes":
        # what several heads share is no head; from each other they import nothing
        assert imported(path) <= {
            *("types", "errors", "exact", "classifier", "pairs", "solver"),
            "blocks",
        }
        return
    own = place[1]
    for other in imported(path) - {own}:
        assert layer_of(other) < layer_of(own), f"{own} imports {other}"
    assert "probes" not in imported(path)


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, resource; sys.argv = ['embedstore', '--help']\n"
        "from embedstore.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "import json; print(json.dumps([used.ru_utime + used.ru_stime, list(sys.modules)]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, loaded = json.loads(out.stdout.splitlines()[-1])
    assert not {"torch", "faiss", "sklearn", "scipy", "zarr", "polars", "numpy"} & set(loaded)
    assert seconds < 0.5


def test_public_names_are_sorted_and_all_load() -> None:
    assert embedstore.__all__ == sorted(embedstore.__all__)
    assert all(getattr(embedstore, name) is not None for name in embedstore.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        embedstore.no_such_name  # noqa: B018


def test_probes_cannot_be_imported_twice() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import probes"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "import embedstore.probes, not probes" in run.stderr


def test_the_launcher_is_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "cli.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "extract" in run.stdout


def test_every_built_in_plug_in_loads() -> None:
    from embedstore.registry import available, load

    for group, points in CONFIG["project"]["entry-points"].items():
        assert set(points) <= set(available(group))
        for name in points:
            assert callable(load(group, name))


def test_a_plug_in_of_another_package_is_found_and_a_clash_names_both(tmp_path: Path) -> None:
    for package, name in (("first", "mine"), ("second", "mine"), ("third", "theirs")):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[embedstore.{package}]\n{name} = {package}:Head\n")
    (tmp_path / "third.py").write_text("Head = 'a head'\n")
    (tmp_path / "second-1.0.dist-info" / "entry_points.txt").write_text(
        "[embedstore.first]\nmine = second:Head\n"
    )
    code = (
        "from embedstore.registry import *; from embedstore.errors import *\n"
        "print(load('embedstore.third', 'theirs'))\n"
        "try: available('embedstore.first')\n"
        "except EmbedstoreError as error: print(error)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "a head" in out
    assert "first (first:Head)" in out
    assert "second (second:Head)" in out


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an sdist, and the wheel out of it, as an index would serve it."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "-q", "--no-isolation", "-o", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


def test_an_index_would_take_both(dist: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, dist.iterdir())]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("PASSED") == 2


def test_the_sdist_holds_what_a_packager_needs(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        inside = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    folders = ("embedstore", "probes", "tests", "docs", "examples", "benchmarks")
    ours = set().union(*map(tracked, folders))
    ours |= {
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "LICENSE",
        "MANIFEST.in",
        "Makefile",
    }
    ours |= {
        "README.md",
        "SECURITY.md",
        "cli.py",
        "constraints.txt",
        "mkdocs.yml",
        "pyproject.toml",
    }
    made = {"PKG-INFO", "setup.cfg"}
    assert {name for name in inside if ".egg-info/" not in name} - made == ours


def test_the_metadata_says_what_pyproject_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        said = Metadata.from_email(archive.read(name))
    project = CONFIG["project"]
    assert (said.license_expression, said.license_files) == ("Apache-2.0", ["LICENSE"])
    assert str(said.requires_python) == project["requires-python"]
    assert said.classifiers == project["classifiers"]
    assert not set(said.classifiers) - set(classifiers)
    assert said.description_content_type == "text/markdown"
    assert said.description == (ROOT / "README.md").read_text()


def tracked(folder: str) -> set[str]:
    files = (p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(ROOT).as_posix() for p in files}


def test_the_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    probes = {f"embedstore/{name}" for name in tracked("probes")}
    assert inside == tracked("embedstore") | probes


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a new environment, which sees our dependencies but not the checkout."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home)
    python = home / "bin" / "python"
    (site,) = home.glob("lib/python*/site-packages")
    ours = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "dependencies.pth").write_text(ours)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
    install = [*pip, "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return python


def test_the_wheel_works_beside_an_alien_cli_and_probes(clean_python: Path, tmp_path: Path) -> None:
    for name in ("cli.py", "probes.py"):
        (tmp_path / name).write_text("raise SystemExit('the alien was imported')\n")
    (tmp_path / "films").mkdir()
    command = clean_python.parent / "embedstore"
    steps = [
        [command, "phantoms", "films", "--patients", "8", "--size", "128"],
        [command, "extract", "films/manifest.csv", "--store", "s.zarr", "--backbone", "statistics"],
        [command, "probe", "s.zarr", "--label", "density", "--head", "knn", "--folds", "2"],
    ]
    for step in steps:
        run = subprocess.run(step, cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    assert "AUROC" in run.stdout
    where = "import embedstore, embedstore.probes as p; print(embedstore.__file__, p.__file__)"
    found = subprocess.run(
        [clean_python, "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert str(ROOT) not in found


def test_every_import_is_a_declared_dependency() -> None:
    names = {
        "PIL": "pillow",
        "sklearn": "scikit-learn",
        "faiss": "faiss-cpu",
        "open_clip": "open_clip_torch",
        "google_crc32c": "google-crc32c",
        "pytorch_lightning": "pytorch-lightning",
        "lightning_fabric": "pytorch-lightning",
        "yaml": "pyyaml",
        "click": "typer",
        "numcodecs": "zarr",
        "tokenizers": "transformers",
        "starlette": "fastapi",
        "pydantic": "fastapi",
    }
    declared = {d.split(">")[0].lower() for d in CONFIG["project"]["dependencies"]}
    optional = CONFIG["project"]["optional-dependencies"]
    users = {
        "server": "serve",
        "cluster": "ray",
        "places": "cloud",
        "bucket": "cloud",
        "lease": "cloud",
    }
    users["engine"] = "lancedb"
    extras = {where: {d.split(">")[0] for d in optional[extra]} for where, extra in users.items()}
    ours = {"embedstore", "probes"} | set(sys.stdlib_module_names)
    for path in modules():
        used: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {a.name.split(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                used.add(node.module.split(".")[0])
        allowed = declared | extras.get(path.parent.name, set()) | extras.get(path.stem, set())
        assert {names.get(n, n) for n in used - ours} <= allowed, path


def test_constraints_pin_every_dependency_and_name_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extra = CONFIG["project"]["optional-dependencies"]["test"]
    wanted = [d.split(">")[0] for d in CONFIG["project"]["dependencies"] + extra]
    assert {w.lower().replace("_", "-") for w in wanted} <= {
        p.lower().replace("_", "-") for p in pins
    }
    assert not [line for line in lines if "://" in line or "@" in line]

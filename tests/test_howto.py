"""The how-tos as a reader would follow them: every command, on phantoms and small random models."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import dicom_archive as made
import polars as pl
import pytest
from document_commands import ROOT, commands, run, shell_lines
from hub_folders import biomedclip_like
from test_bundle import namespaces

from embedstore import phantoms
from embedstore.cli import _run
from embedstore.store import Store


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of 80 phantoms, films.csv, and their store, S.zarr."""
    folder = tmp_path_factory.mktemp("howto")
    manifest = phantoms.write(folder / "films", patients=20, size=64, seed=0)
    pl.read_csv(manifest).with_columns(
        pl.format("{}/{}", pl.lit(str(folder / "films")), "image").alias("image")
    ).write_csv(folder / "films.csv")
    names = ["--backbone", "phantom-clip", "--backbone", "statistics"]
    command = ["extract", str(folder / "films.csv"), "--store", str(folder / "S.zarr"), *names]
    assert _run([*command, "--workers", "0"], debug=True) == 0
    return folder


@pytest.fixture
def place(extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where the commands are typed."""
    shutil.copytree(extracted, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def block(page: str, language: str) -> str:
    """Return the only block of a language."""
    text = (ROOT / page).read_text()
    (found,) = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return str(found)


def test_a_dicom_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    archive = made.Archive(tmp_path / "ARCHIVE")
    made.studies(archive, patients=12)
    header = block("docs/howto/dicom.md", "csv").splitlines()[0]
    rows = [
        f"00PAT{p:04d},{s},{'AAABBBCCCDDD'[p]},1940" for p in range(12) for s in ("left", "right")
    ]
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]))
    for words in commands("docs/howto/dicom.md"):
        if words[0] == "split" and "split.json" in words:
            assert len(Store.open(Path("mine.zarr"))) == 44  # the deleted patient's four are gone
        assert run(words, {}) == 0, words
    told = capsys.readouterr().err
    assert "48 of 48 images have a row; 0 rows match no image" in told
    store = Store.open(Path("mine.zarr"))
    assert "birth" not in store.labels
    everything = [p.read_bytes() for p in Path("mine.zarr").rglob("*") if p.is_file()]
    for secret in archive.secrets():
        assert not any(secret.encode() in file for file in everything), secret
    assert set(json.loads(Path("vendor.json").read_text())["ids"]) == set(store.column("id"))
    for private in ("mine.zarr.key", "mine.zarr.linkage.csv"):
        assert Path(private).stat().st_mode & 0o077 == 0


NO_NETWORK = ["unshare", "--user", "--map-root-user", "--net"]
FOLLOW = """
import json, sys
from document_commands import commands, run
for words in commands("docs/howto/air-gapped.md"):
    assert run(words, json.loads(sys.argv[1])) == 0, words
"""


def test_a_machine_without_internet(place: Path) -> None:
    """BiomedCLIP's page, small and random, stands in for the download."""
    hub = biomedclip_like(place / "hub")
    run_ = subprocess.run(
        [*(NO_NETWORK if namespaces() else []), sys.executable, "-c", FOLLOW]
        + [json.dumps({"biomedclip": str(hub), "S.zarr": "new.zarr"})],
        env={"PATH": "/usr/bin:/bin", "HOME": str(place), "OMP_NUM_THREADS": "1"}
        | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run_.returncode == 0, run_.stderr
    shutil.rmtree(hub)
    answers = pl.read_csv("answers.csv")
    assert len(answers) == len(pl.read_csv("films.csv"))


def test_pip_knows_the_options_it_is_given() -> None:
    lines = [shlex.split(line) for line in shell_lines("docs/howto/air-gapped.md")]
    calls = [words[words.index("pip") + 1 :] for words in lines if "pip" in words]
    assert [words[0] for words in calls] == ["wheel", "download", "install"]
    for words in calls:  # help comes after the options before it are read
        pip = [sys.executable, "-m", "pip", *words, "--help"]
        assert subprocess.run(pip, capture_output=True, check=False).returncode == 0, words


def test_prompts_are_compared(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.csv").write_text(block("docs/howto/prompts.md", "csv"))
    for words in commands("docs/howto/prompts.md"):
        assert run(words, {}) == 0, words
    assert "optimism" in capsys.readouterr().out
    competed = {name.partition("/")[0] for name in pl.read_csv("all.csv")["variant"]}
    assert competed == {"mine", "birads-density"}
    assert Path("words.png").stat().st_size > 1000
    assert "chosen out of" in Path("words.txt").read_text()
    assert len(pl.read_csv("answers.csv")) == 80


def test_a_head_in_a_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(ROOT / "examples" / "head" / "nearest_mean.py", place)
    for words in commands("docs/howto/head.md"):
        assert run(words, {}) == 0, words
    assert "sharpness" in capsys.readouterr().out

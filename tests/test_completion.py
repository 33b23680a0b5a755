"""What a Tab gives in the shells, and how long it takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer

from embedstore.cli import app

SCRIPT = Path(sys.executable).with_name("embedstore")
ROOT = typer.main.get_command(app)
PROBE = ROOT.commands["probe"]
SETS = {p.stem for p in (Path(__file__).parents[1] / "embedstore/prompts/builtin").glob("*.yaml")}


def names(group: str) -> set[str]:
    return {point.name for point in entry_points(group=f"embedstore.{group}")}


LINES = {
    "": set(ROOT.commands),
    "backbones ": {"list", "show", "pull", "bundle", "verify"},
    "probe S.zarr --": {o for p in PROBE.params for o in p.opts if o.startswith("--")} | {"--help"},
    "probe S.zarr --head ": names("probes"),
    "extract films.csv --backbone convnext": {n for n in names("backbones") if "convnext" in n},
    "prompts bench S.zarr --set ": SETS,
    "probe S.zarr --head ./my": set(),  # a file of one's own: left to the shell
}


def run(code: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    path = f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}"
    clean = {"PATH": path, "HOME": str(home), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    bash = [shutil.which("bash") or "", "--norc", "-c", code]
    return subprocess.run(bash, env=clean | more, capture_output=True, text=True, check=True)


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_commands_options_and_names_at_once(tmp_path: Path) -> None:
    run("embedstore --install-completion; true", tmp_path)
    tabs = [f"tab {line.count(' ') + 1} embedstore {line}" for line in LINES]
    code = """
    source ~/.bashrc
    tab() {
        COMP_CWORD=$1; shift; COMP_WORDS=("$@")
        [ ${#COMP_WORDS[@]} -gt $COMP_CWORD ] || COMP_WORDS+=("")
        eval "$(complete -p embedstore | sed 's/.*-F \\([^ ]*\\) .*/\\1/') embedstore"
        echo "${COMPREPLY[@]}"
    }
    """
    given = run("\n".join([code, *tabs, "times"]), tmp_path).stdout.splitlines()
    replies, (_, of_children) = given[:-2], given[-2:]
    assert [set(reply.split()) for reply in replies] == list(LINES.values())
    seconds = sum(float(t[:-1].partition("m")[2]) for t in of_children.split())
    assert seconds / len(LINES) < 0.5


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_answered_in_their_own_form(shell: str, tmp_path: Path) -> None:
    more = {"_TYPER_COMPLETE_ARGS": "embedstore probe S.zarr --head k"}
    more |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    given = run("embedstore", tmp_path, _EMBEDSTORE_COMPLETE=f"complete_{shell}", **more).stdout
    assert given.strip() == {"zsh": """_arguments '*: :(("knn"))'""", "fish": "knn"}[shell]

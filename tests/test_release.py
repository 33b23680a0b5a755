"""The papers that go with a release say what is so."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_test_that_security_names_is_there() -> None:
    rows = [r for r in (ROOT / "SECURITY.md").read_text().splitlines() if r.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/test_\w+\.py)::(test_\w+)`", row)
        assert named, f"nothing checks: {row[:60]}"
        for file, test in named:
            tree = ast.parse((ROOT / file).read_text())
            found = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
            assert test in found, f"{file}::{test}"


def test_the_citation_is_of_this_version() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"message", "title", "authors"} <= set(said)  # with cff-version, all that is required
    assert (said["cff-version"], said["type"]) == ("1.2.0", "software")
    for name in ("version", "license", "keywords"):
        assert said[name] == PROJECT[name], name
    assert [a["name"] for a in said["authors"]] == [a["name"] for a in PROJECT["authors"]]

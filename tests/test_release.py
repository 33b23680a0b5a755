"""The papers that go with a release say what is so."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import distribution
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def test_the_changelog_tells_of_this_version_last() -> None:
    released = re.findall(
        r"^## \[(\d.*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert released[0] == PROJECT["version"]


def installed(wanted: Iterable[str], pins: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """Return what comes with some requirements, by the packages' own metadata, and what is unlike.

    Packages of another version than the pinned one are unlike: what they need is not looked at.
    """
    found: set[tuple[str, frozenset[str]]] = set()
    unlike = set()
    todo = [(Requirement(text), frozenset({""})) for text in wanted]
    while todo:
        one, asked = todo.pop()
        here = one.marker is None or any(one.marker.evaluate({"extra": e}) for e in asked)
        name = canonicalize_name(one.name)
        key = (name, frozenset(one.extras))
        if here and key not in found:
            found.add(key)
            own = distribution(name)
            if own.version != pins.get(name, own.version):
                unlike.add(name)
                continue
            todo += [(Requirement(t), key[1] | {""}) for t in own.requires or ()]
    return {name for name, _ in found}, unlike


def test_licences_are_of_all_that_an_installation_brings() -> None:
    text = (ROOT / "docs/licences.md").read_text()
    rows = re.findall(r"^\| ([\w.-]+) \| (\S+) \| (.+) \|$", text, flags=re.MULTILINE)
    page = {canonicalize_name(name): version for name, version, _ in rows if name != "Name"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    pins = {canonicalize_name(n): v for n, _, v in (line.partition("==") for line in lines)}
    needed, unlike = installed(PROJECT["dependencies"], pins)
    assert len(needed) > 60
    assert needed <= set(page)
    of_gpus = re.compile("nvidia-|cuda-|triton")  # torch asks for them on Linux alone
    assert unlike or not [n for n in set(page) - needed if not of_gpus.match(n)]
    assert not {n: v for n, v in page.items() if pins.get(n, v) != v}
    for name, _, licence in rows:
        assert not re.search("GPL|MPL|EPL|CDDL", licence) or f"**{name}**" in text, name

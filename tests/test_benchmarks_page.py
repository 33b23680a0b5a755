"""Figures in the documents are those of the results that are kept, and say how they came about."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from document_commands import PAGES, ROOT, tokens
from markdown_it.token import Token

RESULTS = ROOT / "benchmarks" / "results"
NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"


def sections(page: str) -> Iterator[list[Token]]:
    """Give the pieces of a page, cut at its headings of the second level."""
    found: list[Token] = []
    for token in tokens(page):
        if token.type == "heading_open" and token.tag == "h2":
            yield found
            found = []
        found.append(token)
    yield found


def scripts(section: list[Token]) -> set[str]:
    told = " ".join(t.content for t in section if t.type in {"code_inline", "fence"})
    return set(re.findall(r"benchmarks/(\w+)\.py", told))


def results(section: list[Token]) -> list[Any]:
    """Return what is kept of the scripts that a section names, and of files it names itself."""
    told = " ".join(t.content for t in section if t.type == "code_inline")
    named = {*scripts(section), *re.findall(r"benchmarks/results/(\w+)\.json", told)}
    files = [RESULTS / f"{name}.json" for name in sorted(named)]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def numbers(value: Any) -> Iterator[float]:
    """Give every number in a result, those in its words and keys, too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(key)
            yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, str):
        yield from (float(n.replace(",", "")) for n in re.findall(NUMBER, value))
    elif isinstance(value, int | float):
        yield float(value)


def prints_as(text: str) -> Callable[[float], bool]:
    """Tell of a number whether it is this one, to the digits that stand there."""
    text = text.replace(",", "")
    mantissa, e, _ = text.partition("e")
    digits = len(mantissa.partition(".")[2])
    if e:
        return lambda number: float(f"{number:.{digits}e}") == float(text)
    return lambda number: abs(number - float(text)) <= 0.501 * 10.0**-digits


def cells(section: list[Token]) -> Iterator[str]:
    """Give the cells of a section's tables that begin with a number, up to what explains it."""
    for token, inner in zip(section, section[1:], strict=False):
        if token.type == "td_open" and re.match(r"-?\d", inner.content):
            yield inner.content.partition("(")[0]


def test_numbers_are_compared_to_their_digits() -> None:
    assert prints_as("0.82")(0.817)
    assert not prints_as("0.82")(0.83)
    assert prints_as("1,000")(1000)
    assert prints_as("1.1e-7")(1.12e-7)
    assert not prints_as("1.1e-7")(1.2e-7)


@pytest.mark.parametrize("page", PAGES)
def test_every_number_of_a_measured_table_is_in_the_results(page: str) -> None:
    """As it is, as a percentage, or in a thousandth of the unit."""
    for section in sections(page):
        if not scripts(section):
            continue
        kept = list(numbers(results(section)))
        for cell in cells(section):
            for text in re.findall(NUMBER, cell):
                same = prints_as(text)
                assert any(same(n * unit) for n in kept for unit in (1, 100, 1000)), cell


def test_every_result_and_every_script_that_makes_one_is_told_of() -> None:
    told = [section for page in PAGES for section in sections(page)]
    files = " ".join(t.content for section in told for t in section if t.type == "code_inline")
    named = {name for section in told for name in scripts(section)}
    for file in RESULTS.glob("*.json"):
        assert file.stem in named or f"benchmarks/results/{file.name}" in files, file.name
    for path in (ROOT / "benchmarks").glob("*.py"):
        if "RESULT = " in path.read_text():
            assert path.stem in named, path.name


def test_every_table_of_the_page_says_how_it_came_about() -> None:
    for section in sections("docs/benchmarks.md"):
        if any(t.type == "table_open" for t in section):
            ours = any(t.type == "fence" and t.content.startswith("embedstore ") for t in section)
            assert ours or scripts(section), section[1].content


@pytest.mark.parametrize("page", PAGES)
def test_a_script_has_the_options_it_is_given(page: str) -> None:
    for token in tokens(page):
        for name, options in re.findall(r"benchmarks/(\w+)\.py([^`\n]*)", token.content):
            text = (ROOT / "benchmarks" / f"{name}.py").read_text()
            if token.type in {"code_inline", "fence"}:
                assert [o for o in re.findall(r"--[a-z-]+", options) if f'"{o}"' not in text] == []

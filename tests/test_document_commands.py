"""What the documents tell a reader to type can be typed."""

from __future__ import annotations

import re
import shlex
from functools import cache
from typing import Any

import pytest
import typer
from document_commands import PAGES, ROOT, commands, spans

from embedstore.cli import app

WRITTEN = [page for page in PAGES if page != "docs/cli.md"]  # that one is made by the program


@cache
def parser() -> Any:
    """Make the command line, every command of it doing nothing."""
    command: Any = typer.main.get_command(app)

    def leave(context: Any, option: Any, value: Any) -> None:
        if value:
            context.exit()

    def still(command: Any) -> None:
        command.callback = lambda **_: None
        for option in command.params:
            if option.name in {"install_completion", "show_completion"}:
                option.callback = leave  # else this home's shell would be set up
        for inner in getattr(command, "commands", {}).values():
            still(inner)

    still(command)
    return command


def parse(words: list[str]) -> str:
    """Return why the real parser refuses a command; the name of the refusal, then its text."""
    words = words[: words.index(">")] if ">" in words else words
    try:
        parser().main([w for w in words if w != "…"], standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"{type(error).__name__}: {error}"
    return ""


def test_the_parser_refuses_what_there_is_not() -> None:
    assert "NoSuchOption" in parse(["info", "S.zarr", "--no-such"])
    assert "No such command" in parse(["prompts", "guess"])
    assert parse(["info", "S.zarr", "--json"]) == ""


@pytest.mark.parametrize("page", WRITTEN)
def test_every_command_in_a_block_is_one(page: str) -> None:
    for words in commands(page):
        assert parse(words) == "", shlex.join(words)


@pytest.mark.parametrize("page", WRITTEN)
def test_every_command_in_a_line_of_text_is_one(page: str) -> None:
    """Some name a command without all that it needs."""
    for span in spans(page):
        if span.startswith("embedstore "):
            assert parse(shlex.split(span)[1:]).partition(":")[0] in {"", "MissingParameter"}, span


@pytest.mark.parametrize("page", WRITTEN)
def test_every_option_in_a_line_of_text_is_one(page: str) -> None:
    known = set(re.findall(r"--[a-z-]+", (ROOT / "docs" / "cli.md").read_text()))
    named = {re.match(r"--[a-z-]+", span) for span in spans(page)}
    assert {match.group() for match in named if match} <= known


@pytest.mark.parametrize("page", WRITTEN)
def test_every_file_of_the_source_that_is_named_is_there(page: str) -> None:
    folders = r"(?:benchmarks|embedstore|examples|probes|tests)/[\w/.-]+"
    for span in spans(page):
        for name in re.findall(rf"(?<![\w/.-]){folders}", span):
            assert (ROOT / name).exists(), name

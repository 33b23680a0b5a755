"""The help of every command ends with examples, and the real parser takes each of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest
import typer

from embedstore.cli import _run, app

ROOT = typer.main.get_command(app)


def commands(group: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def shown(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Return the words of each example, as a shell takes them off the screen."""
    assert _run([*path, "--help"], debug=True) == 0
    text = capsys.readouterr().out
    _, start, examples = text.partition("\n Examples:")
    assert start
    lines = re.sub(r"\\ *\n", " ", examples).splitlines()
    found = [words for line in lines if (words := shlex.split(line, comments=True))]
    assert [words[0] for words in found] == ["embedstore"] * len(found)  # no line is broken
    return [words[1:] for words in found]


def parsed(words: list[str]) -> tuple[str, ...]:
    """Let the application parse a command line, down to the command that it runs; run nothing."""
    command, context, path = ROOT, ROOT.make_context("embedstore", list(words)), []
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
        path.append(name)
    return tuple(path)


@pytest.mark.parametrize("path", list(commands(ROOT)), ids=lambda path: " ".join(path) or "root")
def test_each_example_is_taken_by_the_parser(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run = [parsed(words) for words in shown(path, capsys)]
    assert path in {done[: len(path)] for done in run}


@pytest.mark.parametrize("path", list(commands(ROOT)), ids=lambda path: " ".join(path) or "root")
def test_the_help_of_each_option_is_shown_as_it_is_written(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 1000)
    assert _run([*path, "--help"], debug=True) == 0
    screen = capsys.readouterr().out
    command = ROOT
    for name in path:
        command = command.commands[name]
    written = [p.help for p in command.params if getattr(p, "help", None)]
    assert [text for text in written if text not in screen] == []


def test_the_parser_refuses_what_no_command_has() -> None:
    for line in ("extract --stoer S.zarr films.csv", "probe S.zarr", "no-such S.zarr"):
        with pytest.raises(Exception, match=r"(?i)no such|missing"):
            parsed(line.split())

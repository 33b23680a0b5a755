"""The commands in the documents, as a reader would type them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from embedstore.cli import _run

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md"] + sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")
)


def tokens(page: str) -> Iterator[Token]:
    """Give a page's pieces, those inside a line of text, too."""
    for token in MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text()):
        yield token
        yield from token.children or ()


def spans(page: str) -> list[str]:
    """Return what stands between backticks within a page's text."""
    return [" ".join(t.content.split()) for t in tokens(page) if t.type == "code_inline"]


def shell_lines(page: str) -> list[str]:
    """Return the lines of a page's blocks that name no language, continued lines as one."""
    blocks = [t.content for t in tokens(page) if t.type == "fence" and not t.info]
    return [line for b in blocks for line in re.sub(r"\\\n\s*", "", b).splitlines() if line]


def commands(page: str) -> list[list[str]]:
    """Return the words after `embedstore` of each command in a page's blocks."""
    lines = [line for line in shell_lines(page) if line.startswith("embedstore ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def run(words: list[str], smaller: Mapping[str, str]) -> int:
    """Run a command in this folder, some of its words replaced; return its exit code."""
    words = [smaller.get(word, word) for word in words]
    if ">" not in words:
        return _run(words, debug=True)
    *words, _, target = words
    with Path(target).open("w") as file, redirect_stdout(file):
        return _run(words, debug=True)

"""How the commands speak: answers on one console, all that is said of the work on another."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.store import Failure

out = Console(width=None if sys.stdout.isatty() else 110, emoji=False)
err = Console(stderr=True, emoji=False)


def say(console: Console, text: str) -> None:
    """Print plain text as it is: no colours, no markup in a file's name, no wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise `UsageError` unless an option's value is a known one."""
    if value not in known:
        raise UsageError(f"{option} is {', '.join(known)}; not {value!r}")


def pairs(values: Sequence[str]) -> dict[str, str]:
    """Take the values of --column apart; `UsageError` for one that is not ROLE=NAME."""
    found = {}
    for value in values:
        role, equals, name = value.partition("=")
        if not equals:
            raise UsageError(f"--column takes ROLE=NAME, not {value!r}")
        found[role] = name
    return found


def tell_failures(failures: Sequence[Failure], shown: int = 5) -> None:
    """Say which images failed and why, the first few of them."""
    # once for each file, whatever the number of backbones
    lines = list(dict.fromkeys(f"{f.path or f.id}: {f.stage}: {f.reason}" for f in failures))
    for line in lines[:shown]:
        say(err, f"failed: {line}")
    if len(lines) > shown:
        say(err, f"… and {len(lines) - shown} more; `embedstore info --json` lists them all")

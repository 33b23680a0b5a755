"""``embedstore check``: whether a store is as it was written, and what stopped runs left in it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.cli_console import err, out, say
from embedstore.places import place

if TYPE_CHECKING:
    from embedstore.leftovers import Checked, Finding

SHOWN = 5
"""Findings of one kind that are said in full; `--json` has all."""

StorePath = Annotated[
    Path, typer.Argument(metavar="STORE", help="A store made by `extract`.", parser=place)
]
Repair = Annotated[
    bool, typer.Option("--repair", help="Remove what stopped runs left; nothing committed.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]


def check(store: StorePath, repair: Repair = False, as_json: AsJson = False) -> None:
    """Verify checksums, counts and leftovers of a store; exit code 1 where it is damaged."""
    from embedstore import check as checks
    from embedstore.report.progress import progress

    with progress(err, "checking", "chunks") as show:
        checked = (checks.repair if repair else checks.check)(store, show)
    removed = [str(file) for file in checked.leftovers] if repair else []
    if as_json:
        print(json.dumps(_as_json(store, checked, removed), indent=2))
    else:
        _tell(store, checked, removed)
    if checked.damage:
        raise typer.Exit(1)


def _as_json(store: Path, checked: Checked, removed: list[str]) -> dict[str, object]:
    return {
        "path": str(store),
        "commit": checked.commit,
        "chunks": checked.chunks,
        "bytes": checked.bytes,
        "damaged": bool(checked.damage),
        "findings": [asdict(finding) for finding in checked.findings],
        "removed": removed,
    }


def _tell(store: Path, checked: Checked, removed: list[str]) -> None:
    """Say damage first, then what is harmless, then the sum of it."""
    kinds: dict[str, list[Finding]] = {}
    for finding in checked.damage + [f for f in checked.findings if f.harmless]:
        kinds.setdefault(finding.kind, []).append(finding)
    for found in kinds.values():
        for finding in found[:SHOWN]:
            say(out, f"{'note' if finding.harmless else 'damaged'}: {finding}")
        if len(found) > SHOWN:
            say(out, f"… and {len(found) - SHOWN} more such; --json lists them all")
    for file in removed[:SHOWN]:
        say(out, f"removed: {file}")
    if len(removed) > SHOWN:
        say(out, f"… and {len(removed) - SHOWN} more files removed")
    size = f"{checked.chunks} chunks, {checked.bytes} bytes"
    if checked.damage:
        say(out, f"{store}: damaged: {len(checked.damage)} findings in {size}")
    else:
        say(out, f"{store}: {size}, all as they were written")

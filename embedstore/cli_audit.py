"""``embedstore audit``: leaks, duplicates, label errors, shortcuts and outliers, on one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from embedstore.cli_choices import specs_of, split_from
from embedstore.cli_console import err, out
from embedstore.cli_probe_options import AsJson, Backbones, StorePath, Verify
from embedstore.errors import UsageError

WRONG = 3
"""Exit code where something is wrong."""

Label = Annotated[str, typer.Option(help="The column that is to be predicted.")]
SplitFrom = Annotated[
    str,
    typer.Option(
        "--split",
        metavar="FILE|column[:NAME]",
        help="The split to look at: a file made by `split`, or the table's own column of splits.",
    ),
]
Shortcuts = Annotated[
    list[str] | None,
    typer.Option(
        "--shortcut",
        metavar="COLUMN",
        help="A column the label must not be read by; by default all with 2 to 20 values.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(metavar="FILE.html", help="Write the page there, too; an earlier is replaced."),
]


def audit(
    store: StorePath,
    label: Label,
    backbone: Backbones = None,
    split: SplitFrom = "",
    shortcut: Shortcuts = None,
    html: Html = None,
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Look for leaks, duplicates, label errors, shortcuts and outliers; exit code 3 if wrong."""
    from embedstore.audit import Questions
    from embedstore.audit import audit as of_store
    from embedstore.audit.page import html as as_html
    from embedstore.audit.page import page
    from embedstore.report.progress import progress
    from embedstore.store import Store

    _check_page(html)
    asked = Questions(label, split_from(split), tuple(shortcut or ()))
    opened = Store.open(store, verify)
    opened.column(label)
    found = []
    for spec in specs_of(opened, backbone):
        with progress(err, f"auditing {spec.backbone}", "steps") as show:
            found.append(of_store(opened, spec, asked, show))
    if html:
        _write(html, as_html(found))
    if as_json:
        print(json.dumps([one.to_dict() for one in found], indent=2))
    else:
        for one in found:
            out.print(page(one))
    if any(one.of("wrong") for one in found):
        raise typer.Exit(WRONG)


def _check_page(to: Path | None) -> None:
    """Refuse a file that is there and is no page of an earlier audit, before the work."""
    from embedstore.audit.page import MARK

    if to is None:
        return
    if to.suffix.lower() not in {".html", ".htm"}:
        raise UsageError(f"--html {to}: is a page; give a name that ends in .html")
    if to.is_dir():
        raise UsageError(f"--html {to}: is a folder; give the name of a file")
    if to.exists() and not to.read_bytes().startswith(MARK.encode()):
        raise UsageError(f"--html {to}: is there and is no audit; give a name that is free")


def _write(to: Path, text: str) -> None:
    from embedstore.output import put

    with put(to, replace=True) as fresh:
        fresh.write_text(text, encoding="utf-8")

"""``embedstore export``: vectors and table as files that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore.cli_console import err, out, say
from embedstore.places import place

StorePath = Annotated[
    Path, typer.Argument(metavar="STORE", help="A store made by `extract`.", parser=place)
]
Format = Annotated[str, typer.Option("--format", help="parquet, npy, csv or fiftyone.")]
Out = Annotated[
    Path,
    typer.Option("--out", help="A file (parquet, csv) or a folder (npy, fiftyone) to make."),
]
Backbone = Annotated[
    list[str] | None,
    typer.Option(help="Name or key in the store, several times for several; by default all."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier export.")]


def export(
    store: StorePath, form: Format, to: Out, backbone: Backbone = None, force: Force = False
) -> None:
    """Write vectors and the table of samples for pandas, DuckDB, numpy or FiftyOne."""
    from embedstore.export import export as written
    from embedstore.report.progress import progress
    from embedstore.store import Store

    opened = Store.open(store, verify=True)  # an export has no checksums to look at later
    with progress(err, "exporting", "rows") as show:
        chosen = written(opened, to, form, backbone or (), force, show)
    for spec in chosen.specs:
        if missing := len(opened) - opened.count(spec):
            say(err, f"note: {missing} samples left out: no vector of {spec.backbone}")
    for note in dict.fromkeys(n for s in chosen.specs for n in opened.notes(s)):
        say(err, f"note: {note}")
    sets = ", ".join(f"{s.backbone} ({s.dim})" for s in chosen.specs)
    say(out, f"{to}: {len(chosen.rows)} of {len(opened)} samples, {sets}")

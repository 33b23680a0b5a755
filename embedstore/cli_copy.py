"""``embedstore copy``: a store to or from object storage, or another folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore.cli_console import err, out, say
from embedstore.places import place

From = Annotated[
    Path,
    typer.Argument(metavar="FROM", help="A store: a folder, or s3://bucket/name.", parser=place),
]
To = Annotated[
    Path,
    typer.Argument(
        metavar="TO", help="Where it goes; a copy that was stopped is gone on with.", parser=place
    ),
]
Verify = Annotated[bool, typer.Option("--verify", help="Read the copy once more, whole.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another store there.")]
WithKey = Annotated[
    bool,
    typer.Option(
        "--with-key", help="Also the key of the patient ids, and the linkage table, beside it."
    ),
]


def copy(
    source: From,
    target: To,
    verify: Verify = False,
    overwrite: Overwrite = False,
    with_key: WithKey = False,
) -> None:
    """Copy a store to another folder, into object storage or out of it; only what is missing."""
    from embedstore.copying import copy as run
    from embedstore.report.progress import progress

    with progress(err, "copying", "chunks") as show:
        done = run(source, target, verify, overwrite, with_key, show)
    for note in done.notes:
        say(err, f"note: {note}")
    there = f", {done.there} were there already" if done.there else ""
    say(out, f"{target}: {done.chunks} chunks copied, {done.bytes} bytes{there}")

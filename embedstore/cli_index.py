"""``embedstore index``: what `search` uses in large stores."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.cli_choices import one_spec
from embedstore.cli_console import err, out, say
from embedstore.cli_probe_options import AsJson, StorePath, Verify
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.store import Store
    from embedstore.types import Spec

RECALL = 0.99

Backbone = Annotated[str, typer.Option(help="Name or key; needed where the store has several.")]
Kind = Annotated[
    str, typer.Option(help="auto, exact, or a FAISS factory string such as HNSW32,SQfp16.")
]
Recall = Annotated[
    float,
    typer.Option(help="Share of the true 10 nearest that a search shall find.", min=0.5, max=1),
]
OnDisk = Annotated[
    bool | None,
    typer.Option(
        "--on-disk/--in-memory",
        help="Where inverted lists lie; by default on the disk where memory is short.",
        show_default=False,
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        metavar="URI",
        help="A LanceDB database to search in: a folder, or s3://, gs://, az:// or db://.",
    ),
]
Rebuild = Annotated[bool, typer.Option("--rebuild", help="Begin anew, whatever is there.")]
Drop = Annotated[bool, typer.Option("--drop", help="Remove the index; nothing else is lost.")]


def index(
    store: StorePath,
    backbone: Backbone = "",
    kind: Kind = "auto",
    recall: Recall = RECALL,
    on_disk: OnDisk = None,
    rebuild: Rebuild = False,
    drop: Drop = False,
    engine: Engine = "",
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Make the index that `search` uses in large stores, or bring it up to date.

    With --engine, copy the vectors and the table into an engine instead.
    """
    from embedstore.indexing import drop_index, make_index
    from embedstore.report.progress import progress
    from embedstore.report.search_table import index_table
    from embedstore.store import Store

    opened = Store.open(store, verify)
    spec = one_spec(opened, backbone)
    if engine:
        if on_disk is not None or recall != RECALL:
            raise UsageError("--recall, --on-disk and --in-memory are of an index, not of --engine")
        _fill(opened, spec, engine, kind, rebuild, drop, as_json)
        return
    if drop:
        gone = drop_index(opened, spec)
        say(out, f"{store}: the index is removed" if gone else f"{store}: there is no index")
        return
    with progress(err, "indexing", "vectors") as show:
        made, done = make_index(opened, spec, kind, recall, rebuild, on_disk, on_progress=show)
    if made.recall < recall:
        said = f"recall {made.recall:.3f} is less than the {recall} asked for; try another --kind"
        say(err, f"note: {said}")
    lists = re.search(r"IVF(\d+)", made.kind)
    if lists and made.probes >= int(lists[1]):
        said = "every list has to be searched, which is no faster than to compare all vectors"
        say(err, f"note: {said}; --drop it, ask for less --recall, or try another --kind")
    if as_json:
        print(json.dumps(asdict(made) | {"done": done}, indent=2))
        return
    out.print(index_table(spec.backbone, made, done))


def _fill(
    store: Store, spec: Spec, uri: str, kind: str, rebuild: bool, drop: bool, as_json: bool
) -> None:
    """Bring an engine up to date with the store, or remove what it holds of it."""
    from embedstore import engine
    from embedstore.report.progress import progress

    if drop or rebuild:
        gone = engine.drop(spec, uri)
        if drop:
            say(out, f"{uri}: {'the vectors are removed' if gone else 'there are none'}")
            return
    wanted = "" if kind in ("auto", "exact") else kind
    with progress(err, "copying", "vectors") as show:
        total, done = engine.fill(store, spec, uri, wanted, show)
    if as_json:
        print(json.dumps({"engine": engine.NAME, "uri": uri, "rows": total, "done": done}))
        return
    say(out, f"{uri}: {total} vectors of {spec.backbone}: {done}")

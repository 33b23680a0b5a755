"""``embedstore backbones``: what there is, and carrying it to a machine without internet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from embedstore import cli_names
from embedstore.cli_examples import examples
from embedstore.errors import BackboneError
from embedstore.places import quoted

app = typer.Typer(
    help="Backbones: list, show, and carry to a machine without internet.",
    epilog=examples("backbones"),
    no_args_is_help=True,
)
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", autocompletion=cli_names.backbones, help="As for `extract --backbone`."
    ),
]
To = Annotated[Path, typer.Option("--to", metavar="DIR", help="A new folder.")]


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False)


@app.command("list", epilog=examples("backbones list"))
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed backbones and whether their weights are on this machine."""
    from dataclasses import asdict

    from embedstore.backbones.catalogue import entries

    found = entries()
    if as_json:
        print(json.dumps([asdict(e) for e in found], indent=2))
        return
    table = Table("name", "source", "dim", "text", "licence", "here")
    for e in found:
        dim = str(e.dim) if e.dim else "…"
        yes = ["no", "yes"]
        table.add_row(escape(e.name), e.source, dim, yes[e.text], e.licence, yes[e.here])
    _console().print(table)


@app.command(epilog=examples("backbones show"))
def show(name: Name) -> None:
    """Load a backbone and print what is known of it, and its Spec, as JSON."""
    from dataclasses import asdict

    from embedstore.backbones import load_backbone
    from embedstore.backbones.catalogue import entry

    spec = load_backbone(name).spec
    known = {k: v for k, v in asdict(entry(name)).items() if k in {"source", "licence"}}
    print(json.dumps({"key": spec.key, **known, **spec.to_dict()}, indent=2))


@app.command(epilog=examples("backbones pull"))
def pull(name: Name, to: To) -> None:
    """Download the files of a backbone's hub page."""
    from embedstore.backbones.catalogue import pull as fetch

    _console().print(f"{fetch(name, to)}: use it with --backbone {quoted(to)}")


@app.command(epilog=examples("backbones bundle"))
def bundle(name: Name, to: To) -> None:
    """Write one folder with all a backbone needs, checksums and golden values."""
    from embedstore.backbones.bundle import bundle as write

    folder = write(name, to)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    _console().print(
        f"{folder}: {size / 1e6:.1f} MB; carry it, then "
        f"`embedstore backbones verify {quoted(folder)}`"
    )


@app.command(epilog=examples("backbones verify"))
def verify(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A bundle.")]) -> None:
    """Prove that a bundle gives the same numbers here, or say which part does not."""
    from embedstore.backbones.verify import verify as check

    checks = check(folder)
    table = Table("part", "", "seen")
    for c in checks:
        table.add_row(c.part, "[green]same" if c.ok else "[red]DIFFERS", escape(c.seen))
    _console().print(table)
    if bad := [c.part for c in checks if not c.ok]:
        raise BackboneError(f"{folder}: differs from what was bundled in: {', '.join(bad)}")

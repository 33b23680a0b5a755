"""``embedstore serve``: a local page over one store."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.cli_console import err, out, say
from embedstore.cli_probe_options import StorePath, Verify
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.server.settings import Settings

Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)]
Expose = Annotated[
    bool,
    typer.Option(
        "--expose", help="Let other machines ask, with a --host that is not this machine's alone."
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option("--allow-host", metavar="NAME", help="A host name that requests may be made to."),
]
Probes = Annotated[
    list[Path] | None,
    typer.Option("--probe", metavar="FOLDER", help="A folder made by `probe --save`; several."),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="BACKBONE=NAME",
        help="NAME, NAME@WEIGHTS or folder of a backbone that is not to be had by its own name.",
    ),
]
MaxUpload = Annotated[int, typer.Option(metavar="MB", help="The largest file sent.", min=1)]
ReadFiles = Annotated[
    bool,
    typer.Option(
        "--read-files",
        help="Make the pictures that the store does not keep from the image files it names.",
    ),
]


def serve(
    store: StorePath,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    expose: Expose = False,
    allow_host: Names = None,
    probe: Probes = None,
    model: Models = None,
    max_upload: MaxUpload = 64,
    read_files: ReadFiles = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    verify: Verify = False,
) -> None:
    """Show a store as a page on this machine: search, map, probes, prompts."""
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"serve needs {' and '.join(missing)}: pip install 'embedstore[serve]' brings it"
        )
    from embedstore.server.app import run
    from embedstore.server.settings import LOOPBACK, MIB, Settings
    from embedstore.store import Store

    if host not in LOOPBACK and not expose:
        raise UsageError(
            f"--host {host} lets other machines ask; say so with --expose, or leave --host out"
        )
    Store.open(store)  # a wrong path is told before a port that is taken
    settings = Settings(
        store.resolve(),
        host,
        port,
        frozenset(name.lower() for name in (allow_host or ()))
        | ({host.lower()} if expose else set()),
        expose,
        _named(probe or []),
        _models(model or []),
        device,
        max_upload * MIB,
        read_files,
        verify,
    )
    try:
        run(settings, _tell)
    except KeyboardInterrupt:
        say(err, "stopped")


def _tell(settings: Settings) -> None:
    say(out, settings.address)
    say(err, "whoever has this address sees the store; Ctrl-C ends it")
    if settings.exposed:
        say(err, "note: nothing is encrypted; on a network others are on, put TLS before it")


def _named(folders: list[Path]) -> dict[str, Path]:
    """Name probes by their folders, by the folders above where two are called the same."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [folder.as_posix() for folder in folders]
    return dict(zip(names, folders, strict=True))


def _models(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        backbone, equals, name = text.partition("=")
        if not (equals and backbone and name):
            raise UsageError(f"--model takes BACKBONE=NAME, not {text!r}")
        found[backbone] = name
    return found

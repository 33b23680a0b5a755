"""The command line: parse, call, print. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedstore import (
    cli_audit,
    cli_backbones,
    cli_change,
    cli_check,
    cli_copy,
    cli_export,
    cli_extract,
    cli_finetune,
    cli_index,
    cli_predict,
    cli_probe,
    cli_prompts,
    cli_prompts_bench,
    cli_retrieve,
    cli_search,
    cli_serve,
    cli_split,
    cli_study,
    cli_view,
)
from embedstore.cli_console import err, out, say, tell_failures
from embedstore.cli_examples import examples
from embedstore.errors import EmbedstoreError, ManifestError
from embedstore.places import place, quoted

if TYPE_CHECKING:
    from embedstore.store import Store

app = typer.Typer(
    help="Frozen embeddings of medical images in plain Zarr, and honest probes on them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_backbones.app, name="backbones")
app.add_typer(cli_prompts.app, name="prompts")
cli_prompts.app.command(epilog=examples("prompts bench"))(cli_prompts_bench.bench)
cli_prompts.app.command(epilog=examples("prompts use"))(cli_prompts_bench.use)
StorePath = Annotated[
    Path, typer.Argument(metavar="STORE", help="A store made by `extract`.", parser=place)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"embedstore {version('embedstore')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
]


@app.callback(epilog=examples(""))
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Version = False,
) -> None:
    """Frozen embeddings of medical images in plain Zarr, and honest probes on them."""


app.command(cls=cli_extract.Command, epilog=examples("extract"))(cli_extract.extract)
app.command(epilog=examples("probe"))(cli_probe.probe)
app.command(epilog=examples("finetune"))(cli_finetune.finetune)
app.command(epilog=examples("study"))(cli_study.study)
app.command(epilog=examples("audit"))(cli_audit.audit)
app.command(epilog=examples("predict"))(cli_predict.predict)
app.command(epilog=examples("retrieve-eval"))(cli_retrieve.retrieve_eval)
app.command(epilog=examples("split"))(cli_split.split)
app.command(epilog=examples("index"))(cli_index.index)
app.command(epilog=examples("search"))(cli_search.search)
app.command(epilog=examples("serve"))(cli_serve.serve)
app.command(epilog=examples("view"))(cli_view.view)
app.command(epilog=examples("check"))(cli_check.check)
app.command(epilog=examples("export"))(cli_export.export)
app.command(epilog=examples("update"))(cli_change.update)
app.command(epilog=examples("delete"))(cli_change.delete)
app.command(epilog=examples("compact"))(cli_change.compact)
app.command(epilog=examples("merge"))(cli_change.merge)
app.command(epilog=examples("copy"))(cli_copy.copy)


@app.command(epilog=examples("info"))
def info(store: StorePath, as_json: AsJson = False) -> None:
    """Show what a store holds and where it came from."""
    from embedstore.report.table import info_table, label_table
    from embedstore.store import Store

    opened = Store.open(store)
    counts = {n: dict(Counter(opened.column(n).tolist()).most_common()) for n in opened.labels}
    failures = opened.failures()
    if as_json:
        print(json.dumps(_info(opened, counts), indent=2))
        return
    out.print(info_table(opened))
    if counts:
        out.print(label_table(counts))
    patients = set(opened.column("group").tolist()) - {""}
    say(out, f"{len(patients)} patients, {len(failures)} failures")
    if len(opened.hidden):
        say(
            out,
            f"{len(opened.hidden)} deleted samples until `embedstore compact {quoted(store)}`",
        )
    tell_failures(failures)


@app.command(epilog=examples("phantoms"))
def phantoms(
    folder: Annotated[Path, typer.Argument(help="Where to put them.")],
    patients: Annotated[int, typer.Option(help="Four films each.", min=1)] = 40,
    size: Annotated[int, typer.Option(help="Height and width, pixels.", min=64)] = 512,
    seed: Annotated[int, typer.Option(help="The same seed, the same films.", min=0)] = 0,
) -> None:
    """Write synthetic mammograms and their manifest, for trying embedstore out."""
    from embedstore.phantoms import write

    say(out, str(write(folder, patients, seed, size)))


def main() -> None:
    """Run the command line; every error is one line unless ``--debug`` is given."""
    # a batch system ends a job with SIGTERM: to be treated as Ctrl-C is
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for noisy in ("huggingface_hub", "timm", "open_clip", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    debug = "--debug" in sys.argv[1:]
    sys.exit(_run([a for a in sys.argv[1:] if a != "--debug"], debug))


def _run(arguments: list[str], debug: bool) -> int:
    try:
        code = app(arguments, standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        say(err, "stopped; what was committed is kept: run the same command again to go on")
        return 130
    except Exception as error:  # noqa: BLE001 - the one place that guards a user from a traceback
        if debug:
            raise
        return _tell_error(error)


def _tell_error(error: Exception) -> int:
    """Say what is wrong: one line, of a manifest one a finding; return the exit code."""
    if isinstance(error, ManifestError) and len(error.problems) > 1:
        lines = (f"the manifest has {len(error.problems)} problems:", *error.problems)
        say(err, "error: " + "\n  ".join(map(_one_line, lines)))
        return error.exit_code
    if isinstance(error, EmbedstoreError):
        say(err, f"error: {_one_line(str(error))}")
        return error.exit_code
    # click's own, known by what they can do: newer typers come with a click of their own
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        if text := _one_line(error.format_message()):  # none after the help
            say(err, f"error: {text}")
        return int(error.exit_code)
    if isinstance(error, OSError):
        say(err, f"error: {_one_line(_of_the_system(error))}")
        return 1
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    say(err, f"error: {text}; run again with --debug to see where")
    return 1


def _of_the_system(error: OSError) -> str:
    """Say what a disk or a network refused, of which file where that is known."""
    reason = error.strerror or str(error) or type(error).__name__
    named = isinstance(error.filename, str | bytes)
    return f"{os.fsdecode(error.filename)}: {reason}" if named else reason


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _info(store: Store, labels: dict[str, dict[str, int]]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "path": str(store.path),
        "commit": store.commit,
        "samples": len(store),
        "deleted": len(store.hidden),
        "patients": len(set(store.column("group").tolist()) - {""}),
        "labels": labels,
        "embeddings": {
            key: {
                "spec": spec.to_dict(),
                "vectors": store.count(spec),
                "provenance": store.provenance[key],
            }
            for key, spec in store.specs.items()
        },
        "failures": [asdict(f) for f in store.failures()],
    }

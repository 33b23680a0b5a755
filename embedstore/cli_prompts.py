"""``embedstore prompts``: the sets of prompts there are, and what they make."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore import cli_names
from embedstore.cli_console import err, out, say
from embedstore.cli_examples import examples
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.prompts.expand import Variant

app = typer.Typer(
    help="Prompt sets: classes in many words, for zero-shot and text heads.",
    epilog=examples("prompts"),
    no_args_is_help=True,
)
Set = Annotated[
    str,
    typer.Argument(
        metavar="SET",
        autocompletion=cli_names.prompt_sets,
        help="A built-in set, or a .yaml or .csv file.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog=examples("prompts list"))
def list_(as_json: AsJson = False) -> None:
    """List the prompt sets that come with embedstore."""
    from rich.table import Table

    from embedstore.prompts.expand import count
    from embedstore.prompts.sets import built_in, load

    sets = [load(name) for name in built_in()]
    if as_json:
        rows = [
            {
                "name": s.name,
                "title": s.title,
                "source": s.source,
                "classes": {c: list(aliases) for c, aliases in s.classes.items()},
                "descriptions": [d.name for d in s.descriptions],
                "templates": [t.pattern.text for t in s.templates],
                "ensembles": list(s.ensembles),
                "variants": count(s),
            }
            for s in sets
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table("name", "classes", "descriptions", "templates", "variants", "title")
    for s in sets:
        numbers = (len(s.descriptions), len(s.templates), count(s))
        table.add_row(s.name, ", ".join(s.classes), *map(str, numbers), s.title)
    out.print(table)


@app.command(epilog=examples("prompts show"))
def show(name: Set) -> None:
    """Print a prompt set as it is written: a start for one of your own."""
    from embedstore.prompts.reading import read_text
    from embedstore.prompts.sets import path_of

    print(read_text(path_of(name)), end="")


@app.command(epilog=examples("prompts expand"))
def expand(
    name: Set,
    label_values: Annotated[
        str,
        typer.Option(
            metavar="V1,V2,…",
            help="How your table writes the labels; the classes' own names otherwise.",
        ),
    ] = "",
    backbone: Annotated[
        str, typer.Option(help="Check that this backbone reads every sentence whole.")
    ] = "",
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row a sentence.")] = False,
) -> None:
    """Print every variant of a prompt set, and the sentences of its ensembles."""
    from embedstore.prompts.expand import count
    from embedstore.prompts.expand import expand as variants_of
    from embedstore.prompts.sets import load

    if as_json and as_csv:
        raise UsageError("--json or --csv, not both")
    prompts = load(name)
    values = [v.strip() for v in label_values.split(",")] if label_values else None
    variants = variants_of(prompts, values)
    if backbone:
        _check(backbone, variants_of(prompts, values))
    if as_json:
        _print_json(variants)
    elif as_csv:
        _print_csv(variants)
    else:
        _print_plain(variants)
    say(err, f"{count(prompts, values)} variants")


def _check(backbone: str, variants: Iterable[Variant]) -> None:
    """Raise `UsageError` where a sentence is too long for a backbone, or it does not say."""
    from embedstore.backbones import load_backbone
    from embedstore.prompts.lengths import check_lengths

    sentences = (s for v in variants for of_class in v.sentences.values() for s in of_class)
    if not check_lengths(load_backbone(backbone), sentences):
        raise UsageError(f"{backbone} has no text side that counts tokens")


def _print_plain(variants: Iterator[Variant], shown: int = 3) -> None:
    for v in variants:
        say(out, v.name)
        for value, sentences in v.sentences.items():
            for sentence in islice(sentences, shown):
                say(out, f"  {value}  {sentence}")
            if len(sentences) > shown:
                say(out, f"  {value}  … and {len(sentences) - shown} more")


def _print_json(variants: Iterator[Variant]) -> None:
    """Print one list, a variant at a time: a set may have any number of them."""
    before = "["
    for v in variants:
        print(before + json.dumps(asdict(v), ensure_ascii=False), end="")
        before = ",\n"
    print("[]" if before == "[" else "]")


def _print_csv(variants: Iterator[Variant]) -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(("variant", "ensemble", "descriptions", "template", "class", "sentence"))
    for v in variants:
        made = [v.parts.get(k, "") for k in ("ensemble", "descriptions", "template")]
        for value, sentences in v.sentences.items():
            table.writerows((v.name, *made, value, sentence) for sentence in sentences)

"""``embedstore probe``: heads on stored vectors, their sweeps and their learning curves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedstore.cli_console import err, out, say
from embedstore.errors import DataError, UsageError

if TYPE_CHECKING:
    from embedstore.few import Few
    from embedstore.heads import Head
    from embedstore.store import Store
    from embedstore.types import Report, Spec

StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="A store made by `extract`.")]
Label = Annotated[str, typer.Option(help="The column to predict.")]
HeadNames = Annotated[
    list[str] | None,
    typer.Option(
        "--head",
        help="logistic, mlp, knn, ordinal, …, FILE.py:CLASS, or any scikit-learn classifier: "
        "sklearn.svm:LinearSVC. Several times for several.",
    ),
]
Backbones = Annotated[
    list[str] | None,
    typer.Option("--backbone", help="Name or key in the store, or all, the default."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="[HEAD.]NAME=VALUE", help="A parameter of the heads: C=0.1."),
]
Sweep = Annotated[
    bool,
    typer.Option("--sweep", help="Choose parameters for each fold, on its training side alone."),
]
GridValues = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="[HEAD.]NAME=V1,V2,…",
        help="What --sweep tries instead of the head's own grid.",
    ),
]
FewShot = Annotated[
    str, typer.Option(help="Learning curve: train on so many images of each class: 1,2,4,8,16.")
]
Fractions = Annotated[
    str, typer.Option("--label-fraction", help="Learning curve by share of labels: 0.1,0.5,1.")
]
Folds = Annotated[int, typer.Option(help="Folds, by patient.", min=2)]
TestShare = Annotated[
    float, typer.Option(help="One holdout of this share instead of folds.", min=0, max=0.5)
]
Repeats = Annotated[
    int | None,
    typer.Option(help="Fold seeds to average over; by default 1, of learning curves 10.", min=1),
]
Seed = Annotated[int, typer.Option(help="The first fold seed.", min=0)]
Order = Annotated[
    str, typer.Option(help="Classes in clinical order, comma-separated, for quadratic kappa.")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Compare the checksum of all that is read from the store.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def probe(
    store: StorePath,
    label: Label,
    head: HeadNames = None,
    backbone: Backbones = None,
    set_: Settings = None,
    sweep: Sweep = False,
    grid: GridValues = None,
    few_shot: FewShot = "",
    label_fraction: Fractions = "",
    folds: Folds = 5,
    test_share: TestShare = 0.0,
    repeats: Repeats = None,
    seed: Seed = 0,
    order: Order = "",
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Train heads on stored vectors and score them by patient, with intervals and floors."""
    from embedstore.evaluate import evaluate
    from embedstore.heads import grids, load_heads
    from embedstore.report.progress import progress
    from embedstore.report.table import probe_table
    from embedstore.store import Store

    heads = load_heads(head or ["logistic"], set_ or [])
    if grid and not sweep:
        raise UsageError("--grid says what --sweep tries; give --sweep too")
    tried = grids(heads, grid or []) if sweep else {}
    curve = _curve(few_shot, label_fraction, sweep)
    opened = Store.open(store, verify)
    opened.column(label)
    if label in {"id", "group"}:
        raise UsageError(f"--label {label} says who an image is of; there is nothing to predict")
    classes = tuple(c.strip() for c in order.split(",") if c.strip())
    seeds = repeats or (10 if few_shot or label_fraction else 1)
    jobs = list(_jobs(specs_of(opened, backbone), heads, curve))
    reports = []
    with progress(err, "probing", "evaluations") as show:
        show(0, len(jobs))
        read: dict[str, Any] = {}
        for spec, one, few in jobs:
            read = read if spec.key in read else {spec.key: opened.read(spec)}
            report = evaluate(
                read[spec.key],
                *(label, one, one.name, folds, test_share, seeds, seed, classes),
                grid=tried.get(one.name),
                few=few,
            )
            reports.append(replace(report, notes=report.notes + opened.notes(spec)))
            show(len(reports), len(jobs))
    if as_json:
        # a plug-in's parameters may be anything
        print(json.dumps([r.to_dict() for r in reports], indent=2, default=str))
        return
    out.print(probe_table(reports))
    _tell(reports)


def _jobs(
    specs: Sequence[Spec], heads: Sequence[Head], curve: Sequence[Few | None]
) -> Iterator[tuple[Spec, Head, Few | None]]:
    for spec in specs:
        for head in heads:
            for few in curve:
                yield spec, head, few


def _tell(reports: Sequence[Report]) -> None:
    for note in dict.fromkeys(n for r in reports for n in r.notes):
        say(out, f"note: {note}")


def specs_of(store: Store, names: list[str] | None) -> list[Spec]:
    """Return the Specs of these backbones, or all, that have vectors.

    Raises
    ------
    DataError
        There are none.
    """
    some = None if names in (None, [], ["all"]) else names
    named = [store.find(name) for name in some] if some else store.specs.values()
    specs = [s for s in dict.fromkeys(named) if store.count(s)]
    if not specs:
        which = f" of {', '.join(some)}" if some else ""
        raise DataError(f"{store.path}: holds no vectors{which} yet; run `embedstore extract`")
    return specs


def _curve(few_shot: str, fractions: str, sweep: bool) -> list[Few | None]:
    """Return how much is learnt from, one after the other; None is everything."""
    from embedstore.few import Few

    if few_shot and fractions:
        raise UsageError("give --few-shot or --label-fraction, not both")
    if not few_shot and not fractions:
        return [None]
    if sweep:
        raise UsageError(
            "--sweep needs more labels than a learning curve begins with: leave it out"
        )
    if few_shot:
        return [Few(of_each_class=_whole(n)) for n in few_shot.split(",")]
    return [Few(share=_share(n)) for n in fractions.split(",")]


def _whole(text: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise UsageError(f"--few-shot takes whole numbers from 1 up, such as 1,2,4; not {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--label-fraction takes shares such as 0.1,0.5,1; not {text!r}")
    return share

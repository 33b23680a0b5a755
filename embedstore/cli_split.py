"""``embedstore split``: who is tested when, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.cli_console import one_of, out, say
from embedstore.errors import UsageError
from embedstore.places import place

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedstore.types import Embeddings, Split

KINDS = ("kfold", "holdout", "site", "time", "column")
_KINDS_OF = {
    "folds": ("kfold",),
    "test_share": ("holdout", "time"),
    "seed": ("kfold", "holdout"),
}
"""Options that only some kinds use."""
_WHY_OUTSIDE = {
    "site": "of another value than most of their patient's, or of none",
    "column": "the column is empty for them",
}

StorePath = Annotated[
    Path, typer.Argument(metavar="STORE", help="A store made by `extract`.", parser=place)
]
Label = Annotated[str, typer.Option(help="The column to stratify by; images without it stay out.")]
Out = Annotated[Path, typer.Option("--out", metavar="FILE.json", help="Where the split goes.")]
Kind = Annotated[
    str,
    typer.Option(
        help="kfold, holdout, site (each value of --column tested once), time (the last patients "
        "by --column), column (train, val and test, or fold numbers, in --column)."
    ),
]
By = Annotated[
    str,
    typer.Option(
        help="What stays on one side: patient (with exams and identical files), exam, a column "
        "such as site, or image, which leaks and is for comparison."
    ),
]
Column = Annotated[
    str, typer.Option(help="The column of kinds site, time and column (there `split` by default).")
]
Folds = Annotated[int, typer.Option(help="Folds of kfold.", min=2)]
Repeats = Annotated[int, typer.Option(help="So many of kfold or holdout, seed after seed.", min=1)]
TestShare = Annotated[float, typer.Option(help="Of holdout and time.", min=0, max=0.5)]
ValidationShare = Annotated[
    float, typer.Option(help="Of what a holdout learns from, set aside to calibrate on.", min=0)
]
Seed = Annotated[int, typer.Option(help="The first seed.", min=0)]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


def split(
    context: typer.Context,
    store: StorePath,
    label: Label,
    to: Out,
    kind: Kind = "kfold",
    by: By = "patient",
    column: Column = "",
    folds: Folds = 5,
    repeats: Repeats = 1,
    test_share: TestShare = 0.2,
    validation_share: ValidationShare = 0.0,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write down who is learnt from and who is tested, for every later comparison."""
    from embedstore.leaks import leaks
    from embedstore.output import refuse
    from embedstore.report.table import split_table
    from embedstore.split_files import SavedSplit
    from embedstore.splits import with_validation
    from embedstore.types import OUTSIDE

    one_of("--kind", kind, KINDS)
    _refuse_unused(context, kind)
    column = _column(kind, column, by, repeats)
    refuse(to, force, ())
    embeddings, labels = _labelled(store, label)
    made = [
        _made(embeddings, labels, kind, by, column, folds, test_share, s)
        for s in range(seed, seed + repeats)
    ]
    if validation_share:
        made = [with_validation(embeddings, labels, s, validation_share, by) for s in made]
    saved = SavedSplit(kind, by, label, tuple(made))
    saved.save(to, labels, force)
    values = embeddings.columns[column] if kind == "site" else None
    names = [str(values[test[0]]) for _, test in made[0]] if values is not None else ()
    out.print(split_table(made[0], labels, embeddings.groups, names))
    if outside := int((made[0].fold == OUTSIDE).sum()):
        say(out, f"note: {outside} images outside the split: {_WHY_OUTSIDE[kind]}")
    if untested := sorted(set(labels.tolist()) - set(labels[made[0].fold >= 0].tolist())):
        say(out, f"note: never tested: {', '.join(untested)}")
    found = next((found for one in made if (found := leaks(embeddings, one))), [])
    for leak in found:
        say(out, f"LEAK: {leak}")
    if found:
        say(out, "`embedstore probe` refuses this split unless --allow-leak is given")
    say(out, f"{to}: {len(labels)} images, fingerprint {saved.fingerprint}")


def _refuse_unused(context: typer.Context, kind: str) -> None:
    """Refuse an option that was given and that the kind does not use."""
    for name, kinds in _KINDS_OF.items():
        given = context.get_parameter_source(name)
        if kind not in kinds and given is not None and given.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is of --kind {' and '.join(kinds)}, not of {kind}")


def _column(kind: str, column: str, by: str, repeats: int) -> str:
    """Return the column to go by; `UsageError` for what does not go with the kind."""
    if kind in {"kfold", "holdout"}:
        if column:
            raise UsageError(
                f"--kind {kind} takes no --column; --by {column} keeps its values whole"
            )
        return ""
    if repeats > 1:
        raise UsageError(f"--kind {kind} is the same for every seed: leave --repeats out")
    if by != "patient":
        raise UsageError(f"--kind {kind} goes by patient and --column: leave --by out")
    if not column and kind != "column":
        raise UsageError(f"--kind {kind} needs --column")
    return column or "split"


def _labelled(path: Path, label: str) -> tuple[Embeddings, NDArray[np.str_]]:
    """Return what is known of every image with a label, whatever backbones there are."""
    from embedstore.linkage import samples_of
    from embedstore.protocol import labelled
    from embedstore.store import Store

    store = Store.open(path)
    store.column(label)
    kept, labels, left_out = labelled(samples_of(store), label)
    if left_out:
        say(out, f"note: {left_out} images without {label} left out")
    return kept, labels


def _made(
    embeddings: Embeddings,
    labels: NDArray[np.str_],
    kind: str,
    by: str,
    column: str,
    folds: int,
    test_share: float,
    seed: int,
) -> Split:
    from embedstore.split_columns import from_column, in_time, sites
    from embedstore.splits import holdout, kfold

    if kind == "kfold":
        return kfold(embeddings, labels, folds, seed, by)
    if kind == "holdout":
        return holdout(embeddings, labels, test_share, seed, by)
    if kind == "site":
        return sites(embeddings, labels, column)
    if kind == "time":
        return in_time(embeddings, labels, column, test_share)
    return from_column(embeddings, labels, column)

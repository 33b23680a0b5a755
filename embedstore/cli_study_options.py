"""The options of ``embedstore study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore import cli_names

Source = Annotated[
    Path,
    typer.Argument(
        metavar="STUDY.toml|STORE|MANIFEST",
        help="A file that says all; or a store, or what `extract` takes, with options.",
    ),
]
To = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Where all goes; the same command goes on with what is there. By default the file's "
        "name without .toml, else study.",
    ),
]
Protocol = Annotated[
    str,
    typer.Option(
        "--recipe",
        help="molina2025: the three scenarios of arXiv 2506.13964 by its protocol, and beside it "
        "by the corrected one.",
    ),
]
Label = Annotated[str, typer.Option(help="The column to predict.")]
Title = Annotated[str, typer.Option(help="Of the page.")]
Backbones = Annotated[
    list[str] | None, typer.Option("--backbone", help="Name or key; of a store, all by default.")
]
Heads = Annotated[
    list[str] | None, typer.Option("--head", autocompletion=cli_names.heads, help="As for `probe`.")
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(metavar="BACKBONE=SET", help="A prompt set on the vectors of a backbone."),
]
Finetunes = Annotated[
    list[str] | None,
    typer.Option(
        "--finetune",
        autocompletion=cli_names.backbones,
        metavar="BACKBONE",
        help="To be fine-tuned.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the fine-tunes: epochs=5."),
]
Order = Annotated[str, typer.Option(help="Classes in clinical order, comma-separated.")]
SplitFrom = Annotated[
    str, typer.Option("--split", metavar="FILE|column[:NAME]", help="As for `probe`.")
]
Folds = Annotated[int | None, typer.Option(help="Folds by patient.", min=2)]
TestShare = Annotated[
    float, typer.Option(help="One holdout by patient of this share.", min=0, max=0.5)
]
Seed = Annotated[int, typer.Option(help="Of all that is drawn.", min=0)]
Level = Annotated[
    str, typer.Option(help="What one answer is of: image, view, breast, exam or patient.")
]
Groupings = Annotated[
    list[str] | None,
    typer.Option("--grouping", metavar="CLASS,…", help="Score these against all others, too."),
]
By = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN[:EDGES]", help="Scores of each vendor, view, … alone, too."),
]
Metric = Annotated[
    str, typer.Option(help="What wordings are ranked by, and parity is told by; auroc by default.")
]
Reference = Annotated[
    str, typer.Option(help="The contender the others are compared with; the first by default.")
]
Fractions = Annotated[
    str, typer.Option("--label-fraction", help="Learning curves by shares of labels: 0.1,0.5,1.")
]
Sweep = Annotated[
    bool, typer.Option(help="Choose the heads' parameters on the training side of each fold.")
]
Audit = Annotated[bool, typer.Option(help="Audit the vectors and the split.")]
Map = Annotated[bool, typer.Option("--map/--no-map", help="Draw a map of the vectors.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps: for embedding and fine-tunes.")]

"""The options of ``embedstore probe``, some of which other commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore import cli_names
from embedstore.places import place

StorePath = Annotated[
    Path, typer.Argument(metavar="STORE", help="A store made by `extract`.", parser=place)
]
Label = Annotated[str, typer.Option(help="The column to predict.")]
HeadNames = Annotated[
    list[str] | None,
    typer.Option(
        "--head",
        autocompletion=cli_names.heads,
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
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="CLASS=SENTENCE",
        help="A description of a class, for the heads zeroshot and text; several for a class count "
        "as their mean.",
    ),
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Such CLASS=SENTENCE lines in a file, as `prompts use --to` writes it.",
    ),
]
TextBackbone = Annotated[
    str,
    typer.Option(
        help="NAME or NAME@WEIGHTS that reads --prompt; by default the vectors' own by name."
    ),
]
Save = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Fit to all labelled images and save for `predict`; a sub-folder for each of several.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace saved probes that are there.")]
SplitFrom = Annotated[
    str,
    typer.Option(
        "--split",
        metavar="FILE|column[:NAME]",
        help="In place of folds: a file made by `split`, or the column of the table that says it "
        "(`split` or NAME).",
    ),
]
AllowLeak = Annotated[
    bool,
    typer.Option(
        "--allow-leak",
        help="Go on with a split that has patients, exams or files on both sides; the report says "
        "so.",
    ),
]
Folds = Annotated[int | None, typer.Option(help="Folds, by patient; by default 5.", min=2)]
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
Level = Annotated[
    str, typer.Option(help="What one answer is of: image, view, breast, exam or patient.")
]
Fuse = Annotated[
    str,
    typer.Option(
        help="How images become one above the level of images: probabilities (their mean), or "
        "vectors before the head sees them: mean, max, concat (of sides and views)."
    ),
]
By = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN[:EDGES]",
        help="Scores of each vendor, site, view … alone, too; numbers by bands: age:40,50,60.",
    ),
]
Calibrate = Annotated[
    bool,
    typer.Option("--calibrate", help="Temper probabilities by the answers for other patients."),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help="What the table shows: auroc, f1:B, log_loss, 'C+D: auroc' …; --json has all.",
    ),
]
Groupings = Annotated[
    list[str] | None,
    typer.Option(
        "--grouping",
        metavar="CLASS,…",
        help="Score these classes against all others, too: C,D for dense breasts.",
    ),
]
Reference = Annotated[
    str,
    typer.Option(help="HEAD or BACKBONE/HEAD the others are compared with; by default the first."),
]
Reliability = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw reliability diagrams there: .png, .svg or .pdf."),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Draw scores with intervals and floors there, or learning curves: .png, .svg or .pdf.",
    ),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Compare the checksum of all that is read from the store.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

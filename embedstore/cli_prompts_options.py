"""The options of ``embedstore prompts bench`` and ``use``, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore import cli_names

Sets = Annotated[
    list[str],
    typer.Option(
        "--set",
        autocompletion=cli_names.prompt_sets,
        help="A built-in prompt set, or a .yaml or .csv file; several compete.",
    ),
]
Backbone = Annotated[
    str, typer.Option(help="Name or key; needed where several in the store have a text side.")
]
TextBackbone = Annotated[
    str,
    typer.Option(
        help="NAME or NAME@WEIGHTS that reads sentences which the store does not keep; by default "
        "the vectors' own by name."
    ),
]
Device = Annotated[str, typer.Option(help="For encoding sentences: auto, cpu, cuda, cuda:1, mps.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help="auroc, macro_f1, quadratic_kappa …; several times for more columns, the first is "
        "what variants are ranked and chosen by.",
    ),
]
Metric = Annotated[str, typer.Option(help="What variants are chosen by: auroc, macro_f1, …")]
Level = Annotated[
    str,
    typer.Option(
        help="image, or a view, breast, exam or patient by the mean of its images' vectors."
    ),
]
Baseline = Annotated[
    str,
    typer.Option(
        metavar="VARIANT",
        help="What others are compared with, by its name or what is before the colon; by default "
        "the first of the first set.",
    ),
]
Top = Annotated[int, typer.Option(help="Lines of the ranking.", min=1)]
Limit = Annotated[
    int, typer.Option(help="Draw so many variants at random; by default all compete.", min=0)
]
Scale = Annotated[
    float,
    typer.Option(
        "--logit-scale",
        help="What cosines are multiplied by before the softmax; by default the model's own.",
        min=0,
    ),
]
Search = Annotated[
    bool,
    typer.Option(
        "--search/--no-search",
        help="Also look for an ensemble, and for each class's own wording, that do better.",
    ),
]
Csv = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", help="Write the scores of every variant.")
]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw what words do there: .png, .svg or .pdf."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]
Best = Annotated[bool, typer.Option("--best", help="Take the best variant.")]
Ensemble = Annotated[bool, typer.Option("--ensemble", help="Take a greedy ensemble.")]
PerClass = Annotated[bool, typer.Option("--per-class", help="Choose each class's wording alone.")]
Named = Annotated[
    str, typer.Option(metavar="VARIANT", help="Take this one, as `bench` and `expand` name it.")
]
To = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write CLASS=SENTENCE lines, for `probe --prompts FILE`."),
]
Save = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Save the head for `embedstore predict`.")
]

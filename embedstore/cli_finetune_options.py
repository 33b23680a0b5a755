"""The options of ``embedstore finetune`` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore import cli_names
from embedstore.places import place

Source = Annotated[
    Path,
    typer.Argument(
        metavar="STORE|MANIFEST",
        help="A store with pictures of the backbone (`extract --keep-pixels`), or what `extract` "
        "takes, which is then extracted into the run's folder first.",
        parser=place,
    ),
]
Backbone = Annotated[
    str,
    typer.Option(
        autocompletion=cli_names.backbones,
        help="NAME, NAME@WEIGHTS or a model folder; of a store, the name it has there.",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="NAME, NAME@WEIGHTS or a folder that holds the model of the store's vectors; by "
        "default --backbone."
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="RUN",
        help="The run's folder; the same command goes on with what is there.",
    ),
]
Recipe = Annotated[
    str,
    typer.Option(
        help="default, or molina2025: the study's training, on its pictures (squashed, not "
        "normalised)."
    ),
]
Objective = Annotated[
    str | None, typer.Option(help="cross-entropy, ordinal, or contrastive against --prompt.")
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the images.", min=1)]
Batch = Annotated[int | None, typer.Option(help="Images of a step.", min=1)]
MicroBatch = Annotated[
    int | None,
    typer.Option(help="Images at a time on the device, summed up to --batch; 0: all.", min=0),
]
Rate = Annotated[float | None, typer.Option(help="Learning rate of the last layer.")]
Freeze = Annotated[int | None, typer.Option(help="Leave the first stages as they are.", min=0)]
Lora = Annotated[int | None, typer.Option(help="Rank of low-rank adapters.", min=0)]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting: layer_decay=0.8, ema=0.999, mixup=0.2, start=random, …",
    ),
]
TestShare = Annotated[
    float,
    typer.Option(help="One holdout of this share, unless --split or --folds.", min=0.01, max=0.5),
]
Folds = Annotated[
    int | None, typer.Option(help="Folds by patient instead: one fine-tune each.", min=2)
]
Seed = Annotated[int, typer.Option(help="Of the split and of all that is drawn.", min=0)]
Against = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[BACKBONE/]HEAD",
        help="Frozen probes judged beside it on the same images and split, their parameters "
        "chosen on the training side; by default logistic, or none.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
Devices = Annotated[int, typer.Option(help="How many of them.", min=1)]
Strategy = Annotated[
    str, typer.Option(help="How several devices share the work, as Lightning names it: ddp, fsdp.")
]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16.")]
Workers = Annotated[int, typer.Option(help="Processes that read pictures; 0: none.", min=0)]
MaxMinutes = Annotated[
    float, typer.Option(help="End each fine-tune after so long; 0: when it is done.", min=0)
]
Logger = Annotated[str, typer.Option(help="tensorboard, wandb, mlflow or none.")]

"""The options of ``embedstore extract``, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Manifest = Annotated[
    Path,
    typer.Argument(help="A .csv or .parquet table, or a folder whose sub-folders are classes."),
]
StoreOption = Annotated[Path, typer.Option(help="The store; made, or added to.")]
Backbone = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME[@WEIGHTS] or a model folder, several times for several: biomedclip, "
        "convnext_tiny, timm:MODEL, open_clip:MODEL@TAG, statistics; @FILE or @random."
    ),
]
Recipe = Annotated[str, typer.Option(help="Preprocessing: mammography, plain, molina2025.")]
Resize = Annotated[
    str, typer.Option(help="pad, squash or centre-crop instead of the recipe's own.")
]
Pooling = Annotated[str, typer.Option(help="projected or pre-projection, for open_clip models.")]
Column = Annotated[
    list[str] | None,
    typer.Option(
        help="ROLE=NAME for columns without a usual name; roles: image, id, patient, exam, "
        "view, laterality, split."
    ),
]
Label = Annotated[
    list[str] | None, typer.Option(help="Label columns to keep; by default all small ones.")
]
Root = Annotated[
    Path | None, typer.Option(help="Where relative image paths start; by default the table.")
]
PatientIds = Annotated[
    str, typer.Option(help="hash: keyed hashes, the key beside the store; keep: as they are.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16.")]
BatchSize = Annotated[int, typer.Option(help="0: chosen by the device.", min=0)]
Workers = Annotated[int, typer.Option(help="Reader processes; -1: chosen.", min=-1)]
Strict = Annotated[bool, typer.Option(help="Stop at the first unusable image.")]
RetryFailures = Annotated[bool, typer.Option(help="Try failed images again.")]

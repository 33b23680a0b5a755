"""The options of ``embedstore extract``, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore import cli_names
from embedstore.places import place

Manifest = Annotated[
    Path,
    typer.Argument(
        help="A .csv or .parquet table, a folder whose sub-folders are classes, or a folder or "
        "DICOMDIR of DICOM files.",
        metavar="MANIFEST",
        parser=place,
    ),
]
StoreOption = Annotated[
    Path, typer.Option(metavar="PATH", help="The store; made, or added to.", parser=place)
]
Backbone = Annotated[
    list[str] | None,
    typer.Option(
        autocompletion=cli_names.backbones,
        help="NAME, NAME@WEIGHTS or a model folder, several times for several: biomedclip, "
        "convnext_tiny, timm:MODEL, open_clip:MODEL@TAG, statistics, phantom-clip; @FILE or "
        "@random.",
    ),
]
Recipe = Annotated[str, typer.Option(help="Preprocessing: mammography, plain, molina2025.")]
Resize = Annotated[
    str, typer.Option(help="pad, squash or centre-crop instead of the recipe's own.")
]
Exact = Annotated[
    bool, typer.Option("--exact", help="Decode files in full, not only as far as the recipe needs.")
]
Window = Annotated[
    int, typer.Option(help="Which window or VOI LUT of a DICOM file, from 0.", min=0)
]
Frames = Annotated[
    str,
    typer.Option(help="Of DICOM files of several frames: first, middle, a number, every:N."),
]
Join = Annotated[
    Path | None,
    typer.Option(
        metavar="TABLE",
        help="A table that labels the images of a DICOM archive.",
        parser=place,
    ),
]
On = Annotated[
    str,
    typer.Option(
        metavar="KEY[=COLUMN]",
        help="What --join goes by: PatientID, AccessionNumber, SOPInstanceUID.",
    ),
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
    list[str] | None,
    typer.Option(help="Label columns to keep; by default those of at most 50 values."),
]
Root = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="Where relative image paths start; by default the table.", parser=place
    ),
]
PatientIds = Annotated[
    str, typer.Option(help="hash: keyed hashes, the key beside the store; keep: as they are.")
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:1, mps; several GPUs with commas: cuda:0,cuda:1.")
]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16.")]
BatchSize = Annotated[
    int, typer.Option(help="0: as the store was begun, else found by trying.", min=0)
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Run backbones through torch.compile; slow to begin.")
]
Workers = Annotated[
    int, typer.Option(help="Reader processes; -1: chosen; 0: none, unprotected.", min=-1)
]
FileTimeout = Annotated[float, typer.Option(help="Seconds one file may take.", min=0.1)]
KeepPixels = Annotated[
    bool,
    typer.Option("--keep-pixels", help="Keep the pictures the backbones see, for other backbones."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first unusable image.")]
RetryFailures = Annotated[bool, typer.Option("--retry-failures", help="Try failed images again.")]
Ray = Annotated[
    str,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Embed on the nodes of a Ray cluster: HOST:PORT, or auto for the one this machine "
        "belongs to; without an address, a Ray of this machine alone.",
    ),
]

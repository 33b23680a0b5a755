"""``embedstore predict``: a saved probe on the vectors of a store or on new images."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore import cli_names
from embedstore.cli_console import err, one_of, out, pairs, say, tell_failures
from embedstore.errors import DataError, UsageError
from embedstore.output import refuse
from embedstore.places import place

if TYPE_CHECKING:
    from embedstore.predict import Prediction
    from embedstore.saved import SavedProbe
    from embedstore.store import Store

ProbePath = Annotated[
    Path, typer.Argument(metavar="PROBE", help="A folder made by `probe --save`.")
]
Source = Annotated[
    Path,
    typer.Argument(
        metavar="STORE|IMAGES", help="A store, or a table or folder of images.", parser=place
    ),
]
HeadFile = Annotated[
    str,
    typer.Option("--head", help="FILE.py:CLASS or MODULE:CLASS, for a probe whose head is that."),
]
BackboneName = Annotated[
    str,
    typer.Option(
        "--backbone",
        autocompletion=cli_names.backbones,
        help="NAME or NAME@WEIGHTS for new images; by default the probe's own by name.",
    ),
]
Column = Annotated[
    list[str] | None, typer.Option(help="ROLE=NAME for columns without a usual name.")
]
By = Annotated[str, typer.Option(help="image or exam: the mean over an exam's images.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="CSV", help="Write a table there.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the table of --out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

SHOWN = 20
"""Rows of the printed table; `--out` and `--json` have all."""


def predict(
    probe: ProbePath,
    source: Source,
    backbone: BackboneName = "",
    head: HeadFile = "",
    column: Column = None,
    by: By = "image",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    workers: Annotated[int, typer.Option(help="Reader processes; -1: chosen.", min=-1)] = -1,
    to: Out = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Give each image, or each exam, the calibrated probability of each class."""
    one_of("--by", by, ("image", "exam"))
    if not source.exists():
        raise UsageError(f"{source}: no such store, table or folder")
    if to:
        refuse(to, force, ())

    # torch takes seconds: what can be refused without it has been
    from embedstore import saved
    from embedstore.predict import predictions, rows, write_csv
    from embedstore.report.table import prediction_table
    from embedstore.store import Store

    loaded = saved.load(probe, head)
    if (source / "zarr.json").exists():
        found = predictions(loaded, Store.open(source).read(loaded.spec.key), by)
    else:
        with TemporaryDirectory() as folder:
            if not backbone and (probe.parent / "fold.json").exists():  # of a fine-tune
                backbone = str(probe.parent)
            store = _extracted(loaded, source, backbone, column, by, device, workers, Path(folder))
            found = predictions(loaded, store.read(loaded.spec.key), by)
    if to:
        write_csv(found, to, force)
        say(out, f"{to}: {len(found.ids)} rows")
        _tell_notes(loaded)
    elif as_json:
        print(json.dumps(rows(found), indent=2))
    else:
        out.print(prediction_table(found, SHOWN))
        _tell_rest(found, loaded)


def _tell_rest(found: Prediction, probe: SavedProbe) -> None:
    if len(found.ids) > SHOWN:
        say(out, f"… and {len(found.ids) - SHOWN} more; --out FILE.csv or --json has all")
    _tell_notes(probe)


def _tell_notes(probe: SavedProbe) -> None:
    for note in probe.report.notes:
        say(out, f"note, of the probe's own scores: {note}")


def _extracted(
    probe: SavedProbe,
    source: Path,
    backbone: str,
    column: list[str] | None,
    by: str,
    device: str,
    workers: int,
    folder: Path,
) -> Store:
    """Embed the images as the probe's vectors were made, into a store that does not last."""
    from embedstore.archive import holds_dicom
    from embedstore.cli_extract import archived_images
    from embedstore.embed import embed_images
    from embedstore.manifest import read_manifest
    from embedstore.predict import NO_EXAM
    from embedstore.readers import SECONDS
    from embedstore.report.progress import progress

    if source.is_dir() and holds_dicom(source):
        table = archived_images(source, None, "", None, "first", workers, SECONDS)
    else:
        table = read_manifest(source, pairs(column or []))
    samples = table.samples
    if by == "exam" and not any(s.exam for s in samples):
        raise UsageError(NO_EXAM)
    with progress(err, "extracting") as show:
        store, summary = embed_images(
            samples, folder, probe.spec, probe.precision, backbone, device, workers, show
        )
    tell_failures(summary.failures)
    if len(summary.failures) == len(samples):
        raise DataError(f"none of the {len(samples)} images could be used")
    return store

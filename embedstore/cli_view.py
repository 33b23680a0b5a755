"""``embedstore view``: a contact sheet of what a recipe does to films, for checking by eye."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore import cli_options as given
from embedstore.cli_console import err, out, say
from embedstore.errors import DataError, EmbedstoreError, ImageError, UsageError
from embedstore.places import place

if TYPE_CHECKING:
    from PIL import Image

    from embedstore.report.sheet import Row, Unread
    from embedstore.types import Recipe

MOST_ROWS = 50
"""Films on one sheet: at 224 pixels some 25,000 of height, which viewers still open."""

_WORKERS = 2
_STARTS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"P2", b"P5")

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", help="Images, or folders of images.", parser=place),
]
To = Annotated[Path, typer.Option(help="The sheet, a PNG; an earlier sheet is replaced.")]
Size = Annotated[
    int, typer.Option(help="Height and width of what the model sees, pixels.", min=8, max=1024)
]
FrameNumber = Annotated[
    int, typer.Option(help="Which frame of a DICOM file of several, from 0.", min=0)
]


def view(
    files: Files,
    to: To = Path("sheet.png"),
    recipe: given.Recipe = "mammography",
    resize: given.Resize = "",
    size: Size = 224,
    exact: given.Exact = False,
    window: given.Window = 0,
    frame: FrameNumber = 0,
) -> None:
    """Draw films as decoded, as cropped and as a model sees them, for checking by eye."""
    from dataclasses import replace

    from embedstore.images.recipe import named
    from embedstore.report.sheet import sheet

    _check_target(to)
    chosen = replace(named(recipe, resize, exact, window), size=(size, size))
    listed, total = _listed(files, to)
    rows = _rows(listed, frame, chosen)
    heading = [f"Recipe {chosen.name}, resize {chosen.resize}, window {window}"]
    if total > len(listed):
        heading.append(f"the first {len(listed)} of {total} files")
        say(err, f"note: {heading[-1]} are on the sheet")
    _write(to, sheet(rows, chosen.size, heading))
    say(out, str(to))


def _rows(listed: Sequence[Path], number: int, recipe: Recipe) -> list[Row | Unread]:
    """Read the files; say which could not be, or `DataError` where none could."""
    from embedstore.look import look
    from embedstore.readers import read_each
    from embedstore.report.sheet import Unread

    rows: list[Row | Unread] = []
    failed = []
    jobs = [(path, number, recipe) for path in listed]
    for path, row in zip(listed, read_each(look, jobs, _WORKERS), strict=True):
        if isinstance(row, ImageError):
            failed.append(f"{path}: {row}")
            rows.append(Unread(path.name, str(row)))
        else:
            rows.append(row)
    if len(failed) == len(rows):
        what = failed[0] if len(rows) == 1 else f"none of {len(rows)} files; {failed[0]}"
        raise DataError(f"nothing to show: {what}")
    for line in failed:
        say(err, f"failed: {line}")
    return rows


def _check_target(to: Path) -> None:
    """Refuse a path that is no PNG's, or a file that is there and no sheet: it may be a film."""
    from embedstore.report.sheet import is_sheet

    if to.suffix.lower() != ".png":
        raise UsageError(f"--to {to}: a sheet is a PNG; give a name that ends in .png")
    if not os.path.isdir(to.parent):
        raise UsageError(f"--to {to}: there is no folder {to.parent}; make it first")
    if os.path.exists(to) and not is_sheet(_start(to)):
        raise UsageError(f"--to {to}: is there and is no sheet; give a name that is free")


def _listed(asked: Sequence[Path], to: Path) -> tuple[list[Path], int]:
    """Files as given, folders as the images in them; the first of them, and how many there are."""
    files: dict[Path, bool] = {}
    for path in asked:
        if os.path.isdir(path):
            inner = sorted(p for p in path.rglob("*") if _may_be_image(p, path))
            files |= dict.fromkeys((p for p in inner if p.resolve() != to.resolve()), False)
        else:
            files[path] = True
    shown = list(islice((p for p, named in files.items() if named or _shows(p)), MOST_ROWS))
    if not shown:
        folders = ", ".join(map(str, asked))
        raise UsageError(f"no images in {folders}; give image files, or a folder of them")
    return shown, len(files) if len(shown) == MOST_ROWS else len(shown)


def _may_be_image(path: Path, folder: Path) -> bool:
    """Tell by the first bytes; hidden files are not looked at."""
    from embedstore.images.dicom_tags import is_dicom

    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    if hidden or not os.path.isfile(path):
        return False
    start = _start(path)
    return start.startswith(_STARTS) or is_dicom(start)


def _shows(path: Path) -> bool:
    """Leave out what DICOM has besides images; a file that cannot be read is to be seen as such."""
    from embedstore.images.dicom_tags import is_dicom, tags

    try:
        return not is_dicom(_start(path)) or tags(path).rows > 0
    except ImageError:
        return True


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(256)
    except OSError:
        return b""


def _write(to: Path, drawn: Image.Image) -> None:
    from embedstore.report.sheet import png

    try:
        to.write_bytes(png(drawn))
    except OSError as error:
        reason = error.strerror or str(error)
        raise EmbedstoreError(f"{to}: cannot be written: {reason}; give another --to") from error

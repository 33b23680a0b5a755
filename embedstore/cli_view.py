"""``embedstore view``: a contact sheet of what a recipe does to films, for checking by eye."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from embedstore import cli_options as given
from embedstore.cli_console import err, one_of, out, say
from embedstore.errors import DataError, EmbedstoreError, ImageError, UsageError

if TYPE_CHECKING:
    from PIL import Image

    from embedstore.images.anatomy import Finding
    from embedstore.images.dicom_tags import Tags
    from embedstore.images.recipe import Framed
    from embedstore.report.sheet import Row, Unread
    from embedstore.types import Pixels, Recipe, Resize

MOST_ROWS = 50
"""Films on one sheet; more make a picture that viewers do not open."""

_WORKERS = 2
_STARTS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"P2", b"P5")

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Images, or folders of images.")
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
    from embedstore.report.sheet import sheet

    _check_target(to)
    chosen = _recipe(recipe, resize, size, exact, window)
    listed, total = _listed(files, to)
    rows = _rows(listed, frame, chosen)
    heading = [f"Recipe {chosen.name}, resize {chosen.resize}"]
    if total > len(listed):
        heading.append(f"the first {len(listed)} of {total} files")
        say(err, f"note: {heading[-1]} are on the sheet")
    _write(to, sheet(rows, chosen.size, heading))
    say(out, str(to))


def look(path: Path, number: int, recipe: Recipe) -> Row:
    """Read a film and do to it what the recipe does; what a reader process does for a sheet.

    Raises
    ------
    ImageError
        The file cannot be used.
    """
    from dataclasses import replace

    from embedstore.images.decode import read
    from embedstore.images.mammogram import find
    from embedstore.images.prepare import _framed
    from embedstore.images.recipe import frame, picture
    from embedstore.report.sheet import Panel, Row, shown

    _, image = read(path)
    decoded: dict[tuple[int, int], Pixels] = {}
    framed = _framed(image, number, recipe, decoded)
    pixels = list(decoded.values())[-1]  # the resolution it was content with
    upright = frame(replace(recipe, flip="none"), pixels, image.laterality)
    found = find(_grey(pixels))
    turned = found.inverted and recipe.polarity == "auto"
    original, crop = _on_screen(recipe, pixels, framed, turned)
    seen = picture(recipe, framed)
    height, width = pixels.shape[:2]
    left, top, right, bottom = upright.box
    film = _film_caption(path, number, image.shape, pixels, found)
    return Row(
        Panel(original, film),
        Panel(crop, _crop_caption(recipe, image.shape, upright, framed, found)),
        Panel(shown(seen, 0, 2 ** (8 * seen.itemsize) - 1), _seen_caption(recipe, framed)),
        (left / width, top / height, right / width, bottom / height),
    )


def _on_screen(
    recipe: Recipe, pixels: Pixels, framed: Framed, turned: bool
) -> tuple[Pixels, Pixels]:
    """Original and crop at the size of their panels, both with the grey levels of the recipe."""
    from embedstore.report.sheet import fitted, shown

    original, crop = fitted(pixels), fitted(framed.kept())
    if pixels.dtype.itemsize == 1:
        return original, crop
    low, high = 0, 65535
    if recipe.scale != "dtype":
        low, high = int(framed.pixels.min()), int(framed.kept().max())
    if recipe.scale == "resized":
        high = min(high, int(crop.max()))
    crop = shown(crop, low, high)
    if turned:
        low, high = int(pixels.max()) - high, int(pixels.max()) - low
    return shown(original, low, high), crop


def _film_caption(
    path: Path, number: int, shape: tuple[int, int], pixels: Pixels, found: Finding
) -> tuple[str, ...]:
    tags = _tags(path)
    depth = "8 bit colour" if pixels.ndim == 3 else f"{_depth(tags, pixels)} bit"
    facts = [f"{shape[1]} x {shape[0]} pixels, {depth}"]
    if tags.frames > 1:
        facts.append(f"frame {number} of {tags.frames}, from 0")
    if (part := round(max(shape) / max(pixels.shape[:2]))) > 1:
        facts.append(f"read at 1/{part} of its size")
    return (path.name, *facts, _side_and_view(tags, found))


def _depth(tags: Tags, pixels: Pixels) -> int:
    return tags.bits_stored or 8 * pixels.dtype.itemsize


def _tags(path: Path) -> Tags:
    """Tags of a DICOM file; of anything else, or where they cannot be read, none."""
    from embedstore.images.dicom_tags import Tags, tags

    try:
        return tags(path)
    except ImageError:
        return Tags()


def _side_and_view(tags: Tags, found: Finding) -> str:
    """Say laterality and view, each from the tags or else from the picture."""
    from embedstore.images import anatomy

    said = [text for text in (tags.laterality, tags.view) if text]
    told = [] if tags.laterality else [anatomy.laterality(found)]
    told += [] if tags.view else [anatomy.view(found)]
    seen = " ".join(filter(None, told))
    parts = [f"{' '.join(said)} by the tags"] if said else []
    parts += [f"{seen} from the picture"] if seen else []
    return ", ".join(parts) or "side and view not known"


def _crop_caption(
    recipe: Recipe, shape: tuple[int, int], upright: Framed, framed: Framed, found: Finding
) -> tuple[str, ...]:
    """Say what was done to a film of (h, w) pixels, `upright` being it before it was flipped."""
    import numpy as np

    shares = [
        side / whole for side, whole in zip(framed.shape, framed.pixels.shape[:2], strict=True)
    ]
    height, width = (round(n * share) for n, share in zip(shape, shares, strict=True))
    lines = [f"{width} x {height} pixels of the film"]
    if found.inverted and recipe.polarity == "auto":
        lines.append("turned: the background was bright")
    if not np.array_equal(upright.pixels, framed.pixels):
        lines.append(f"mirrored: chest wall to the {recipe.flip}")
    if found.whole and recipe.crop == "breast":
        lines.append("no breast stands out: not cut")
    return tuple(lines)


def _seen_caption(recipe: Recipe, framed: Framed) -> tuple[str, ...]:
    from embedstore.images.recipe import cut_away

    cut = cut_away(recipe, framed)
    return (f"the centre crop cuts {cut:.1%} of the breast away",) if cut > 0 else ()


def _grey(pixels: Pixels) -> Pixels:
    import numpy as np
    from PIL import Image

    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))


def _rows(listed: Sequence[Path], number: int, recipe: Recipe) -> list[Row | Unread]:
    """Read the files; say which could not be, or `DataError` where none could."""
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


def _recipe(name: str, resize: str, size: int, exact: bool, window: int) -> Recipe:
    from dataclasses import replace

    from embedstore.images.recipe import named

    chosen = named(name)
    chosen = replace(chosen, size=(size, size), window=window, exact=chosen.exact or exact)
    if not resize:
        return chosen
    one_of("--resize", resize, ("pad", "squash", "centre-crop"))
    return replace(chosen, resize=cast("Resize", resize))


def _check_target(to: Path) -> None:
    """Refuse a path that is no PNG's, or a file that is there and no sheet: it may be a film."""
    from embedstore.report.sheet import is_sheet

    if to.suffix.lower() != ".png":
        raise UsageError(f"--to {to}: a sheet is a PNG; give a name that ends in .png")
    if not to.parent.is_dir():
        raise UsageError(f"--to {to}: there is no folder {to.parent}; make it first")
    if to.exists() and not is_sheet(_start(to)):
        raise UsageError(f"--to {to}: is there and is no sheet; give a name that is free")


def _listed(given: Sequence[Path], to: Path) -> tuple[list[Path], int]:
    """Files as given, folders as the images in them; the first of them, and how many there are."""
    files: dict[Path, bool] = {}
    for path in given:
        if path.is_dir():
            inner = sorted(p for p in path.rglob("*") if _may_be_image(p, path))
            files |= dict.fromkeys((p for p in inner if p.resolve() != to.resolve()), False)
        else:
            files[path] = True
    shown = list(islice((p for p, asked in files.items() if asked or _shows(p)), MOST_ROWS))
    if not shown:
        folders = ", ".join(map(str, given))
        raise UsageError(f"no images in {folders}; give image files, or a folder of them")
    return shown, len(files) if len(shown) == MOST_ROWS else len(shown)


def _may_be_image(path: Path, folder: Path) -> bool:
    """Tell by the first bytes; hidden files are not looked at."""
    from embedstore.images.dicom_tags import is_dicom

    if any(part.startswith(".") for part in path.relative_to(folder).parts) or not path.is_file():
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

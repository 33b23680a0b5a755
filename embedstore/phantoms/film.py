"""From attenuation to a digitised film: exposure, grain, label, tape, scanner bed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from embedstore.phantoms.anatomy import Floats
from embedstore.phantoms.collection import FINE, Film, stream


@dataclass(frozen=True, slots=True)
class Exposure:
    """How a film was exposed and scanned; greys in 0..1."""

    fat: float  # grey of full-thickness fat
    top: float  # grey the film saturates at
    gamma: float
    base: float  # grey of the film outside the breast
    grain: float
    blur: float  # px on a 512 grid
    margin: float  # black scanner bed beside the chest wall
    edge: float  # where the film ends on the nipple side
    strip: bool  # bright unexposed strip along that end
    tape: bool


def draw_exposure(
    draw: Callable[[float, float], float],
    shared: np.random.Generator,
    own: np.random.Generator,
    depth: float,
) -> Exposure:
    """Draw how a film of a breast `depth` image sides deep was exposed and scanned."""
    bed = shared.random() < 0.6  # some scanners crop to the film, some leave their bed in
    margin = draw(0.05, 0.26) if bed else 0.0
    top = draw(0.82, 0.96)
    return Exposure(
        fat=top * draw(0.34, 0.70),
        top=top,
        gamma=draw(1.0, 1.8),
        base=draw(0.0, 0.05),
        grain=draw(0.002, 0.02),
        blur=draw(0.0, 1.0),
        margin=margin,
        edge=max(draw(0.75, 1.0), margin + depth + 0.04) if bed else 1.0,
        strip=bool(own.random() < 0.10),
        tape=bool(own.random() < 0.12),
    )


def expose(film: Film, exposure: Exposure, attenuation: Floats, skin: Floats) -> Floats:
    """Turn attenuation into grey by a curve that saturates like film, (grid, grid), 0..1."""
    rng = stream(film, 5)
    steep = -np.log(1 - exposure.fat / exposure.top)
    grey = exposure.top * (1 - np.exp(-steep * attenuation**exposure.gamma))
    grey = exposure.base + (1 - exposure.base) * grey
    grain = rng.random(grey.shape, dtype=np.float32) - np.float32(0.5)
    strength = np.float32(exposure.grain * len(grey) / FINE)
    return np.asarray(grey + strength * (0.3 + 0.7 * (skin > 0)) * grain, dtype=np.float32)


def finish(film: Film, exposure: Exposure, grey: Floats, skin: Floats) -> Image.Image:
    """Blur, and lay label, tape, strip and the scanner's black bed over the film."""
    grid = len(grey)
    picture = Image.fromarray((255 * np.clip(grey, 0, 1) + 0.5).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(exposure.blur * grid / FINE))
    draw = ImageDraw.Draw(picture)
    left, right = round(exposure.margin * grid), round(exposure.edge * grid)
    if exposure.strip:
        draw.rectangle((right - grid // 30, 0, right, grid), fill=250)
    if film.labelled:
        _stick(film, picture, skin, left, right - grid // 30 if exposure.strip else right)
    if exposure.tape:
        draw.polygon([(left, grid), (left, 0.86 * grid), (left + 0.04 * grid, grid)], fill=225)
    if left:
        draw.rectangle((-1, -1, left - 1, grid), fill=0)
    if right < grid:
        draw.rectangle((right, -1, grid, grid), fill=0)
    return picture


def _stick(film: Film, picture: Image.Image, skin: Floats, start: int, right: int) -> None:
    """Lay the label beside the breast, at the top or, where there is more room, the bottom."""
    rng = stream(film, 6)
    grid = picture.width
    label, cover = _label(film, rng, grid)
    tall, end = label.height / grid, right / grid
    rooms = []
    for top in (rng.uniform(-0.02, 0.05), 0.98 - tall):
        # Room is judged on one coarse grid, lest the label move with the size of the image.
        coarse = skin[:: grid // 64, :: grid // 64]
        beside = coarse[int(max(top, 0) * 64) : int((top + tall) * 64) + 2]
        tip = max(np.nonzero(beside)[1].max(initial=0) / 64, start / grid)
        rooms.append((end - tip - 0.04, top))
    room, top = rooms[0] if rooms[0][0] > 0.06 else max(rooms)
    left = end - room + rng.random() * max(0.0, room - tall)
    left = min(left, end - 0.7 * tall)  # over the breast's edge rather than out of sight
    picture.paste(label, (round(left * grid), round(top * grid)), cover)


def _label(film: Film, rng: np.random.Generator, grid: int) -> tuple[Image.Image, Image.Image]:
    """Return a label and its cover: dark letters on a bright plate, or faint bare letters."""
    plate = rng.random() < 0.75
    ink, ground = (40, int(rng.integers(205, 250))) if plate else (int(rng.integers(90, 200)), 0)
    side = round(rng.uniform(0.09, 0.14) * FINE)
    label = Image.new("L", (side, side), ground)
    font = ImageFont.load_default(size=side * 0.36)
    text = f"{film.laterality}\n{film.view}"
    ImageDraw.Draw(label).multiline_text(
        (side / 2, side / 2), text, fill=ink, font=font, anchor="mm", align="center", spacing=2
    )
    # Films are digitised from either face, so letters may read backwards; a right breast's
    # whole film is mirrored later, which the label must not follow.
    if (rng.random() < 0.5) != (film.laterality == "R"):
        label = label.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cover = label.point([255 if plate else min(255, 3 * i) for i in range(256)])
    if not plate:  # nothing but letters: the cover carries their shape
        label = Image.new("L", label.size, ink)
    tilt = float(rng.normal(0, 6))
    width = side * grid // FINE
    turned = [
        i.rotate(tilt, Image.Resampling.BILINEAR, expand=True).resize((width, width))
        for i in (label, cover)
    ]
    return turned[0], turned[1]

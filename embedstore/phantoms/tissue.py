"""What fills the breast: fat, fibroglandular tissue, ligaments, ducts and vessels."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy import fft, ndimage

from embedstore.phantoms.anatomy import (
    Anatomy,
    Floats,
    logistic,
    pectoral_muscle,
    pixel_axes,
    skin_depth,
    skin_line,
)
from embedstore.phantoms.collection import COARSE, FINE, Film, stream


def attenuate(film: Film, anatomy: Anatomy, margin: float, grid: int) -> tuple[Floats, Floats]:
    """Return attenuation (fat at full thickness is 1) and distance to the skin, (grid, grid)."""
    skin = skin_depth(skin_line(film, anatomy), margin, grid)
    x, y = pixel_axes(grid)
    end = int(np.flatnonzero(skin.any(axis=0))[-1]) + 1  # beyond the nipple is only air
    x, near = x[:, :end] - np.float32(margin), skin[:, :end]
    rim = np.clip(1 - near / anatomy.skin, 0, 1)
    thickness = (1 - rim * rim) ** anatomy.edge
    body, grain = (i[:, :end] for i in _texture(stream(film, 1), grid, anatomy.beta))
    muscle = pectoral_muscle(film, anatomy, x, y)
    strands, fibres = _strands(film, anatomy, x, y, near > 0, body)
    ragged = 0.8 * body + 0.3 * fibres + 0.5 * strands
    dense = _dense(anatomy, x, y, near, muscle, ragged)
    lobules = np.clip(0.75 + 0.18 * grain + 0.12 * fibres, 0.2, 1.3)
    tissue = anatomy.contrast * dense * lobules * (1 - 0.7 * muscle)
    fine = 0.05 * grain + anatomy.strands * strands * (1.3 - dense)
    fine = fine + _lines(film, anatomy, margin, grid)[:, :end]
    wedge = anatomy.pectoral[2] * muscle
    attenuation = np.zeros_like(skin)
    inside = 1 + tissue + fine * (1 - 0.8 * muscle) + wedge
    attenuation[:, :end] = thickness * np.clip(inside, 0, None)
    return attenuation, skin


def _texture(rng: np.random.Generator, grid: int, beta: float) -> tuple[Floats, Floats]:
    """Return two independent fields of power ``1/f**beta``, unit variance, (grid, grid).

    The low frequencies are drawn first and alone, so that a finer grid only adds octaves. One
    complex transform yields both fields.
    """
    waves = _white(rng, COARSE)
    shaped = waves * np.exp(-0.5 * beta * _log_frequency(COARSE))
    scale = np.sqrt(2) / np.sqrt((np.abs(shaped) ** 2).sum())
    if grid > COARSE:
        inner = slice((grid - COARSE) // 2, (grid + COARSE) // 2)
        finer = _white(rng, grid) * np.exp(-0.5 * beta * _log_frequency(grid))
        finer[inner, inner] = shaped
        shaped = finer
    field = fft.ifft2(fft.ifftshift(shaped), norm="forward") * scale
    return np.ascontiguousarray(field.real), np.ascontiguousarray(field.imag)


def _white(rng: np.random.Generator, grid: int) -> NDArray[np.complex64]:
    """Return white noise, (grid, grid): uniform draws, which sum to Gaussian fields anyway."""
    pairs = rng.random((grid, 2 * grid), dtype=np.float32) - np.float32(0.5)
    return pairs.view(np.complex64)


@lru_cache(maxsize=4)
def _log_frequency(grid: int) -> Floats:
    """Return the log of the radial frequency in cycles per image, centred, (grid, grid)."""
    k = np.arange(grid, dtype=np.float32) - grid // 2
    return np.asarray(np.log(np.maximum(np.hypot(k[:, None], k[None, :]), 2)), dtype=np.float32)


def _strands(
    film: Film, anatomy: Anatomy, x: Floats, y: Floats, inside: NDArray[np.bool_], body: Floats
) -> tuple[Floats, Floats]:
    """Return Cooper's ligaments, 0 to about 1, and coarser fibres, unit variance; (grid, grid).

    The ligaments are thin curved strands that converge beyond the nipple: zero crossings of
    band-limited noise, read in polar coordinates and stretched along the radius.
    """
    rng = stream(film, 3)
    fine, broad = _band(rng)
    rows, columns = np.nonzero(inside)
    across = anatomy.depth + 0.15 - x[0, columns]
    down = y[rows, 0] - anatomy.nipple
    turns = rng.uniform(0, 2 * np.pi, 2)
    bend = 0.03 * (np.sin(9 * down + turns[0]) + np.sin(13 * across + turns[1]))
    bend = bend.astype(np.float32)
    angle = (np.arctan2(down, across) * 0.6 + bend) * COARSE
    radius = (np.hypot(across, down) * rng.uniform(0.15, 0.35) + bend) * COARSE
    near = _read(fine, angle, radius)
    strands, fibres = np.zeros((2, *inside.shape), np.float32)
    strands[rows, columns] = np.exp(-((near / rng.uniform(0.15, 0.3)) ** 2))
    fibres[rows, columns] = _read(broad, 0.4 * angle, 0.8 * radius)
    return strands * np.clip(0.5 + 0.6 * body, 0, 1.4), fibres


def _read(field: Floats, rows: Floats, columns: Floats) -> Floats:
    """Read a periodic field between its pixels; all of shape (n,) but the field."""
    read: Floats = ndimage.map_coordinates(field, [rows, columns], order=1, mode="grid-wrap")
    return read


def _band(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return two fields of about 10 to 40 cycles per image, unit variance, (256, 256)."""
    log_k = _log_frequency(COARSE)
    shaped = _white(rng, COARSE) * np.exp(-(((log_k - np.log(20)) / 0.5) ** 2) - log_k)
    field = fft.ifft2(fft.ifftshift(shaped))
    return field.real / field.real.std(), field.imag / field.imag.std()


def _dense(
    anatomy: Anatomy, x: Floats, y: Floats, skin: Floats, muscle: Floats, ragged: Floats
) -> Floats:
    """Return how fibroglandular each point is, 0 to 1, (grid, grid).

    Tissue fills a disc behind the nipple, drawn towards the upper outer quadrant, up to the
    wanted share of the area; noise and strands make its border ragged, and a layer of fat is
    left under the skin.
    """
    along, raised, stretch = anatomy.disc
    disc = ((x - along * anatomy.depth) / anatomy.depth) ** 2
    disc = disc + ((y - anatomy.nipple + raised) / (0.8 * stretch * anatomy.depth)) ** 2
    under = np.exp(-skin / 0.025)
    place = anatomy.ragged * ragged - 2.2 * np.sqrt(disc) - 2.0 * under
    breast = (skin > 0.01) & (muscle < 0.5)
    level = np.quantile(place[breast], 1 - anatomy.dense)
    return logistic((place - np.float32(level)) / anatomy.soft)


def _lines(film: Film, anatomy: Anatomy, margin: float, grid: int) -> Floats:
    """Return ducts that fan out from the nipple and a few vessels, (grid, grid)."""
    rng = stream(film, 4)
    canvas = Image.new("L", (FINE, FINE))
    draw = ImageDraw.Draw(canvas)
    tip = np.array([margin + anatomy.depth - 0.01, anatomy.nipple])
    for _ in range(int(rng.integers(5, 12))):
        _walk(draw, rng, tip, np.pi + rng.uniform(-0.9, 0.9), 0.5 * anatomy.depth, 1)
    for _ in range(int(rng.integers(2, 7))):
        start = np.array([margin, rng.uniform(0.1, 0.9)])
        _walk(draw, rng, start, rng.uniform(-0.6, 0.6), 0.8 * anatomy.depth, 2)
    soft = canvas.filter(ImageFilter.BoxBlur(1))
    return np.asarray(soft.reduce(FINE // grid), dtype=np.float32) * np.float32(0.35 / 255)


def _walk(
    draw: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    start: NDArray[np.float64],
    heading: float,
    length: float,
    width: int,
) -> None:
    """Draw one wandering line that fades as it goes."""
    headings = heading + np.cumsum(rng.normal(0, 0.17, 20))
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / 20
    path = (start + np.r_[[[0, 0]], np.cumsum(steps, axis=0)]) * FINE
    strength = rng.uniform(90, 255)
    for i in range(20):
        ends = [tuple(path[i]), tuple(path[i + 1])]
        draw.line(ends, fill=int(strength * (1 - i / 25)), width=width)

"""The breast as a shape: outline, depth below the skin, pectoral muscle.

Lengths are fractions of the image side; ``x`` runs from the chest wall to the nipple.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import interpolate, ndimage

from embedstore.phantoms.collection import DENSITIES, Film, stream

Floats = NDArray[np.float32]

# Dense share of the breast's area (pectoral muscle left out); the gaps keep classes disjoint.
_FRACTIONS = {"A": (0.01, 0.11), "B": (0.15, 0.37), "C": (0.42, 0.67), "D": (0.72, 0.93)}


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What one breast looks like before it is exposed; lengths in image sides."""

    depth: float  # chest wall to nipple
    height: float  # half height on CC, fold position on MLO
    nipple: float  # y of the nipple
    roundness: float
    skin: float  # distance from the skin over which thickness builds up
    edge: float  # exponent of that build-up: 0.5 is a round edge, more a softer one
    dense: float  # dense fraction of the breast's area
    disc: tuple[float, float, float]  # centre along x (of depth), raised by, stretch
    ragged: float  # how far noise outweighs the disc in placing the tissue
    contrast: float  # extra attenuation of dense tissue over fat
    soft: float  # softness of the tissue's border
    beta: float  # exponent of the texture's power spectrum
    strands: float  # strength of Cooper's ligaments
    pectoral: tuple[float, float, float]  # reach along x, reach along y, attenuation


def draw_anatomy(film: Film, draw: Callable[[float, float], float]) -> Anatomy:
    """Draw one breast; `draw` gives a value between two bounds."""
    # Fatty breasts are on average larger; the ranges overlap so that size gives little away.
    larger = 0.04 * (1.5 - DENSITIES.index(film.density))
    mlo = film.view == "MLO"
    depth = draw(0.30, 0.58) + larger
    height = draw(0.0, 1.0)
    nipple = draw(0.0, 1.0)
    return Anatomy(
        depth=depth if mlo else 0.92 * depth,
        height=0.80 + 0.26 * height if mlo else 0.26 + 0.26 * height + 0.2 * (depth - 0.45),
        nipple=0.50 + 0.18 * nipple if mlo else 0.45 + 0.1 * nipple,
        roundness=draw(0.6, 1.05),
        skin=draw(0.09, 0.24),
        edge=draw(0.7, 1.4),
        dense=draw(*_FRACTIONS[film.density]),
        disc=(draw(0.45, 0.72), draw(0.0, 0.07), draw(0.8, 1.3)),
        ragged=draw(0.25, 0.8),
        contrast=draw(0.35, 1.40),
        soft=draw(0.15, 0.50),
        beta=draw(2.9, 3.6),
        strands=draw(0.08, 0.30),
        pectoral=_pectoral(mlo, draw(0.3, 0.65), draw(0.45, 0.95), draw(0.4, 1.1)),
    )


def _pectoral(mlo: bool, x: float, y: float, attenuation: float) -> tuple[float, float, float]:
    """Return the muscle's reach: a wedge on MLO, and on CC a sliver in one breast of three."""
    if mlo:
        return x, y, attenuation
    return (0.06 if x > 0.53 else 0.0), 0.0, 0.7 * attenuation


def skin_line(film: Film, anatomy: Anatomy) -> NDArray[np.float64]:
    """Return the skin line as points (x, y), shape (n, 2), closed beyond the chest wall."""
    turn = np.linspace(-1, 1, 120)
    if film.view == "CC":
        angle = 0.5 * np.pi * turn
        x = anatomy.depth * np.cos(angle) ** anatomy.roundness
        y = anatomy.nipple + anatomy.height * np.sin(angle)
    else:
        x, y = _pear(anatomy, turn)
    # The nipple: a small bump, mostly lost in the roll-off, as on real films.
    x = x + 0.016 * np.exp(-(((y - anatomy.nipple) / 0.014) ** 2)) * (x > 0.5 * anatomy.depth)
    return np.stack([np.r_[-0.3, x, -0.3], np.r_[y[0], y, y[-1]]], axis=1)


def _pear(anatomy: Anatomy, turn: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return the MLO outline: a spline from the axilla round the nipple to the fold."""
    depth, low, tip = anatomy.depth, anatomy.height, anatomy.nipple
    axilla = (1.0 - 0.4 * anatomy.roundness) * depth
    knots = np.array(
        [
            (axilla * 0.98, -0.15),
            (axilla + 0.25 * (depth - axilla), 0.38 * tip),
            (axilla + 0.82 * (depth - axilla), 0.72 * tip),
            (depth, tip),
            (0.84 * depth, tip + 0.58 * (low - tip)),
            (0.38 * depth, low),
            (-0.05, low + 0.02 + 0.06 * anatomy.roundness),
        ]
    )
    chord = np.r_[0, np.cumsum(np.sqrt(np.hypot(*np.diff(knots, axis=0).T)))]
    points = interpolate.CubicSpline(chord, knots)(0.5 * (turn + 1) * chord[-1])
    return points[:, 0], points[:, 1]


def skin_depth(outline: NDArray[np.float64], margin: float, grid: int) -> Floats:
    """Return the distance from the skin into the breast, (grid, grid), 0 outside."""
    coarse, pad = 128, 40  # padded, so that the image's own border is not taken for skin
    canvas = Image.new("L", (4 * (coarse + pad), 4 * (coarse + 2 * pad)))
    points = (outline + [margin, 0]) * coarse + pad
    ImageDraw.Draw(canvas).polygon([(4 * a, 4 * b) for a, b in points], fill=255)
    inside = np.asarray(canvas.reduce(4)) > 127
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside), 0.8)
    window = Image.fromarray(depth[pad : pad + coarse, pad:].astype(np.float32) / coarse)
    skin = np.asarray(window.resize((grid, grid), Image.Resampling.BICUBIC)) - 0.004
    return np.maximum(skin, 0).astype(np.float32)


def pectoral_muscle(film: Film, anatomy: Anatomy, x: Floats, y: Floats) -> Floats:
    """Return how much of the pectoral muscle lies at each point, 0 to 1, (grid, grid)."""
    rng = stream(film, 2)
    reach, low, _ = anatomy.pectoral
    bulge, blur = rng.uniform(-0.08, 0.12), rng.uniform(0.006, 0.02)
    if film.view == "CC":
        border = reach * (1 - ((y - anatomy.nipple) / 0.3) ** 2)
    else:
        along = np.clip(y / low, 0, 1)
        border = anatomy.depth * reach * (1 - y / low) + 4 * bulge * along * (1 - along) * reach
    return logistic((border - x) / blur)


@lru_cache(maxsize=2)
def pixel_axes(grid: int) -> tuple[Floats, Floats]:
    """Return pixel centres as image fractions: x of shape (1, grid) and y of (grid, 1)."""
    centres = ((np.arange(grid) + 0.5) / grid).astype(np.float32)
    return centres[None, :], centres[:, None]


def logistic(height: Floats) -> Floats:
    """Return the logistic of the height: 0 well below, 1 well above."""
    return np.asarray(1 / (1 + np.exp(np.clip(-height, -30, 30))), dtype=np.float32)

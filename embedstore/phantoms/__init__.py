"""Synthetic mammograms: cheap, free of patient data and repeatable from a seed.

A film is built the way a film comes about: an outline gives the compressed thickness, a
power-law texture thresholded inside a disc behind the nipple gives the fibroglandular tissue,
and a saturating film curve turns attenuation into grey. What a network must not lean on (size,
exposure, contrast, borders, labels) varies widely from patient to patient.

Lengths are fractions of the image side; ``x`` runs from the chest wall to the nipple and ``y``
downwards. Films are made as left breasts (chest wall at the left) and mirrored for the right.

Sources
-------
Power-law texture (power about ``1/f**3``): Burgess, Med. Phys. 26 (1999) and 28 (2001); Heine
and Velthuizen, Med. Phys. 29 (2002). Density categories a to d: ACR BI-RADS Atlas, 5th ed.,
2013, which names no percentages; the area fractions in ``anatomy`` are this module's choice.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedstore.errors import UsageError
from embedstore.phantoms.anatomy import Anatomy, draw_anatomy
from embedstore.phantoms.collection import COARSE, DENSITIES, FINE, VIEWS, Film, films, stream
from embedstore.phantoms.film import Exposure, draw_exposure, expose, finish
from embedstore.phantoms.tissue import attenuate

_COLUMNS = ("image", "patient", "laterality", "view", "density", "film_label")

__all__ = ["DENSITIES", "VIEWS", "Film", "films", "render", "write"]


def render(film: Film, size: int = 512) -> NDArray[np.uint8]:
    """Render one film.

    Parameters
    ----------
    film : Film
        As listed by `films`.
    size : int
        Side of the image in pixels, at least 32. The breast is the same at every size.

    Returns
    -------
    ndarray of uint8, shape (size, size)
        Greys, 0 black. A left breast has its chest wall at the image's left, a right breast at
        its right.
    """
    _check(film, size)
    grid = COARSE if size <= COARSE else FINE
    anatomy, exposure = _describe(film)
    attenuation, skin = attenuate(film, anatomy, exposure.margin, grid)
    picture = finish(film, exposure, expose(film, exposure, attenuation, skin), skin)
    if size != grid:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    if film.laterality == "R":
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(picture, dtype=np.uint8)


def write(
    folder: Path, patients: int, seed: int = 0, size: int = 512, label_rate: float = 0.5
) -> Path:
    """Write films as PNG files with a manifest.

    Parameters
    ----------
    folder : Path
        Receives ``images/*.png`` and ``manifest.csv``; made when missing.
    patients, seed, label_rate
        As for `films`.
    size : int
        As for `render`.

    Returns
    -------
    Path
        The manifest: columns image (relative to the manifest), patient, laterality, view,
        density and film_label, whether a label lies on the film (``yes`` or ``no``).

    Raises
    ------
    UsageError
        The folder has a ``manifest.csv`` that is none of phantoms.
    """
    listed = films(patients, seed, label_rate)
    _check(listed[0], size)
    manifest = folder / "manifest.csv"
    if manifest.exists() and not manifest.read_bytes().startswith(",".join(_COLUMNS).encode()):
        raise UsageError(f"{manifest}: is no manifest of phantoms; give another folder")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(_COLUMNS)
        for film in listed:
            name = f"images/{film.patient}_{film.laterality}_{film.view}.png"
            Image.fromarray(render(film, size)).save(folder / name)
            label = "yes" if film.labelled else "no"
            table.writerow([name, film.patient, film.laterality, film.view, film.density, label])
    return manifest


def _check(film: Film, size: int) -> None:
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}")
    if film.density not in DENSITIES:
        raise ValueError(f"density must be one of {DENSITIES}, got {film.density!r}")
    if (film.laterality, film.view) not in VIEWS:
        raise ValueError(f"no such view: {film.laterality!r} {film.view!r}")


def _describe(film: Film) -> tuple[Anatomy, Exposure]:
    """Draw what a patient's films share, then each film's own deviation from it."""
    shared = np.random.default_rng([*film.seed, 99])
    own = stream(film, 0)

    def draw(low: float, high: float) -> float:
        """Draw a patient's value, and move it by up to 8 % of the range for this film."""
        value = shared.uniform(low, high) + own.uniform(-0.08, 0.08) * (high - low)
        return float(np.clip(value, low, high))

    anatomy = draw_anatomy(film, draw)
    return anatomy, draw_exposure(draw, shared, own, anatomy.depth)

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
2013, which names no percentages; the area fractions of ``_FRACTIONS`` are this module's choice.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import fft, interpolate, ndimage

Floats = NDArray[np.float32]

DENSITIES = ("A", "B", "C", "D")
VIEWS = (("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO"))

# Dense share of the breast's area (pectoral muscle left out); the gaps keep classes disjoint.
_FRACTIONS = {"A": (0.01, 0.11), "B": (0.15, 0.37), "C": (0.42, 0.67), "D": (0.72, 0.93)}
_COARSE, _FINE = 256, 512  # the two grids films are computed on; other sizes are resampled


@dataclass(frozen=True, slots=True)
class Film:
    """One film: everything needed to render it again.

    Attributes
    ----------
    patient : str
        Patient id, ``p0000`` onwards.
    laterality, view : str
        ``L`` or ``R``; ``CC`` or ``MLO``.
    density : str
        One of `DENSITIES`.
    labelled : bool
        Whether a film label (side and view in lead letters) is visible.
    seed : tuple of int
        The collection's seed and the patient's number in it.
    """

    patient: str
    laterality: str
    view: str
    density: str
    labelled: bool
    seed: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Anatomy:
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


@dataclass(frozen=True, slots=True)
class _Exposure:
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


def films(patients: int, seed: int = 0, label_rate: float = 0.5) -> list[Film]:
    """List four films for each of a number of patients.

    Parameters
    ----------
    patients : int
        Number of patients, at least 1.
    seed : int
        Seed of the collection, at least 0.
    label_rate : float
        Probability that a film shows a label, 0 to 1.

    Returns
    -------
    list of Film
        ``4 * patients`` films, in the order of `VIEWS` for each patient.
    """
    if patients < 1:
        raise ValueError(f"patients must be at least 1, got {patients}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if not 0.0 <= label_rate <= 1.0:
        raise ValueError(f"label_rate must lie in 0..1, got {label_rate}")
    rng = np.random.default_rng(seed)
    densities = rng.permutation([DENSITIES[i % 4] for i in range(patients)])
    labelled = rng.random((patients, 4)) < label_rate
    return [
        Film(f"p{i:04d}", *VIEWS[j], str(densities[i]), bool(labelled[i, j]), (seed, i))
        for i in range(patients)
        for j in range(4)
    ]


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
    grid = _COARSE if size <= _COARSE else _FINE
    anatomy, exposure = _describe(film)
    attenuation, skin = _attenuate(film, anatomy, exposure.margin, grid)
    picture = _finish(film, exposure, _expose(film, exposure, attenuation, skin), skin)
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
        density and label (``yes`` or ``no``).
    """
    listed = films(patients, seed, label_rate)
    _check(listed[0], size)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "patient", "laterality", "view", "density", "label"])
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


def _stream(film: Film, topic: int) -> np.random.Generator:
    """Return the film's own random stream for one topic, so topics cannot disturb each other."""
    return np.random.default_rng([*film.seed, VIEWS.index((film.laterality, film.view)), topic])


def _describe(film: Film) -> tuple[_Anatomy, _Exposure]:
    """Draw what a patient's films share, then each film's own deviation from it."""
    shared = np.random.default_rng([*film.seed, 99])
    own = _stream(film, 0)

    def draw(low: float, high: float) -> float:
        """Draw a patient's value, and move it by up to 8 % of the range for this film."""
        value = shared.uniform(low, high) + own.uniform(-0.08, 0.08) * (high - low)
        return float(np.clip(value, low, high))

    anatomy = _draw_anatomy(film, draw)
    return anatomy, _draw_exposure(draw, shared, own, anatomy.depth)


def _draw_anatomy(film: Film, draw: Callable[[float, float], float]) -> _Anatomy:
    # Fatty breasts are on average larger; the ranges overlap so that size gives little away.
    larger = 0.04 * (1.5 - DENSITIES.index(film.density))
    mlo = film.view == "MLO"
    depth = draw(0.30, 0.58) + larger
    height = draw(0.0, 1.0)
    nipple = draw(0.0, 1.0)
    return _Anatomy(
        depth=depth if mlo else 0.92 * depth,
        height=0.80 + 0.26 * height if mlo else 0.26 + 0.26 * height + 0.2 * (depth - 0.45),
        nipple=0.50 + 0.18 * nipple if mlo else 0.45 + 0.1 * nipple,
        roundness=draw(0.6, 1.05),
        skin=draw(0.09, 0.24),
        edge=draw(0.7, 1.4),
        dense=draw(*_FRACTIONS[film.density]),
        disc=(draw(0.45, 0.72), draw(0.0, 0.07), draw(0.8, 1.3)),
        ragged=draw(0.25, 0.8),
        contrast=draw(0.30, 0.85),
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


def _draw_exposure(
    draw: Callable[[float, float], float],
    shared: np.random.Generator,
    own: np.random.Generator,
    depth: float,
) -> _Exposure:
    bed = shared.random() < 0.6  # some scanners crop to the film, some leave their bed in
    margin = draw(0.05, 0.26) if bed else 0.0
    top = draw(0.82, 0.96)
    return _Exposure(
        fat=top * draw(0.42, 0.70),
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


def _attenuate(film: Film, anatomy: _Anatomy, margin: float, grid: int) -> tuple[Floats, Floats]:
    """Return attenuation (fat at full thickness is 1) and distance to the skin, (grid, grid)."""
    skin = _distance(_outline(film, anatomy), margin, grid)
    x, y = _axes(grid)
    end = int(np.flatnonzero(skin.any(axis=0))[-1]) + 1  # beyond the nipple is only air
    x, near = x[:, :end] - np.float32(margin), skin[:, :end]
    rim = np.clip(1 - near / anatomy.skin, 0, 1)
    thickness = (1 - rim * rim) ** anatomy.edge
    body, grain = (i[:, :end] for i in _texture(_stream(film, 1), grid, anatomy.beta))
    muscle = _muscle(film, anatomy, x, y)
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


@lru_cache(maxsize=2)
def _axes(grid: int) -> tuple[Floats, Floats]:
    """Return pixel centres as image fractions: x of shape (1, grid) and y of (grid, 1)."""
    centres = ((np.arange(grid) + 0.5) / grid).astype(np.float32)
    return centres[None, :], centres[:, None]


def _outline(film: Film, anatomy: _Anatomy) -> NDArray[np.float64]:
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


def _pear(anatomy: _Anatomy, turn: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
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


def _distance(outline: NDArray[np.float64], margin: float, grid: int) -> Floats:
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


def _step(height: Floats) -> Floats:
    """Return the logistic of the height: 0 well below, 1 well above."""
    return np.asarray(1 / (1 + np.exp(np.clip(-height, -30, 30))), dtype=np.float32)


def _muscle(film: Film, anatomy: _Anatomy, x: Floats, y: Floats) -> Floats:
    """Return how much of the pectoral muscle lies at each point, 0 to 1, (grid, grid)."""
    rng = _stream(film, 2)
    reach, low, _ = anatomy.pectoral
    bulge, blur = rng.uniform(-0.08, 0.12), rng.uniform(0.006, 0.02)
    if film.view == "CC":
        border = reach * (1 - ((y - anatomy.nipple) / 0.3) ** 2)
    else:
        along = np.clip(y / low, 0, 1)
        border = anatomy.depth * reach * (1 - y / low) + 4 * bulge * along * (1 - along) * reach
    return _step((border - x) / blur)


@lru_cache(maxsize=4)
def _log_frequency(grid: int) -> Floats:
    """Return the log of the radial frequency in cycles per image, centred, (grid, grid)."""
    k = np.arange(grid, dtype=np.float32) - grid // 2
    return np.asarray(np.log(np.maximum(np.hypot(k[:, None], k[None, :]), 2)), dtype=np.float32)


def _texture(rng: np.random.Generator, grid: int, beta: float) -> tuple[Floats, Floats]:
    """Return two independent fields of power ``1/f**beta``, unit variance, (grid, grid).

    The low frequencies are drawn first and alone, so that a finer grid only adds octaves. One
    complex transform yields both fields.
    """
    waves = _white(rng, _COARSE)
    shaped = waves * np.exp(-0.5 * beta * _log_frequency(_COARSE))
    scale = np.sqrt(2) / np.sqrt((np.abs(shaped) ** 2).sum())
    if grid > _COARSE:
        inner = slice((grid - _COARSE) // 2, (grid + _COARSE) // 2)
        finer = _white(rng, grid) * np.exp(-0.5 * beta * _log_frequency(grid))
        finer[inner, inner] = shaped
        shaped = finer
    field = fft.ifft2(fft.ifftshift(shaped), norm="forward") * scale
    return np.ascontiguousarray(field.real), np.ascontiguousarray(field.imag)


def _white(rng: np.random.Generator, grid: int) -> NDArray[np.complex64]:
    """Return white noise, (grid, grid): uniform draws, which sum to Gaussian fields anyway."""
    pairs = rng.random((grid, 2 * grid), dtype=np.float32) - np.float32(0.5)
    return pairs.view(np.complex64)


def _strands(
    film: Film, anatomy: _Anatomy, x: Floats, y: Floats, inside: NDArray[np.bool_], body: Floats
) -> tuple[Floats, Floats]:
    """Return Cooper's ligaments, 0 to about 1, and coarser fibres, unit variance; (grid, grid).

    The ligaments are thin curved strands that converge beyond the nipple: zero crossings of
    band-limited noise, read in polar coordinates and stretched along the radius.
    """
    rng = _stream(film, 3)
    fine, broad = _band(rng)
    rows, columns = np.nonzero(inside)
    across = anatomy.depth + 0.15 - x[0, columns]
    down = y[rows, 0] - anatomy.nipple
    turns = rng.uniform(0, 2 * np.pi, 2)
    bend = 0.03 * (np.sin(9 * down + turns[0]) + np.sin(13 * across + turns[1]))
    bend = bend.astype(np.float32)
    angle = (np.arctan2(down, across) * 0.6 + bend) * _COARSE
    radius = (np.hypot(across, down) * rng.uniform(0.15, 0.35) + bend) * _COARSE
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
    log_k = _log_frequency(_COARSE)
    shaped = _white(rng, _COARSE) * np.exp(-(((log_k - np.log(20)) / 0.5) ** 2) - log_k)
    field = fft.ifft2(fft.ifftshift(shaped))
    return field.real / field.real.std(), field.imag / field.imag.std()


def _dense(
    anatomy: _Anatomy, x: Floats, y: Floats, skin: Floats, muscle: Floats, ragged: Floats
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
    return _step((place - np.float32(level)) / anatomy.soft)


def _lines(film: Film, anatomy: _Anatomy, margin: float, grid: int) -> Floats:
    """Return ducts that fan out from the nipple and a few vessels, (grid, grid)."""
    rng = _stream(film, 4)
    canvas = Image.new("L", (_FINE, _FINE))
    draw = ImageDraw.Draw(canvas)
    tip = np.array([margin + anatomy.depth - 0.01, anatomy.nipple])
    for _ in range(int(rng.integers(5, 12))):
        _walk(draw, rng, tip, np.pi + rng.uniform(-0.9, 0.9), 0.5 * anatomy.depth, 1)
    for _ in range(int(rng.integers(2, 7))):
        start = np.array([margin, rng.uniform(0.1, 0.9)])
        _walk(draw, rng, start, rng.uniform(-0.6, 0.6), 0.8 * anatomy.depth, 2)
    soft = canvas.filter(ImageFilter.BoxBlur(1))
    return np.asarray(soft.reduce(_FINE // grid), dtype=np.float32) * np.float32(0.35 / 255)


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
    path = (start + np.r_[[[0, 0]], np.cumsum(steps, axis=0)]) * _FINE
    strength = rng.uniform(90, 255)
    for i in range(20):
        ends = [tuple(path[i]), tuple(path[i + 1])]
        draw.line(ends, fill=int(strength * (1 - i / 25)), width=width)


def _expose(film: Film, exposure: _Exposure, attenuation: Floats, skin: Floats) -> Floats:
    """Turn attenuation into grey by a curve that saturates like film, (grid, grid), 0..1."""
    rng = _stream(film, 5)
    steep = -np.log(1 - exposure.fat / exposure.top)
    grey = exposure.top * (1 - np.exp(-steep * attenuation**exposure.gamma))
    grey = exposure.base + (1 - exposure.base) * grey
    grain = rng.random(grey.shape, dtype=np.float32) - np.float32(0.5)
    strength = np.float32(exposure.grain * len(grey) / _FINE)
    return np.asarray(grey + strength * (0.3 + 0.7 * (skin > 0)) * grain, dtype=np.float32)


def _finish(film: Film, exposure: _Exposure, grey: Floats, skin: Floats) -> Image.Image:
    """Blur, and lay label, tape, strip and the scanner's black bed over the film."""
    grid = len(grey)
    picture = Image.fromarray((255 * np.clip(grey, 0, 1) + 0.5).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(exposure.blur * grid / _FINE))
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
    rng = _stream(film, 6)
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
    side = round(rng.uniform(0.09, 0.14) * _FINE)
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
    width = side * grid // _FINE
    turned = [
        i.rotate(tilt, Image.Resampling.BILINEAR, expand=True).resize((width, width))
        for i in (label, cover)
    ]
    return turned[0], turned[1]

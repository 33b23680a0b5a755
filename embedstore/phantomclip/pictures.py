"""Phantoms rendered once, as the recipes prepare them, and roughened anew at every step.

Two preparations are learnt side by side: the breast alone as the mammography recipe cuts it, and
the whole film squashed to a square, on which side and film label can be seen.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from embedstore.finetune.augment import move, uniform
from embedstore.images.recipe import apply, fit_to_model, named
from embedstore.phantomclip.sentences import SILENT
from embedstore.phantoms import DENSITIES, Film, films, render

__all__ = ["Pictures", "prepare", "roughen"]

_RENDERED = 256  # px


@dataclass(frozen=True, slots=True)
class Pictures:
    """Prepared films.

    Attributes
    ----------
    grey
        (n, s, s) uint8.
    facts
        (n, 4) int64 in the order and codes of `sentences.FACTS`; `SILENT` where it cannot be seen.
    """

    grey: NDArray[np.uint8]
    facts: NDArray[np.int64]


def prepare(patients: int, seed: int, side: int, workers: int = 2) -> Pictures:
    """Render every film of a collection twice: the breast alone first, then the whole film.

    Returns ``8 * patients`` pictures of `side` pixels. The order and the pixels do not depend on
    the number of processes.
    """
    listed = films(patients, seed)
    jobs = [(listed[i : i + 40], side) for i in range(0, len(listed), 40)]
    # a fresh interpreter rather than a fork: torch's threads do not survive one
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        grey = np.concatenate(list(pool.map(_prepare_some, jobs)))
    facts = np.array([_facts(film, whole) for film in listed for whole in (False, True)])
    return Pictures(grey, facts)


def _prepare_some(job: tuple[list[Film], int]) -> NDArray[np.uint8]:
    listed, side = job
    recipes = [
        fit_to_model(recipe, (side, side), (0.0,), (1.0,))
        for recipe in (named("mammography"), replace(named("plain"), colour="grey"))
    ]
    pairs = [apply(r, pixels) for film in listed for pixels in (_pixels(film),) for r in recipes]
    return np.rint(np.concatenate(pairs) * 255).astype(np.uint8)


def _pixels(film: Film) -> NDArray[np.uint8]:
    return render(film, _RENDERED)


def _facts(film: Film, whole: bool) -> list[int]:
    shown = [int(film.laterality == "R"), int(film.labelled)] if whole else [SILENT, SILENT]
    return [DENSITIES.index(film.density), int(film.view == "MLO"), *shown]


def roughen(grey: torch.Tensor, side: int, rng: torch.Generator) -> torch.Tensor:
    """Move, expose, blur and grain pictures anew: (n, 1, s, s) in 0..1 to (n, 1, side, side).

    What a network must not lean on differs from one archive to the next: zoom and place, the
    film's curve, sharpness and grain, and how much of the chest wall is in the picture.
    """
    moved = move(grey, (side, side), rng, turn=0.15, zoom=0.18, aspect=0.15, shift=0.08)
    breast = moved > 0.01  # the recipe's background is exactly black and must stay so
    exposed = _expose(moved, rng)
    soft = _soften(exposed, rng)
    grain = torch.randn(soft.shape, generator=rng) * (0.04 * uniform(len(soft), rng) ** 2)
    return _erase((soft + grain) * breast, rng).clamp(0, 1)


def _expose(grey: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Change gamma, the steepness of an S-shaped curve, its foot and its top."""
    n = len(grey)
    powered = grey.clamp(min=1e-4) ** torch.exp(uniform(n, rng, -0.6, 0.6))
    steep, middle = uniform(n, rng, 2.0, 10.0), uniform(n, rng, 0.35, 0.65)
    bent = torch.sigmoid(steep * (powered - middle))
    low, high = torch.sigmoid(-steep * middle), torch.sigmoid(steep * (1 - middle))
    share = uniform(n, rng)
    curved = share * (bent - low) / (high - low) + (1 - share) * powered
    foot, top = uniform(n, rng, -0.05, 0.08), uniform(n, rng, 0.75, 1.1)
    return foot + (top - foot) * curved


def _soften(grey: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Mix each picture with a blurred copy, or with a sharpened one."""
    blurred = functional.avg_pool2d(grey, 5, 1, 2, count_include_pad=False)
    share = uniform(len(grey), rng, -0.6, 1.0)
    return grey + share * (blurred - grey)


def _erase(grey: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Black out up to a twelfth of each side, in one picture of three."""
    n, side = len(grey), grey.shape[-1]
    place = (torch.arange(side) + 0.5) / side
    chosen = (torch.rand(n, 1, generator=rng) < 0.33).float()
    cut = torch.rand(n, 4, generator=rng) * chosen / 12
    keep = [(place > cut[:, i, None]) & (place < 1 - cut[:, i + 1, None]) for i in (0, 2)]
    return grey * keep[0][:, None, None, :] * keep[1][:, None, :, None]

"""Changes of a picture that leave its meaning: a film a little moved, turned, or exposed.

No colour, no mirror: recipes put the chest wall on one side, and on pictures as they are the side
is part of what is seen. Drawn anew for each picture, on its device, by a generator, so that a run
that goes on after a break draws what it would have drawn.
"""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["expose", "film", "move", "uniform"]

TURN, ZOOM, ASPECT, SHIFT = 0.12, 0.1, 0.06, 0.06  # radians; shares
GAMMA, CONTRAST = 0.25, 0.15


def film(pictures: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """(b, c, H, W) in 0..1 to the same, as an archive of films would vary; black stays black."""
    moved = move(pictures, pictures.shape[-2:], rng, TURN, ZOOM, ASPECT, SHIFT)
    return expose(moved, rng)


def uniform(n: int, rng: torch.Generator, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """(n, 1, 1, 1) numbers."""
    return torch.rand(n, 1, 1, 1, generator=rng, device=rng.device) * (high - low) + low


def move(
    pictures: torch.Tensor,
    size: tuple[int, int] | torch.Size,
    rng: torch.Generator,
    turn: float,
    zoom: float,
    aspect: float,
    shift: float,
) -> torch.Tensor:
    """Turn (radians), zoom, stretch, and shift by shares of half a side, up to so much each.

    Returns
    -------
    Tensor
        (b, c, *size).
    """
    n = len(pictures)
    angle = uniform(n, rng, -turn, turn).view(n)
    wide = 1 + uniform(n, rng, -zoom, zoom).view(n)
    ratio = 1 + uniform(n, rng, -aspect, aspect).view(n)
    by = (torch.rand(n, 2, generator=rng, device=rng.device) * 2 - 1) * shift
    tall = pictures.shape[-2] / pictures.shape[-1]  # places go from -1 to 1 along both sides
    rows = [
        torch.stack([wide * ratio * angle.cos(), -tall * wide * angle.sin(), by[:, 0]], dim=1),
        torch.stack([wide * angle.sin() / tall, wide / ratio * angle.cos(), by[:, 1]], dim=1),
    ]
    shape = [n, 1, int(size[0]), int(size[1])]
    grid = functional.affine_grid(torch.stack(rows, dim=1), shape, align_corners=False)
    return functional.grid_sample(pictures, grid.to(pictures.dtype), align_corners=False)


def expose(pictures: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Change gamma and the steepness of the grey scale."""
    gamma = torch.exp(uniform(len(pictures), rng, -GAMMA, GAMMA))
    steep = 1 + uniform(len(pictures), rng, -CONTRAST, CONTRAST)
    return (pictures.clamp(min=1e-6) ** gamma * steep).clamp(0, 1) * (pictures > 0)

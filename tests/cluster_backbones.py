"""A backbone for the nodes of a cluster, told what to do by a file while it is at work."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from embedstore.images.recipe import RECIPES
from embedstore.types import Spec

DARK = 100
"""The brightest pixel of film 0; that of film n is n more."""


class Told:
    """Sums and maxima of the channels, and a line in a file for every batch.

    The file it is told by is JSON:

    - log: gets the process of every batch, as it begins
    - seconds: what a batch takes
    - slow: the film whose batch takes three seconds, and is logged when it is done
    - deadly: the film whose batch ends the process
    - poison: films from this one on give no finite vector
    - gates: [film, processes]: its batch waits until so many processes have had one
    """

    def __init__(self, told: Path, mean: float = 0.0, weights: str = "0") -> None:
        recipe = replace(RECIPES["plain"], scale="dtype", size=(32, 32))
        recipe = replace(recipe, mean=(mean,) * 3, std=(0.5,) * 3)
        self.told, self.mean = told, mean
        self.spec = Spec("told", weights, recipe, "pooled", 6)

    def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
        told = json.loads(self.told.read_text())
        brightest = batch.amax((1, 2, 3)) * 0.5 + self.mean
        films = (brightest * 255).round().int() - DARK
        if told.get("deadly") in films.tolist():
            os.kill(os.getpid(), signal.SIGKILL)
        self.wait(told, films.tolist())
        vectors = torch.cat([batch.sum((2, 3)), batch.amax((2, 3))], dim=1)
        vectors[films >= told.get("poison", 1000)] = torch.nan
        return vectors

    def wait(self, told: dict[str, Any], films: list[int]) -> None:
        log = Path(told["log"])
        if told.get("slow") in films:
            time.sleep(3)
            write(log, f"{os.getpid()} slow")
            return
        write(log, f"{os.getpid()}")
        time.sleep(told.get("seconds", 0))
        for film, wanted in told.get("gates", ()):
            deadline = time.monotonic() + 60
            while max(films) >= film and len(set(processes(log))) < wanted:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        raise AssertionError(texts)


def write(log: Path, line: str) -> None:
    with log.open("a") as handle:
        handle.write(f"{line}\n")


def processes(log: Path) -> list[int]:
    """Return the process of every batch that was begun so far."""
    return [int(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []

"""Shared by the tests: synthetic films, random stores, and where the real films are."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# two workers on two cores: threads of each would wait for one another, in children, too
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

REAL_FILMS = Path(__file__).parents[2] / "shared" / "mini-mias" / "manifest.csv"


def half_ellipse(rng: np.random.Generator, size: int = 96, bright: int = 120) -> np.ndarray:
    """Draw a breast with its chest wall at the left: a bright half ellipse on black."""
    y, x = np.mgrid[:size, :size]
    inside = (x / (0.6 * size)) ** 2 + ((y - size / 2) / (0.42 * size)) ** 2 < 1
    film = np.where(inside, bright + rng.normal(0, 12, (size, size)), 0)
    return np.clip(film, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start Chromium, headless; skip where there is none."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Write twelve films of six patients in two classes; return the manifest."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        label = "bright" if i // 2 % 2 else "dark"
        name = f"film{i:02d}.png"
        pixels = half_ellipse(rng, bright=170 if label == "bright" else 90)
        Image.fromarray(pixels).save(tmp_path / name)
        rows.append({"image": name, "patient": f"pat{i // 2}", "tissue": label})
    manifest = tmp_path / "manifest.csv"
    with manifest.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest

"""Laterality and view against drawn outlines, phantoms and real films that know theirs."""

import csv
from collections.abc import Iterable

import numpy as np
import pytest
from conftest import REAL_FILMS
from numpy.typing import NDArray
from PIL import Image

from embedstore.images.anatomy import Finding, laterality, view
from embedstore.images.mammogram import find
from embedstore.phantoms import films, render

Answers = list[tuple[str, str]]  # (answer, truth)


def oval(up: float, down: float, middle: float = 0.5) -> NDArray[np.bool_]:
    """Half an oval on the left edge, (400, 320): half heights and middle of the image's height."""
    y, x = np.mgrid[0:1:400j, 0:0.8:320j]
    half = np.where(y < middle, up, down)
    return np.asarray(((y - middle) / half) ** 2 + (x / 0.4) ** 2 < 1)


def pear() -> NDArray[np.bool_]:
    """An MLO's outline: half as wide at the top edge as at the nipple, closed below."""
    y, x = np.mgrid[0:1:400j, 0:0.8:320j]
    tail = 0.2 + 0.2 * np.sin(np.pi / 2 * y / 0.6) ** 2
    lower = 0.4 * np.sqrt(np.clip(1 - ((y - 0.6) / 0.3) ** 2, 0, None))
    return np.asarray(x < np.where(y < 0.6, tail, lower))


def found(region: NDArray[np.bool_], whole: bool = False) -> Finding:
    return Finding(False, region, whole, region)


@pytest.mark.parametrize(
    ("outline", "expected"),
    [
        (oval(0.3, 0.3), "CC"),
        (oval(0.35, 0.26), "CC"),  # uneven, but well below the top edge
        (oval(0.6, 0.6), "CC"),  # cut by the film above and below
        (pear(), "MLO"),
        (pear()[:380], "MLO"),
        (oval(0.5, 0.37), ""),  # at the top edge, and neither even nor lopsided
        (np.roll(pear(), 40, axis=0) & (np.arange(400)[:, None] >= 40), ""),
    ],
    ids=["even", "uneven", "cut", "pear", "cut pear", "between", "pear below the top"],
)
def test_the_view_of_drawn_outlines(outline: NDArray[np.bool_], expected: str) -> None:
    assert view(found(outline)) == expected
    assert view(found(outline[:, ::-1])) == expected


@pytest.mark.parametrize("outline", [oval(0.3, 0.3), pear()], ids=["CC", "MLO"])
def test_the_chest_wall_at_the_left_is_a_left_breast(outline: NDArray[np.bool_]) -> None:
    assert laterality(found(outline)) == "L"
    assert laterality(found(outline[:, ::-1])) == "R"


def test_where_no_breast_stands_out_nothing_is_said() -> None:
    nothing = found(np.ones((50, 40), np.bool_), whole=True)
    assert laterality(nothing) == ""
    assert view(nothing) == ""


def test_a_film_shown_negative_says_the_same() -> None:
    for outline, expected in ((oval(0.3, 0.3), "CC"), (pear(), "MLO")):
        grey = np.where(outline[:, ::-1], 150, 8).astype(np.uint8)
        for shown in (grey, 255 - grey):
            assert laterality(find(shown)) == "R"
            assert view(find(shown)) == expected


def right(answers: Answers) -> float:
    """Share of the answers given that are right."""
    return float(np.mean([a == truth for a, truth in answers if a]))


def answered(answers: Answers) -> float:
    return float(np.mean([a != "" for a, _ in answers]))


def judged(pictures: Iterable[tuple[NDArray[np.uint8], str, str]]) -> tuple[Answers, Answers]:
    """Laterality's and view's answers to (picture, laterality, view)."""
    sides: Answers = []
    views: Answers = []
    for grey, side, seen in pictures:
        finding = find(grey)
        sides.append((laterality(finding), side))
        views.append((view(finding), seen))
    return sides, views


def test_phantoms_the_thresholds_were_not_chosen_on() -> None:
    listed = [film for seed in (10, 11) for film in films(12, seed)]
    sides, views = judged((render(f, 256), f.laterality, f.view) for f in listed)
    assert np.mean([a == truth for a, truth in sides]) >= 0.98
    assert right(views) >= 0.95
    for kind in ("CC", "MLO"):
        assert answered([(a, truth) for a, truth in views if truth == kind]) >= 0.8


@pytest.mark.skipif(not REAL_FILMS.exists(), reason="the films are not beside the repository")
def test_real_films_the_thresholds_were_not_chosen_on() -> None:
    with REAL_FILMS.open() as table:
        rows = list(csv.DictReader(table))[1::2]
    sides, views = judged(
        (
            np.asarray(Image.open(REAL_FILMS.parent / row["image"]).convert("L")),
            row["laterality"],
            row["view"],
        )
        for row in rows
    )
    assert np.mean([a == truth for a, truth in sides]) >= 0.98
    assert right(views) >= 0.95
    assert answered(views) >= 0.8

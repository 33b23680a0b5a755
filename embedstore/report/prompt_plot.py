"""What words do, as a picture: the score beside the answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedstore.metrics import TITLES
from embedstore.output import put
from embedstore.prompt_bench import Bench
from embedstore.tournament import Effect

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 40
_LETTERS = (28, 44)  # of a part, of a choice


def draw_wording(found: Bench, file: Path, force: bool = False) -> None:
    """Draw, of each choice for a part of a prompt, what it does to the score and to the answers.

    `file` ends in `.png`, `.svg` or `.pdf`; one that is there is replaced only with `force`.
    """
    from matplotlib.figure import Figure

    shown = found.effects[:_MOST]
    height = 1.6 + 0.24 * max(4, len(shown))
    figure = Figure(figsize=(11, height), layout="constrained")
    score, answers = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    if not shown:
        score.set(title="no two variants differ in one part only: there is nothing to compare")
    else:
        _score(score, shown, TITLES.get(found.by, found.by))
        _answers(figure, answers, shown, found.contest.classes)
    figure.suptitle(
        f"{found.contest.asked.label}, {found.contest.spec.backbone}: what words do, against the "
        f"other choices with all else alike",
        fontsize=10,
    )
    with put(file, force) as fresh:
        figure.savefig(fresh, format=file.suffix[1:], dpi=150)


def _score(panel: Axes, shown: Sequence[Effect], by: str) -> None:
    places = np.arange(len(shown))
    changes = [one.change for one in shown]
    panel.axvline(0, color="grey", linewidth=1)
    panel.hlines(places, 0, changes, color="black", linewidth=1)
    panel.plot(changes, places, "o", color="black", markersize=4)
    for place in places[1:]:
        if shown[place].part != shown[place - 1].part:
            panel.axhline(place - 0.5, color="lightgrey", linewidth=0.8)
    panel.set_yticks(places, [_named(one) for one in shown])
    panel.tick_params(axis="y", labelsize=7)
    panel.set(xlabel=f"change of {by}", ylim=(len(shown) - 0.5, -0.5))


def _answers(figure: Figure, panel: Axes, shown: Sequence[Effect], classes: Sequence[str]) -> None:
    moved = 100 * np.array([one.answers for one in shown])
    most = max(1.0, float(np.abs(moved).max()))
    drawn = panel.imshow(moved, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most)
    names = [_short(c, _LETTERS[0]) for c in classes]
    panel.set_xticks(range(len(classes)), names, rotation=20, ha="right")
    panel.tick_params(axis="y", left=False, labelleft=False)
    panel.set(xlabel="answers")
    figure.colorbar(drawn, ax=panel, label="change of their share, %")


def _named(one: Effect) -> str:
    part, choice = _LETTERS
    return f"{_short(one.part, part)}: {_short(one.choice or '(nothing)', choice)}"


def _short(text: str, letters: int) -> str:
    cut = text if len(text) <= letters else f"{text[: letters - 1]}…"
    return cut.replace("$", r"\$")  # a dollar would begin mathematics

"""Prompt variants against each other, on vectors that are already there.

Arrays in, dataclasses out: no store, no backbone, no files.
"""

from embedstore.tournament.better import best_variant, ensemble, per_class
from embedstore.tournament.collapse import Leaning, collapsed, leaning
from embedstore.tournament.entries import Entries, Task, Wording
from embedstore.tournament.honest import Honest, Pick, honest
from embedstore.tournament.play import Result, play
from embedstore.tournament.scores import (
    METRICS,
    Scores,
    Side,
    choosing_rows,
    choosing_side,
    probabilities,
    scored,
    tested_side,
)
from embedstore.tournament.table import Against, Standing, standings, to_show
from embedstore.tournament.wording import Effect, effects

__all__ = [
    "METRICS",
    "Against",
    "Effect",
    "Entries",
    "Honest",
    "Leaning",
    "Pick",
    "Result",
    "Scores",
    "Side",
    "Standing",
    "Task",
    "Wording",
    "best_variant",
    "choosing_rows",
    "choosing_side",
    "collapsed",
    "effects",
    "ensemble",
    "honest",
    "leaning",
    "per_class",
    "play",
    "probabilities",
    "scored",
    "standings",
    "tested_side",
    "to_show",
]

"""What a study found: all that its page, its tables and its JSON show, in one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedstore.answered import Answered
from embedstore.audit.findings import Audit
from embedstore.results import Report, Score
from embedstore.scoring import Compared
from embedstore.types import Floats, Pixels

Kind = Literal["probe", "finetune", "prompts"]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to answer, as it was judged.

    Attributes
    ----------
    name
        Unique in the study: ``biomedclip/logistic``.
    trained
        How many parameters were fitted.
    seconds
        What training and answering took, without the embedding.
    """

    name: str
    kind: Kind
    report: Report
    answered: Answered
    trained: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A learning curve: one report for each share of the labels, smallest first.

    `parity` is how many labelled images the curve needs to reach the best fine-tune's score, None
    where it never does or there is none.
    """

    name: str
    reports: tuple[Report, ...]
    parity: float | None


@dataclass(frozen=True, slots=True)
class Wording:
    """One line of a prompt tournament."""

    name: str
    metrics: Mapping[str, tuple[float, float, float]]
    commonest: str
    collapsed: bool


@dataclass(frozen=True, slots=True)
class Tournament:
    """The best wordings of a backbone and its collapsed ones, and how many there were.

    `collapsed` are some of the `n_collapsed`, those that score best.
    """

    backbone: str
    set: str
    variants: int
    optimism: float | None
    best: tuple[Wording, ...]
    collapsed: tuple[Wording, ...]
    n_collapsed: int = 0


@dataclass(frozen=True, slots=True)
class Map:
    """The vectors of one backbone in two dimensions.

    Attributes
    ----------
    places
        (n, 2) in 0..1.
    labels, ids
        (n,).
    pictures
        n of (h, w) uint8, small; None where none are kept.
    how
        The method and its settings, in words.
    """

    backbone: str
    places: Floats
    labels: NDArray[np.str_]
    ids: NDArray[np.str_]
    pictures: tuple[Pixels, ...] | None
    how: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What one choice of a protocol is worth: a probe's score where only that is as in a study.

    Attributes
    ----------
    difference
        Value, low and high of what it has more than the corrected protocol, which itself has None.
    paired
        Whether both were tested on the same images, so that the interval is of paired draws.
    """

    name: str
    score: Score
    difference: tuple[float, float, float] | None
    paired: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """A whole study.

    Attributes
    ----------
    reference
        The contender that `compared` sets the others against.
    compared
        Paired differences, p corrected for their number, by the contender's name; those that did
        not answer for the same images are not there.
    groupings
        Classes scored against all others.
    methods
        Sentences for a paper, with every version, seed and fingerprint.
    notes
        What must be said.
    metric
        What wordings are ranked by, and parity and the best contender are told by.
    choices
        The corrected protocol first; empty but where a study's protocol is set beside it.
    strangers
        Images whose patient is not known; each counts as one of its own.
    """

    title: str
    store: str
    label: str
    classes: tuple[str, ...]
    split: str
    split_fingerprint: str
    images: int
    patients: int
    contenders: tuple[Contender, ...]
    reference: str
    compared: Mapping[str, Compared]
    groupings: tuple[tuple[str, ...], ...]
    curves: tuple[Curve, ...]
    tournaments: tuple[Tournament, ...]
    audits: tuple[Audit, ...]
    maps: tuple[Map, ...]
    methods: tuple[str, ...]
    citation: str
    notes: tuple[str, ...]
    metric: str = "auroc"
    choices: tuple[Choice, ...] = ()
    strangers: int = 0

"""What is compared: areas of tasks, and who contends in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Task = Callable[[Path], Any]
"""Does the work and returns its answer, an array; may write into the empty folder it is given."""


class Work(NamedTuple):
    """A task that is timed, less another where starting up shall not count."""

    run: Task
    less: Task | None = None


class Contender(NamedTuple):
    """Who: its environment, "" for embedstore's own, and what it does with the data of a folder."""

    environment: str
    start: Callable[[Path], Mapping[str, Work]]


class Bound(NamedTuple):
    """How far answers may lie apart, and in what."""

    limit: float
    measure: str
    once: bool = False
    """Too long to be done in every round."""


@dataclass(frozen=True, slots=True)
class Area:
    """A part of the work of which there are other tools.

    Attributes
    ----------
    make
        Puts the data into a folder, little of it if so asked, and says what it is.
    apart
        How far a contender's answer to a task is from what it should be: from the data themselves,
        from numpy's answer or else from embedstore's, which is given last.
    """

    title: str
    tasks: Mapping[str, Bound]
    contenders: Mapping[str, Contender]
    make: Callable[[Path, bool], str]
    apart: Callable[[str, Path, Any, Any], float]

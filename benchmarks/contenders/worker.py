"""A contender in a process and an environment of its own, which does tasks when told to.

python -m benchmarks.contenders.worker PIPE AREA CONTENDER FOLDER
"""

from __future__ import annotations

import gc
import importlib
import sys
import tempfile
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.area import Area, Task, Work

LEAST = 0.3  # seconds; what takes less is done again and again


def once(task: Task, folder: Path) -> tuple[float, Any]:
    """Seconds of a task and its answer."""
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        gc.collect()
        began = time.perf_counter()
        answer = task(Path(empty))
        return time.perf_counter() - began, answer


def timed(work: Work, folder: Path) -> tuple[float, Any]:
    """Mean seconds of some calls, and the last answer."""
    taken: list[float] = []
    while sum(taken) < LEAST:
        seconds, answer = once(work.run, folder)
        taken.append(seconds)
    fixed = once(work.less, folder)[0] if work.less else 0.0
    return sum(taken) / len(taken) - fixed, answer


def main() -> None:
    """Start, say what can be done, and do what is asked for until nobody listens."""
    pipe, area, name, folder = sys.argv[1:]
    warnings.simplefilter("ignore")
    found: Area = importlib.import_module(f"benchmarks.contenders.{area}").AREA
    with Connection(int(pipe)) as parent:
        works = found.contenders[name].start(Path(folder))
        parent.send(list(works))
        while True:
            try:
                task, where = parent.recv()
            except EOFError:
                return
            seconds, answer = timed(works[task], Path(folder))
            if where:
                np.save(where, np.asarray(answer))
            parent.send(seconds)


if __name__ == "__main__":
    main()

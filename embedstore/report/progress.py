"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_SECONDS = 10.0


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Render how many a second."""
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else "", style="cyan")


@contextmanager
def progress(
    console: Console, title: str, unit: str = "images"
) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that shows how far the work is."""
    if not console.is_terminal:
        yield _Lines(console, title, unit).show
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    def __init__(self, console: Console, title: str, unit: str) -> None:
        self.console = console
        self.title, self.unit = title, unit
        self.began = self.shown = time.monotonic()

    def show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.shown < LINE_SECONDS and done < total:
            return
        self.shown = now
        pace = self._pace(done, total, max(now - self.began, 1e-9))
        self.console.print(f"{self.title}: {done} of {total}{pace}", highlight=False)

    def _pace(self, done: int, total: int, seconds: float) -> str:
        """Say how fast it goes and how long it will take, once there is something to tell by."""
        if not done:
            return f" {self.unit}"
        rate, left = done / seconds, (total - done) * seconds / done
        pace = f"{rate:.1f} {self.unit}/s" if rate >= 0.1 else f"{1 / rate:.0f} s for each"
        return f", {pace}, {left:.0f} s left"

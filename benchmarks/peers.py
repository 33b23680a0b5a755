"""embedstore against what one would otherwise use: same task, data and answers, in one run.

make bench                    # some 20 minutes on 2 cores, and what the peers take to install
make bench QUICK=1            # small sizes, whose ratios say little
python -m benchmarks.peers [--quick] [--only extract,probes,prompts,search,store]

Every contender is a process in an environment of its own (peers.txt), started beforehand. Each
round goes through all of them, and a ratio is of two times of the same round. Before the rounds
each does the task once, and that answer is compared.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import environments
from benchmarks.contenders.area import Area

AREAS = ("extract", "probes", "prompts", "search", "store")
OURS = "embedstore"
PATIENCE = 900  # seconds for one task
PAUSE = 0.3  # threads of the last one spin a while
RESULT = Path(__file__).parent / "results" / "peers.json"
PICTURE = environments.ROOT / "docs" / "peers.svg"
Say = Callable[[str], None]


class Failed(Exception):
    """A contender could not be installed or started, or a task of its failed."""


@dataclass(frozen=True, slots=True)
class Row:
    """A peer at a task; ratios are how many times as long as embedstore it takes."""

    area: str
    data: str
    task: str
    peer: str
    version: str
    seconds: float
    our_seconds: float
    ratio: float
    least: float
    most: float
    rounds: int
    apart: float
    our_apart: float
    limit: float
    measure: str

    @property
    def agrees(self) -> bool:
        """Whether the answers are the same, within what is stated."""
        return self.apart <= self.limit


class Process:
    """A contender in a process of its own, waiting for tasks; what it prints goes into a file."""

    def __init__(self, area: str, name: str, environment: str, folder: Path) -> None:
        try:
            python = environments.python(environment) if environment else Path(sys.executable)
        except RuntimeError as error:
            raise Failed(str(error)) from error
        environments.BUILT.mkdir(parents=True, exist_ok=True)
        self._log = environments.BUILT / f"{area} {name}.log"
        self._connection, theirs = Pipe()
        worker = [str(python), "-m", "benchmarks.contenders.worker", str(theirs.fileno())]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*worker, area, name, str(folder)],
                stdout=log,
                stderr=log,
                cwd=environments.ROOT,
                env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
                pass_fds=[theirs.fileno()],
            )
        theirs.close()
        self.tasks: list[str] = self._received()

    def run(self, task: str, answer: Path | None = None) -> float:
        """Seconds it took; the answer goes into a file."""
        time.sleep(PAUSE)
        self._connection.send((task, str(answer) if answer else ""))
        found: float = self._received()
        return found

    def stop(self) -> None:
        """End it; it goes by itself when nobody listens, and tidies up."""
        self._connection.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _received(self) -> Any:
        if not self._connection.poll(PATIENCE):
            self.stop()
            raise Failed(f"no answer in {PATIENCE} s")
        try:
            return self._connection.recv()
        except EOFError:
            self.stop()
            said = self._log.read_text(errors="replace").strip().splitlines() or ["it ended"]
            raise Failed(said[-1]) from None


@dataclass(slots=True)
class Series:
    """What was measured of a contender at a task: seconds of each round, and its answer."""

    seconds: list[float]
    apart: float


def measure(name: str, quick: bool, rounds: int, say: Say) -> tuple[list[Row], dict[str, str]]:
    """Return what came out of an area, and who failed and why."""
    area: Area = importlib.import_module(f"benchmarks.contenders.{name}").AREA
    running: dict[str, Process] = {}
    failed: dict[str, str] = {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        say(f"{area.title}: data")
        data = area.make(folder, quick)
        for who, contender in area.contenders.items():
            say(f"{area.title}: {who} starts")
            try:
                running[who] = Process(name, who, contender.environment, folder)
            except Failed as error:
                if who == OURS:
                    raise
                failed[who] = str(error)
        try:
            for task in area.tasks:
                able = {who: p for who, p in running.items() if task in p.tasks}
                found = in_turn(area, task, able, folder, rounds, failed, say)
                for who in failed:
                    running.pop(who, None)
                for who, series in found.items():
                    if who != OURS:
                        rows.append(row(area, data, task, who, series, found[OURS]))
        finally:
            for process in running.values():
                process.stop()
    return rows, failed


def in_turn(
    area: Area,
    task: str,
    able: dict[str, Process],
    folder: Path,
    rounds: int,
    failed: dict[str, str],
    say: Say,
) -> dict[str, Series]:
    """Let each do the task once, compare the answers, then time them round by round."""
    bound, answers, found = area.tasks[task], {}, {}
    for who, process in able.items():
        say(f"{area.title}: {task}: {who}")
        try:
            seconds = process.run(task, folder / "answer.npy")
        except Failed as error:
            if who == OURS:
                raise
            failed[who] = str(error)
            continue
        answers[who] = np.load(folder / "answer.npy")
        apart = area.apart(task, folder, answers[who], answers[OURS])
        found[who] = Series([seconds] if bound.once else [], apart)
    for number in range(0 if bound.once else rounds):
        say(f"{area.title}: {task}: round {number + 1} of {rounds}")
        for who, series in found.items():
            series.seconds.append(able[who].run(task))
    return found


def row(area: Area, data: str, task: str, who: str, theirs: Series, ours: Series) -> Row:
    """Put ratios together."""
    environment, bound = area.contenders[who].environment, area.tasks[task]
    ratios = [a / b for a, b in zip(theirs.seconds, ours.seconds, strict=True)]
    return Row(
        area=area.title,
        data=data,
        task=task,
        peer=who,
        version=environments.version(environment) if environment else "",
        seconds=short(statistics.median(theirs.seconds)),
        our_seconds=short(statistics.median(ours.seconds)),
        ratio=short(statistics.median(ratios)),
        least=short(min(ratios)),
        most=short(max(ratios)),
        rounds=len(ratios),
        apart=float(f"{theirs.apart:.1e}"),
        our_apart=float(f"{ours.apart:.1e}"),
        limit=bound.limit,
        measure=bound.measure,
    )


def short(number: float) -> float:
    """Three digits."""
    return float(f"{number:.3g}")


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of the documents."""
    out = ["| | peer | its seconds | ours | times as long | answers differ by |", "|" + "---|" * 6]
    before = ""
    for each in rows:
        what = f"{each.area}: {each.task}"
        cells = [what if what != before else "", f"{each.peer} {each.version}".strip()]
        cells += [f"{each.seconds:g}", f"{each.our_seconds:g}", spread(each), differs(each)]
        out.append(f"| {' | '.join(cells)} |")
        before = what
    return "\n".join(out)


def spread(each: Row) -> str:
    """Return the ratio and its range."""
    ratio = f"{each.ratio:g}"
    return ratio if each.rounds == 1 else f"{ratio} ({each.least:g} to {each.most:g})"


def differs(each: Row) -> str:
    """Return how far answers differ, marked where that is more than stated."""
    return f"{each.apart:g}" + ("" if each.agrees else " (not the same)")


def show(rows: Sequence[Row], console: Console) -> None:
    """Print wins and losses."""
    table = Table("", "peer", "its s", "ours", "times as long", "answers differ by", box=SIMPLE)
    before = ""
    for each in rows:
        what = f"{each.area}: {each.task}"
        style = "green" if each.least > 1 else "red" if each.most < 1 else "yellow"
        ratio = f"[{style}]{spread(each)}[/]"
        cells = (f"{each.peer} {each.version}", f"{each.seconds:g}", f"{each.our_seconds:g}")
        table.add_row(what if what != before else "", *cells, ratio, differs(each))
        before = what
    console.print(table)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw all ratios on one scale, with their ranges."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.hashsalt": "embedstore", "font.size": 8}):
        figure, axes = plt.subplots(
            figsize=(8, 1 + 0.19 * (len(rows) + len({r.task for r in rows})))
        )
        places, labels, at, before = [], [], 0.0, ""
        for each in rows:
            what = f"{each.area}: {each.task}"
            if what != before:
                axes.text(0.01, at + 0.2, what, transform=axes.get_yaxis_transform(), weight="bold")
                at, before = at + 1, what
            colour = "#0072b2" if each.least > 1 else "#d55e00" if each.most < 1 else "#777777"
            axes.plot([each.least, each.most], [at, at], color=colour, linewidth=2)
            filled = colour if each.agrees else "white"
            axes.plot(each.ratio, at, "o", color=colour, markerfacecolor=filled, markersize=5)
            places.append(at)
            labels.append(each.peer)
            at += 1
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(xscale="log", yticks=places, yticklabels=labels, ylim=(at, -1))
        axes.set_xlabel("time of the peer / time of embedstore; left of 1 the peer is faster")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)


def joined(
    rows: list[Row], failed: dict[str, str], measured: Sequence[str]
) -> tuple[list[Row], dict[str, str]]:
    """Add what an earlier run found of the areas that were not measured now."""
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": [], "not_measured": {}}
    titles = [importlib.import_module(f"benchmarks.contenders.{n}").AREA.title for n in AREAS]
    new = [titles[AREAS.index(name)] for name in measured]
    found = rows + [Row(**each) for each in before["rows"] if each["area"] not in new]
    kept = {w: y for w, y in before["not_measured"].items() if w.split(": ")[0] not in measured}
    return sorted(found, key=lambda row: titles.index(row.area)), kept | failed


def save(rows: Sequence[Row], failed: dict[str, str], path: Path, picture: Path) -> None:
    """Keep the figures, draw them, and put the documents' table beside the environments."""
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
        "not_measured": failed,
        "rows": [asdict(each) for each in rows],
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
    draw(rows, picture)
    (environments.BUILT / "peers.md").write_text(markdown(rows) + "\n")


def main() -> None:
    """Measure, print, save and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes; nothing is kept")
    parser.add_argument("--only", default=",".join(AREAS), help="others keep their figures")
    parser.add_argument("--rounds", type=int)
    given = parser.parse_args()
    rounds = given.rounds or (2 if given.quick else 3)
    console = Console(width=None if sys.stdout.isatty() else 120)
    began = time.monotonic()

    def say(what: str) -> None:
        console.print(f"{time.monotonic() - began:5.0f} s  {what}", highlight=False)

    rows: list[Row] = []
    failed: dict[str, str] = {}
    for name in given.only.split(","):
        more, out = measure(name, given.quick, rounds, say)
        rows += more
        failed |= {f"{name}: {who}": why for who, why in out.items()}
    show(rows, console)
    for who, why in failed.items():
        console.print(f"{who} was not measured: {why}", markup=False)
    if given.quick:
        save(rows, failed, environments.BUILT / "peers.json", environments.BUILT / "peers.svg")
    else:
        rows, failed = joined(rows, failed, given.only.split(","))
        save(rows, failed, RESULT, PICTURE)
    if any(not each.agrees for each in rows):
        console.print("some answers are not the same, see the last column")


if __name__ == "__main__":
    main()

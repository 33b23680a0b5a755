"""The workers of a cluster, one on each node or GPU, and the batches they are given."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RaySystemError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from embedstore.backlog import Job
from embedstore.cluster.worker import About, Embedded, Setting, Worker
from embedstore.encode import Vectors
from embedstore.errors import EmbedstoreError, UsageError
from embedstore.feed import Batch, Feed
from embedstore.plan import Plan
from embedstore.types import Backbone, Sample, Spec

AT_WORK = 4
"""Batches a worker has at once: one in the model, the others being read."""

DEATHS = 5
"""How often the worker of a batch, or one in a place, may die before that is no accident."""

_LOOK = 1.0  # seconds between two looks at what nodes there are

_Place = tuple[str, int]
"""A node, and which of its GPUs."""


@dataclass(slots=True, eq=False)
class _Member:
    place: _Place
    actor: Any
    at_work: int = 0
    dead: bool = False


@dataclass(slots=True)
class _Work:
    """The batches of a feed, by the number of their first image: a heap of those to be done."""

    feed: Feed
    job: Job
    todo: list[int]
    at_work: dict[Any, tuple[int, _Member, int]] = field(default_factory=dict)
    done: dict[int, Embedded] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)


class Fleet:
    """Workers on all nodes of the cluster that was joined; a context manager, which ends them.

    A node that joins gets its workers while others are at work. With the model on CPUs a worker
    takes all processors of its node; else a GPU and its share of the processors.

    Parameters
    ----------
    load
        Loads the backbones on a device; called on every node.
    specs
        What it must give.
    device
        ``cpu``, ``cuda``, or ``auto``: GPUs where there are any.
    readers
        Reader processes of each worker; -1: chosen.

    Attributes
    ----------
    device
        As chosen.
    limit
        The most images one call of a backbone takes, on the node with the least memory.
    died
        Workers that died so far, or whose node did.

    Raises
    ------
    UsageError
        No node has such a device.
    """

    def __init__(
        self,
        load: Callable[[str], Sequence[Backbone]],
        specs: Sequence[Spec],
        device: str = "auto",
        readers: int = -1,
    ) -> None:
        self.device = ("cuda" if _places("cuda") else "cpu") if device == "auto" else device
        self.limit = self.died = 0
        self._setting = Setting(load, tuple(specs), self.device, 1, readers, Path.cwd())
        self._starting: dict[Any, _Member] = {}
        self._ready: dict[_Place, _Member] = {}
        self._deaths: Counter[_Place] = Counter()
        self._about: dict[_Place, About] = {}
        self._looked = -_LOOK
        self._last_words = ""
        if not _places(self.device):
            what = "GPU" if self.device == "cuda" else "processor"
            raise UsageError(f"no node of the Ray cluster has a {what}")

    def __enter__(self) -> Fleet:
        """Start the workers."""
        self._recruit()
        return self

    def __exit__(self, *error: object) -> None:
        """End the workers, whatever they are doing."""
        for member in [*self._ready.values(), *self._starting.values()]:
            _end(member)

    def __str__(self) -> str:
        """One line for the user."""
        places = _places(self.device)
        nodes, workers = len({node for node, _ in places}), len(places)
        return (
            f"Ray {ray.__version__}, {nodes} node{'s' * (nodes != 1)}, "
            f"{workers} worker{'s' * (workers != 1)}"
        )

    @property
    def about(self) -> About:
        """What the first worker says of itself, once it is there."""
        self._wait_for_one()
        return next(iter(self._about.values()))

    @property
    def made(self) -> dict[str, Any]:
        """What the provenance of the vectors says of the cluster, besides the plan."""
        nodes, workers = len({node for node, _ in self._about}), len(self._about)
        counts = {"nodes": nodes, "workers": workers, "died": self.died}
        return {"ray": {"version": ray.__version__, **counts}}

    def find_batch_size(self, plan: Plan, images: int) -> int:
        """Find by trying how many images at a time the first worker encodes fastest."""
        while True:
            member = self._wait_for_one()
            try:
                return int(_result(member.actor.find_batch_size.remote(plan, images)))
            except RayError as error:
                self._lose(member, error)

    def encoders(self, plan: Plan) -> AbstractContextManager[Fleet]:
        """Return itself, to embed by a plan."""
        self.limit = plan.batch_size
        return nullcontext(self)

    def encoded(self, feed: Feed, job: Job) -> Generator[tuple[Batch, Vectors]]:
        """Yield the batches of a feed with their vectors, in order.

        Raises
        ------
        EmbedstoreError
            A node cannot see an image or the store, or a batch ends every worker that has it.
        """
        size = feed.plan.batch_size
        work = _Work(feed, job, list(range(0, len(feed), size)))
        try:
            for start in range(0, len(feed), size):
                while True:
                    self._recruit()
                    self._give(work, start)
                    self._take(work, 0.0 if start in work.done else _LOOK)
                    if start in work.done:
                        break
                embedded = work.done.pop(start)
                self.limit = min(self.limit, embedded.limit)
                yield _counted(feed, start, embedded), embedded.vectors
        finally:
            for _, member, room in work.at_work.values():  # of a run that was stopped
                member.at_work -= room

    def _give(self, work: _Work, awaited: int) -> None:
        """Give out batches, the earliest first, but none far ahead of the one that is awaited."""
        size, members = work.feed.plan.batch_size, self._ready.values()
        keys, end = [b.spec.key for b in work.job.backbones], 2 * AT_WORK * size * len(members)
        while members and work.todo and work.todo[0] < awaited + end:
            member = min(members, key=lambda m: m.at_work)
            # one whose worker died alone, so that it is known whether it was the cause
            room = AT_WORK if work.deaths[work.todo[0]] else 1
            if member.at_work + room > AT_WORK:
                break
            start = heapq.heappop(work.todo)
            part = _part(work.feed, slice(start, start + size))
            ref = member.actor.embed.remote(part, keys, work.job.keep)
            work.at_work[ref] = start, member, room
            member.at_work += room

    def _take(self, work: _Work, seconds: float) -> None:
        """Take what comes first within some seconds: a batch, or a worker that is ready."""
        ref = _first([*work.at_work, *self._starting], seconds)
        if ref in self._starting:
            self._settle(ref)
        elif ref is not None:
            start, member, room = work.at_work.pop(ref)
            member.at_work -= room
            try:
                work.done[start] = _result(ref)
                self._deaths[member.place] = 0
            except RayError as error:
                if isinstance(error, RayActorError):  # else only what it had made is lost
                    self._lose(member, error)
                self._again(work, start, error)

    def _again(self, work: _Work, start: int, error: RayError) -> None:
        """Let a batch be done by another worker, unless it is the batch that ends them."""
        heapq.heappush(work.todo, start)
        work.deaths[start] += 1
        if work.deaths[start] == DEATHS:
            first, last = (
                work.feed.samples[n].id
                for n in (start, min(start + work.feed.plan.batch_size, len(work.feed)) - 1)
            )
            raise EmbedstoreError(
                f"{DEATHS} workers died of a batch, images {first} to {last} ({_reason(error)})"
            )

    def _recruit(self) -> None:
        """Start a worker in every place that has none: nodes come, and workers die.

        Raises
        ------
        EmbedstoreError
            They do nothing else.
        """
        if time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        taken = self._ready.keys() | {m.place for m in self._starting.values()}
        places = _places(self.device)
        for place, needs in places.items():
            if place not in taken and self._deaths[place] < DEATHS:
                strategy = NodeAffinitySchedulingStrategy(place[0], soft=False)
                options = {"max_concurrency": AT_WORK, "scheduling_strategy": strategy, **needs}
                actor: Any = ray.remote(Worker).options(**options).remote()
                setting = replace(self._setting, processors=max(1, needs["num_cpus"]))
                self._starting[actor.load.remote(setting)] = _Member(place, actor)
        if places and not self._ready and not self._starting:
            raise EmbedstoreError(f"the workers of the Ray cluster die ({self._last_words})")

    def _wait_for_one(self) -> _Member:
        while not self._ready:
            self._recruit()
            ref = _first(list(self._starting), _LOOK)
            if ref is not None:
                self._settle(ref)
        return next(iter(self._ready.values()))

    def _settle(self, ref: Any) -> None:
        """Count a worker that has started among those that are ready; raise what kept it."""
        member = self._starting.pop(ref)
        try:
            self._about[member.place] = _result(ref)
            self._ready[member.place] = member
        except RaySystemError as error:  # it was sent what it cannot import
            raise EmbedstoreError(f"a worker cannot start ({_reason(error)})") from error
        except RayError as error:
            self._lose(member, error)

    def _lose(self, member: _Member, error: RayError) -> None:
        """Do without a worker that has died."""
        if member.dead:
            return  # its other batches said so
        member.dead = True
        self._ready.pop(member.place, None)
        _end(member)
        self.died += 1
        self._deaths[member.place] += 1
        self._last_words = _reason(error)


def _places(device: str) -> dict[_Place, dict[str, int]]:
    """Map every place a worker can have to what it takes of its node."""
    found: dict[_Place, dict[str, int]] = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        has = node["Resources"] if node["Alive"] else {}
        processors, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
        if device == "cuda":
            share = {"num_cpus": processors // max(1, gpus), "num_gpus": 1}
            found |= {(node["NodeID"], n): share for n in range(gpus)}
        elif processors:
            found[node["NodeID"], 0] = {"num_cpus": processors, "num_gpus": 0}
    return found


def _first(refs: list[Any], seconds: float) -> Any:
    """Wait for one of these to end; None where none does in time."""
    if not refs:
        time.sleep(seconds)
        return None
    ended, _ = ray.wait(refs, timeout=seconds)
    return ended[0] if ended else None


def _result(ref: Any) -> Any:
    """Return what a worker gave, or raise what it raised; RayError where there is nothing."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from error


def _end(member: _Member) -> None:
    with suppress(RayError, ValueError):
        ray.kill(member.actor)


def _reason(error: RayError) -> str:
    """Return the last line of what Ray says, which names the cause."""
    return str(error).strip().rpartition("\n")[2].strip().rstrip(".")


def _part(feed: Feed, some: slice) -> Feed:
    """Return a part of a feed to be sent to a worker: of the samples no more than their files."""
    rows, there = feed.rows[some], feed.there[some]
    wanted = rows[there].tolist()
    kept = [k.of(wanted) for k in feed.kept]
    samples = [Sample("", s.path.absolute(), frame=s.frame) for s in feed.samples[some]]
    return Feed(samples, rows, feed.recipes, kept if wanted else (), there, feed.plan)


def _counted(feed: Feed, start: int, embedded: Embedded) -> Batch:
    """Return a batch whose images are numbered as in the feed, if its worker could see them."""
    for number in embedded.unseen:
        sample = feed.samples[start + number]
        if sample.path.exists():
            raise UsageError(
                f"{embedded.host} cannot see {sample.shown_path or sample.id}: images must lie on "
                f"a path that every node sees"
            )
    items = [(start + number, prepared) for number, prepared in embedded.batch.items]
    return Batch(items, [(start + number, e) for number, e in embedded.batch.failed], {})

"""What a worker of a cluster does: it holds backbones, and turns images into vectors.

Several batches are with a worker at once, each in a thread, so that the files of one are read while
the model has another.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from embedstore.encode import Encoders, Vectors, find_batch_size
from embedstore.errors import EmbedstoreError, StoreError
from embedstore.feed import Batch, Feed, readers_of
from embedstore.heap import keep_memory
from embedstore.images.prepare import Prepared
from embedstore.plan import Plan, has_bfloat16
from embedstore.readers import Readers
from embedstore.types import Backbone, Spec

MOST_READERS = 8
_LEFT_OUT = np.empty((0, 0), dtype=np.uint8)  # in place of a picture that is not kept


@dataclass(frozen=True, slots=True)
class Setting:
    """What a worker is to be.

    Attributes
    ----------
    load
        Loads the backbones of `specs`, in that order, on a device.
    readers
        Reader processes; -1: one for each processor, `MOST_READERS` at most.
    folder
        Where relative names of weights start; gone into where it is seen.
    """

    load: Callable[[str], Sequence[Backbone]]
    specs: tuple[Spec, ...]
    device: str
    processors: int
    readers: int
    folder: Path
    version: str = field(default_factory=lambda: version("embedstore"))


@dataclass(frozen=True, slots=True)
class About:
    """What a worker says of itself."""

    host: str
    bfloat16: bool
    readers: int


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a batch gave; `unseen` are the numbers of the images whose files are not there."""

    batch: Batch
    vectors: Vectors
    limit: int
    host: str
    unseen: tuple[int, ...]


class Worker:
    """Backbones on one device of a node, and the readers beside them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._backbones: Sequence[Backbone] = ()
        self._readers = 0
        self._begun: tuple[Plan, Encoders, Readers[Prepared]] | None = None
        self._host = socket.gethostname()

    def load(self, setting: Setting) -> About:
        """Load the backbones.

        Raises
        ------
        EmbedstoreError
            They cannot be had here, are not those the driver has, or nor is this package.
        """
        with suppress(OSError):
            os.chdir(setting.folder)
        if setting.device == "cpu":
            keep_memory()
        with self._named():
            if (ours := version("embedstore")) != setting.version:
                raise EmbedstoreError(f"has embedstore {ours}, not {setting.version}")
            self._backbones = setting.load(setting.device)
            for backbone, spec in zip(self._backbones, setting.specs, strict=True):
                spec.require(backbone.spec)
        chosen = max(1, min(setting.processors, MOST_READERS))
        self._readers = chosen if setting.readers < 0 else setting.readers
        return About(self._host, has_bfloat16(setting.device), self._readers)

    def find_batch_size(self, plan: Plan, images: int) -> int:
        """Find by trying how many images at a time are encoded fastest."""
        with self._named():
            return find_batch_size([self._backbones], plan, images)

    def embed(self, feed: Feed, keys: Sequence[str], keep: Sequence[str]) -> Embedded:
        """Embed the images of a feed, as one batch, by the backbones of these Specs.

        Only pictures of the recipes to `keep` come back.

        Raises
        ------
        EmbedstoreError
            The store is not to be seen here, or there is not enough memory.
        """
        encoders, readers = self._begin(feed.plan)
        with self._named():
            try:
                batch = next(feed.made(readers, len(feed)))
            except (StoreError, OSError) as error:
                if not feed.there.any():
                    raise
                raise StoreError(f"{error}; every node must see the store") from error
            vectors = encoders.submit(batch, keys).result()
        kept = [key in keep for key in feed.recipes]
        items = [(number, _lighter(p, kept)) for number, p in batch.items]
        unseen = [n for n, _ in batch.failed if not feed.samples[n].path.exists()]
        sent = Batch(items, batch.failed, {})
        return Embedded(sent, vectors, encoders.limit, self._host, tuple(unseen))

    def _begin(self, plan: Plan) -> tuple[Encoders, Readers[Prepared]]:
        """Return what goes on from batch to batch, as long as the plan is the same."""
        with self._lock:
            if self._begun is None or self._begun[0] != plan:
                if self._begun is not None:
                    self._begun[2].end()
                readers = readers_of(replace(plan, workers=self._readers))
                self._begun = plan, Encoders([self._backbones], plan), readers
            return self._begun[1:]

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let errors say on which node they arose."""
        try:
            yield
        except EmbedstoreError as error:
            error.args = (f"{self._host}: {error}",)
            raise


def _lighter(prepared: Prepared, kept: Sequence[bool]) -> Prepared:
    pairs = zip(prepared.pictures, kept, strict=True)
    return replace(prepared, pictures=tuple(p if k else _LEFT_OUT for p, k in pairs))

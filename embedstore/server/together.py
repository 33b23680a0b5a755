"""What comes in while an answer is being worked out is answered next, all at once.

A search reads every vector whether for one query or for twenty, so that twenty clients who ask at
once are served twenty times as fast together as one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from embedstore.errors import EmbedstoreError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[K, T, R]):
    """Calls a function for one item or several of a kind; for use by many threads.

    Parameters
    ----------
    answer
        Takes a kind and items of that kind, and returns one result for each. Where it refuses
        several, each is tried alone, so that one bad item fails only itself.
    most
        Items in one call.
    """

    def __init__(self, answer: Callable[[K, Sequence[T]], Sequence[R]], most: int = 64) -> None:
        self._answer, self._most = answer, most
        self._waiting: list[tuple[K, T, Future[R]]] = []
        self._list, self._turn = threading.Lock(), threading.Lock()

    def ask(self, kind: K, item: T) -> R:
        """Return the result for one item, perhaps worked out by another thread."""
        mine: Future[R] = Future()
        with self._list:
            self._waiting.append((kind, item, mine))
        with self._turn:
            while not mine.done():
                self._work(kind)
        return mine.result()

    def _work(self, kind: K) -> None:
        with self._list:
            alike = [w for w in self._waiting if w[0] == kind][: self._most]
            taken = {id(w) for w in alike}
            self._waiting = [w for w in self._waiting if id(w) not in taken]
        try:
            results = self._answer(kind, [item for _, item, _ in alike])
        except EmbedstoreError as error:
            self._refused(alike, error)
        except BaseException as error:
            for _, _, future in alike:
                future.set_exception(error)
        else:
            for (_, _, future), result in zip(alike, results, strict=True):
                future.set_result(result)

    def _refused(self, several: list[tuple[K, T, Future[R]]], error: EmbedstoreError) -> None:
        if len(several) == 1:
            several[0][2].set_exception(error)
            return
        for kind, item, future in several:
            try:
                (result,) = self._answer(kind, [item])
            except EmbedstoreError as own:
                future.set_exception(own)
            else:
                future.set_result(result)

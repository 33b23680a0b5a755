"""Blocks of rows side by side, each on one thread.

Splitting every small operation over all cores costs a meeting of the threads each time, thousands a
second, and where another program keeps a core busy each of them waits its turn: forty times slower
was seen. One meeting a pass is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Crew:
    """Threads that each do a part; what the parts are does not depend on who is quick."""

    def __init__(self, size: int, pool: ThreadPoolExecutor | None) -> None:
        self.size = size
        self._pool = pool

    def shares(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Deal items out, one part for each thread."""
        parts = [items[i :: self.size] for i in range(self.size)]
        return [part for part in parts if part]

    def each(
        self, work: Callable[[Sequence[Item]], Result], parts: Sequence[Sequence[Item]]
    ) -> list[Result]:
        """Do all parts; return what came of them, in order."""
        if self._pool is None or len(parts) == 1:
            return [work(part) for part in parts]
        return list(self._pool.map(work, parts))


@contextmanager
def one_thread() -> Iterator[int]:
    """Let torch's operations use one thread inside; gives how many they had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


@contextmanager
def crew(most: int) -> Iterator[Crew]:
    """At most `most` of the threads torch has; inside, its own operations use one."""
    with one_thread() as threads:
        size = max(1, min(threads, most))
        if size == 1:
            yield Crew(1, None)
            return
        with ThreadPoolExecutor(size, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield Crew(size, pool)

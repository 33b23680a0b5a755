"""Approximate nearest neighbours: a FAISS index of unit vectors proposes, others decide.

What is indexed by default is one bit a dimension (RaBitQ: Gao and Long 2024, arXiv 2405.12497), in
inverted lists: some 90 bytes a vector of 512. Its proposals are ranked by the vectors themselves.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import DataError, StoreError, UsageError
from embedstore.types import Floats

EXACT = "exact"
"""The kind that is no index: every vector is compared. Up to `FEW` numbers that takes 10 ms."""

FEW = 1 << 26
SAMPLE = 48
"""Vectors a list that the lists are learnt from; FAISS asks for 39 to 256."""

_LISTS = (256, 8192)
_BESIDE = 20  # bytes of a vector beside its bits
_WIDEST = 64
_LEAST = 16384  # vectors to learn from


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard a search tries: lists probed (`efSearch` of a graph), and proposals for each k."""

    probes: int = 1
    widen: int = 4


def choose(n: int, d: int, memory: int) -> str:
    """Return the kind that suits (n, d) vectors: `EXACT`, or a FAISS factory string.

    Raises
    ------
    DataError
        It would not fit in the `memory`, bytes.
    """
    if n * d <= FEW:
        return EXACT
    if (needed := n * (d // 8 + _BESIDE)) > memory:
        raise DataError(
            f"an index of {n} vectors takes {needed / 1e9:.1f} GB of memory, and "
            f"{memory / 1e9:.1f} GB are free; a machine with more can make it"
        )
    lists = 1 << int(np.clip(np.log2(4 * np.sqrt(n)), *np.log2(_LISTS)).round())
    return f"RR{d},IVF{lists},RaBitQfs"  # turned at random, as the bits want it


class Index:
    """A FAISS index by inner product, over unit vectors numbered in the order they are added."""

    def __init__(self, inner: Any, effort: Effort) -> None:
        self.inner, self.effort = inner, effort

    @classmethod
    def trained(cls, factory: str, d: int, sample: Callable[[int], Floats], seed: int = 0) -> Index:
        """Make an index of `d` dimensions by its FAISS factory string, and let it learn.

        Parameters
        ----------
        sample
            Returns that many (s, d) unit vectors to learn from, or all where there are fewer.

        Raises
        ------
        UsageError
            FAISS does not know the string, or cannot make it of these vectors.
        """
        import faiss

        try:
            inner = faiss.index_factory(d, factory, faiss.METRIC_INNER_PRODUCT)
            most = _LEAST
            if (lists := _lists(inner)) is not None:
                most = max(most, SAMPLE * lists.nlist)
                lists.cp.seed = seed
                if hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus():
                    flat = faiss.IndexFlatIP(lists.d)
                    lists.clustering_index = faiss.index_cpu_to_all_gpus(flat)
            inner.train(sample(most))
        except RuntimeError as error:
            raise UsageError(f"FAISS cannot make an index {factory!r}: {_said(error)}") from error
        index = cls(inner, Effort())
        index.effort = index._efforts()[0]
        return index

    def __len__(self) -> int:
        """Count the vectors."""
        return int(self.inner.ntotal)

    def add(self, blocks: Iterable[Floats]) -> None:
        """Add (b, d) float32 unit vectors, block by block; `UsageError` where a kind cannot."""
        try:
            for block in blocks:
                self.inner.add(np.ascontiguousarray(block, dtype=np.float32))
        except RuntimeError as error:
            raise UsageError(f"this kind of index does not grow: {_said(error)}") from error

    def propose(
        self, queries: Floats, width: int, allowed: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Propose `width` vectors for each query, by number, -1 where it finds fewer: (m, width).

        Several threads may ask at once.

        Parameters
        ----------
        allowed
            (len,): the only ones to propose. The fewer these are, the harder it tries.

        Raises
        ------
        UsageError
            This kind of index cannot leave any out.
        """
        import faiss

        effort, selector = self.effort, None
        if allowed is not None:
            bitmap: Any = faiss.IDSelectorBitmap
            selector = bitmap(np.packbits(allowed, bitorder="little"))
            share = max(np.count_nonzero(allowed) / len(allowed), 1e-6)
            effort = replace(effort, probes=int(np.ceil(effort.probes / share)))
        kept: list[Any] = [selector]  # FAISS holds on to none of these
        parameters = _parameters(self.inner, effort, selector, kept)
        try:
            _, rows = self.inner.search(np.ascontiguousarray(queries), width, params=parameters)
        except RuntimeError as error:
            raise UsageError(f"this kind of index cannot be filtered: {_said(error)}") from error
        found: NDArray[np.int64] = rows
        return found

    def tune(
        self, ask: Callable[[], NDArray[np.intp]], truth: NDArray[np.intp], wanted: float
    ) -> float:
        """Set the effort that finds `wanted` of the true neighbours soonest; return the share.

        Where none does, the one that finds most.

        Parameters
        ----------
        ask
            What answers some queries by this index: (m, k) rows.
        truth
            (m, k) rows of their true neighbours.
        """
        best: tuple[bool, float, float, Effort] | None = None
        for effort in self._efforts():
            self.effort = effort
            began = time.perf_counter()
            share = recall(ask(), truth)
            seconds = time.perf_counter() - began
            good = share >= wanted
            mark = (good, -seconds if good else share, share, effort)
            if best is None or mark[:2] > best[:2]:
                best = mark
        assert best is not None
        self.effort = best[3]
        return best[2]

    def _efforts(self) -> list[Effort]:
        if (lists := _lists(self.inner)) is not None:
            probes = _doubled(1, min(lists.nlist, 1024))
        else:
            probes = _doubled(16, 1024) if _is_graph(self.inner) else [1]
        return [Effort(p, w) for p in probes for w in _doubled(4, _WIDEST)]

    def to_file(self, path: Path) -> None:
        """Write it as FAISS does; `StoreError` where the disk refuses."""
        import faiss

        try:
            faiss.write_index(self.inner, str(path))
        except RuntimeError as error:
            raise StoreError(f"{path}: cannot be written: {_said(error)}") from error

    @classmethod
    def from_file(cls, path: Path, effort: Effort, mapped: bool = True) -> Index:
        """Read what `to_file` wrote; FAISS trusts the file, so compare its checksum first.

        Memory-mapped where FAISS can, but then it cannot grow: FAISS would end the process.
        """
        import faiss

        try:
            flags = faiss.IO_FLAG_MMAP_IFC if mapped else 0
            return cls(faiss.read_index(str(path), flags), effort)
        except RuntimeError as error:
            raise StoreError(f"{path}: FAISS cannot read it: {_said(error)}") from error


def recall(found: NDArray[np.intp], truth: NDArray[np.intp]) -> float:
    """Share of the true neighbours, (m, k) rows, that are among the found, (m, k)."""
    hits = [np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]
    return float(np.mean(hits))


def _doubled(first: int, last: int) -> list[int]:
    return [first << n for n in range(64) if first << n <= max(first, last)]


def _said(error: Exception) -> str:
    """Return what FAISS says without the place in its source."""
    text = re.sub(r"^.*?\.(?:cpp|h):\d+: (?:Error: )?", "", str(error).splitlines()[0])
    return text.split(" failed: ")[-1].strip()


def _lists(inner: Any) -> Any | None:
    """Return the inverted lists in an index, if it has any."""
    import faiss

    try:
        return faiss.extract_index_ivf(inner)
    except RuntimeError:
        return None


def _is_graph(inner: Any) -> bool:
    import faiss

    while isinstance(inner, faiss.IndexPreTransform | faiss.IndexRefine):
        within: Any = inner
        refined = isinstance(inner, faiss.IndexRefine)
        inner = faiss.downcast_index(within.base_index if refined else within.index)
    return isinstance(inner, faiss.IndexHNSW)


def _parameters(inner: Any, effort: Effort, selector: Any, kept: list[Any]) -> Any:
    """Return the options of one search, made for each kind of index inside another."""
    import faiss

    options: Any = faiss  # whose stubs know none

    inner = faiss.downcast_index(inner)
    made: Any
    if isinstance(inner, faiss.IndexPreTransform):
        within = _parameters(inner.index, effort, selector, kept)
        made = options.SearchParametersPreTransform(index_params=within)
    elif isinstance(inner, faiss.IndexRefine):
        within = _parameters(inner.base_index, effort, selector, kept)
        made = options.IndexRefineSearchParameters(base_index_params=within, k_factor=1)
    elif isinstance(inner, faiss.IndexHNSW):
        made = options.SearchParametersHNSW(efSearch=effort.probes, sel=selector)
    elif (lists := _lists(inner)) is not None:
        bits = isinstance(lists, faiss.IndexIVFRaBitQ | faiss.IndexIVFRaBitQFastScan)
        kind = options.IVFRaBitQSearchParameters if bits else options.SearchParametersIVF
        made = kind(nprobe=min(effort.probes, lists.nlist), sel=selector)
    else:
        made = options.SearchParameters(sel=selector)
    kept.append(made)
    return made

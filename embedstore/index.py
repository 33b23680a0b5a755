"""Approximate nearest neighbours: a FAISS index of unit vectors proposes, others decide.

What is indexed by default is one bit a dimension (RaBitQ: Gao and Long 2024, arXiv 2405.12497), in
inverted lists: some 90 bytes a vector of 512. Its proposals are ranked by the vectors themselves.

Lists that memory has no room for lie on the disk. They are made piece by piece: vectors are added
in memory until a piece is full, and the pieces are then written list by list into one file, which
is memory-mapped and never written again: readers keep what they have opened.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
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

PIECE = 1 << 29
"""Bytes of inverted lists that are made in memory before they go to the disk."""

_LISTS = (256, 8192)
_BESIDE = 20  # bytes of a vector beside its bits
_ROW = 64  # bytes of a vector that a search has in memory whatever the index
_GROWING = 2  # times what lists take, while they grow
_WIDEST = 64
_LEAST = 16384  # vectors to learn from
_TOGETHER = 1 << 26  # numbers of the tables that FAISS makes for each query and list it looks into
_NUMBER = 8  # bytes of a vector's number in a list


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard a search tries: lists probed (`efSearch` of a graph), and proposals for each k."""

    probes: int = 1
    widen: int = 4


def choose(n: int, d: int, memory: int, on_disk: bool | None = None) -> tuple[str, bool]:
    """Return the kind that suits (n, d) vectors, and whether its lists shall lie on the disk.

    The kind is `EXACT`, or a FAISS factory string. The disk is for lists that would take, while
    they grow, more than half of the `memory`, bytes, unless `on_disk` says.

    Raises
    ------
    DataError
        What a search knows of each vector would not fit in memory.
    """
    if n * d <= FEW:
        return EXACT, False
    if (needed := n * _ROW) > memory:
        raise DataError(
            f"searching {n} vectors takes {needed / 1e9:.1f} GB of memory, and "
            f"{memory / 1e9:.1f} GB are free; a machine with more can make the index"
        )
    if on_disk is None:
        on_disk = _GROWING * n * (d // 8 + _BESIDE) > memory // 2
    lists = 1 << int(np.clip(np.log2(4 * np.sqrt(n)), *np.log2(_LISTS)).round())
    # turned at random, as the bits want it; "fs" is twice as fast, and only in memory
    return f"RR{d},IVF{lists},RaBitQ{'' if on_disk else 'fs'}", on_disk


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
        index.effort = replace(index.effort, probes=index._efforts()[0].probes)
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

    def added_on_disk(
        self,
        blocks: Iterable[Floats],
        lists: Path,
        work: Path,
        earlier: Path | None = None,
        piece: int = PIECE,
    ) -> None:
        """Add as `add` does, but write the inverted lists to a file, and search in them there.

        Parameters
        ----------
        lists
            The file. What it is made of is kept in the folder `work` until then.
        earlier
            The lists that this index has now, in a file of that kind.

        Raises
        ------
        UsageError
            This kind of index has no lists, or none that may lie on the disk.
        OSError
            The disk refuses.
        """
        import faiss

        inverted = _lists(self.inner)
        plain = faiss.ArrayInvertedLists | faiss.OnDiskInvertedLists
        if inverted is None or not isinstance(
            faiss.downcast_InvertedLists(inverted.invlists), plain
        ):
            raise UsageError(
                "this kind of index keeps no lists on the disk; RaBitQ, SQ and PQ in IVF do, "
                "without the fs"
            )
        nlist, width = inverted.nlist, inverted.code_size + _NUMBER
        written: list[Any] = [_opened_lists(earlier, nlist, width)[0]] if earlier else []
        done = len(self)
        _replace_lists(self.inner, faiss.ArrayInvertedLists(nlist, inverted.code_size), 0)
        for block in blocks:
            if len(self) and (len(self) + len(block)) * width > piece:
                file = work / f"piece-{len(written)}"
                _write_lists([inverted.invlists], nlist, width, file)
                written.append(_opened_lists(file, nlist, width)[0])
                _replace_lists(self.inner, faiss.ArrayInvertedLists(nlist, inverted.code_size), 0)
            numbers = np.arange(done, done + len(block))
            self.inner.add_with_ids(np.ascontiguousarray(block, dtype=np.float32), numbers)
            done += len(block)
        _write_lists([*written, inverted.invlists], nlist, width, lists)
        for file in work.glob("piece-*"):
            file.unlink()
        self.use_lists(lists)

    def use_lists(self, file: Path | None) -> None:
        """Search in the inverted lists of a file, or in none."""
        import faiss

        inverted = _lists(self.inner)
        assert inverted is not None
        nlist, width = inverted.nlist, inverted.code_size + _NUMBER
        if file is None:
            _replace_lists(self.inner, faiss.ArrayInvertedLists(nlist, inverted.code_size), 0)
        else:
            _replace_lists(self.inner, *_opened_lists(file, nlist, width))

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
        step = max(1, _TOGETHER // (self.inner.d * effort.probes))
        found = np.empty((len(queries), width), dtype=np.int64)
        try:
            for start in range(0, len(queries), step):
                some = np.ascontiguousarray(queries[start : start + step])
                found[start : start + step] = self.inner.search(some, width, params=parameters)[1]
        except RuntimeError as error:
            raise UsageError(f"this kind of index cannot be filtered: {_said(error)}") from error
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
        few = -1  # probes that, with most proposals, find less than is wanted
        for effort in self._efforts():
            if effort.probes == few or (best and best[0] and _is_more(effort, best[3])):
                continue
            self.effort = effort
            began = time.perf_counter()
            share = recall(ask(), truth)
            seconds = time.perf_counter() - began
            good = share >= wanted
            few = few if good else effort.probes
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
        return [Effort(p, w) for p in probes for w in _doubled(4, _WIDEST)[::-1]]

    def to_file(self, path: Path) -> None:
        """Write it as FAISS does; `StoreError` where the disk refuses."""
        import faiss

        try:
            faiss.write_index(self.inner, str(path))
        except RuntimeError as error:
            raise StoreError(f"{path}: cannot be written: {_said(error)}") from error

    @classmethod
    def from_file(
        cls, path: Path, effort: Effort, mapped: bool = True, lists: Path | None = None
    ) -> Index:
        """Read what `to_file` wrote; FAISS trusts the files, so compare their checksums first.

        Memory-mapped where FAISS can, but then it cannot grow: FAISS would end the process.

        Parameters
        ----------
        lists
            Where its inverted lists are, if not in the same file.
        """
        import faiss

        try:
            flags = faiss.IO_FLAG_MMAP_IFC if mapped else 0
            index = cls(faiss.read_index(str(path), flags), effort)
            if lists is not None:
                if _lists(index.inner) is None:
                    raise StoreError(f"{path}: has no lists that could lie in {lists.name}")
                index.use_lists(lists)
            return index
        except RuntimeError as error:
            raise StoreError(f"{path}: FAISS cannot read it: {_said(error)}") from error


def recall(found: NDArray[np.intp], truth: NDArray[np.intp]) -> float:
    """Share of the true neighbours, (m, k) rows, that are among the found, (m, k)."""
    hits = [np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]
    return float(np.mean(hits))


def _is_more(one: Effort, other: Effort) -> bool:
    return one.probes >= other.probes and one.widen >= other.widen


def _replace_lists(inner: Any, lists: Any, total: int) -> None:
    """Give an index other inverted lists, which it then owns, of so many vectors in all."""
    import faiss

    inverted: Any = _lists(inner)
    inverted.replace_invlists(lists, True)
    lists.this.disown()
    while True:
        inner.ntotal = total
        if not isinstance(inner, faiss.IndexPreTransform):
            return
        inner = faiss.downcast_index(inner.index)


def _write_lists(sources: Sequence[Any], nlist: int, width: int, file: Path) -> None:
    """Write the lists of several sources as one: codes, then numbers, of each; then their sizes."""
    import faiss

    options: Any = faiss
    sizes = np.array([[s.list_size(i) for s in sources] for i in range(nlist)], dtype="<u8")
    with file.open("wb") as out:
        for i, counts in enumerate(sizes.tolist()):
            here = [(s, n) for s, n in zip(sources, counts, strict=True) if n]
            for s, n in here:
                out.write(options.rev_swig_ptr(s.get_codes(i), n * (width - _NUMBER)))
            for s, n in here:
                out.write(options.rev_swig_ptr(s.get_ids(i), n))
        out.write(sizes.sum(axis=1).astype("<u8").tobytes())


def _opened_lists(file: Path, nlist: int, width: int) -> tuple[Any, int]:
    """Memory-map what `_write_lists` wrote; return it, and how many vectors it holds."""
    import faiss

    options: Any = faiss
    at = file.stat().st_size - nlist * 8
    sizes = np.fromfile(file, dtype="<u8", offset=at)
    total = int(sizes.sum())
    if at != total * width:
        raise StoreError(f"{file}: its lists are of another size than it says")
    lists = options.OnDiskInvertedLists(nlist, width - _NUMBER, str(file))
    lists.set_all_lists_sizes(options.swig_ptr(sizes))
    lists.totsize, lists.read_only = at, True
    lists.prefetch_nthread = 0  # it is the system that reads ahead; threads may search at once
    if total:
        lists.do_mmap()
    return lists, total


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

"""An index beside the vectors it is of: built, kept in the store's folder, extended, checked.

::

    S.zarr/index/<Spec.key>/
      index.json              what it is of, how it was made, checksums; no commit of the store's
      vectors.faiss           none where every vector is compared
      lists.faiss             its inverted lists, where these lie on the disk
      tables.safetensors      what a search needs of every vector: length, set, and ids in order

It is made of what the store holds, and may be deleted at any time. Vectors added later are compared
one by one until the index is extended; an index of arrays that were written anew is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.distinct import distinct, same_bytes
from embedstore.errors import StoreError
from embedstore.index import Effort, Index
from embedstore.links import chained
from embedstore.output import put
from embedstore.types import Floats, Spec, unit_rows

FOLDER = "index"
FILES = ("index.json", "vectors.faiss", "tables.safetensors", "lists.faiss")
_BLOCK = 65536
_TEXTS = 1 << 19  # texts read together
_TRIED = 64  # vectors whose lengths must be those of the index
_FORMAT = 1

Progress = Callable[[int, int], None]


class Stored(Protocol):
    """What an index, and a search, ask of a store."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def arrays(self) -> Mapping[str, Mapping[str, Any]]:
        """Metadata by array."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the label columns."""

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of all columns."""

    def column_array(self, name: str) -> str:
        """Return the array of a column."""

    def rows(self, array: str) -> int:
        """Count the raw rows of an array."""

    def array(self, name: str, wanted: NDArray[np.intp] | None = None) -> NDArray[Any]:
        """Read raw rows of an array."""

    def mapped(self, name: str) -> NDArray[Any] | None:
        """Memory-map an array."""

    def places(self, prefix: str) -> NDArray[np.intp]:
        """Return the places of the vectors that are there."""


@dataclass(frozen=True, slots=True)
class Tables:
    """What a search needs of every place in the vectors of one Spec, n of them, and of samples.

    Attributes
    ----------
    inverse
        (n,) float32: one over the length, 0 for a vector of zeros.
    sets
        (n,) int32: number of what a split would keep together with it, in chains: of one patient,
        exam or file; -1 where nothing is there.
    order
        (N,) int32: raw rows of all samples, by their ids.
    """

    inverse: Floats
    sets: NDArray[np.int32]
    order: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Made:
    """What ``index.json`` says.

    Attributes
    ----------
    rows, samples
        How many vectors and samples there were, deleted ones too.
    rewrites
        How often each array it depends on had been written anew.
    learnt
        Vectors there were when the lists were learnt.
    recall
        Share of the true 10 nearest that were found, of `queries` vectors of the store.
    bytes
        Of the index without the tables, which is about what it takes: in memory, or on the disk.
    on_disk
        Whether its inverted lists stay on the disk, memory-mapped.
    """

    spec: str
    kind: str
    rows: int
    samples: int
    rewrites: Mapping[str, int]
    sha256: Mapping[str, str]
    learnt: int = 0
    probes: int = 1
    widen: int = 1
    wanted: float = 1.0
    recall: float = 1.0
    queries: int = 0
    seconds: float = 0.0
    bytes: int = 0
    made: str = ""
    format: int = _FORMAT
    on_disk: bool = False


def folder_of(store: Stored, spec: Spec) -> Path:
    """Return where the index of a Spec is kept."""
    return store.path / FOLDER / spec.key


def vectors_of(store: Stored, spec: Spec) -> NDArray[np.floating[Any]]:
    """(n, d) every vector by its place, also dropped ones; memory-mapped where that can be."""
    name = f"embeddings/{spec.key}/vectors"
    mapped = store.mapped(name)
    return store.array(name) if mapped is None else mapped


def tables_of(store: Stored, spec: Spec, inverse: Floats | None = None) -> Tables:
    """Make the tables of what a store holds now, given what is known of the lengths already."""
    prefix = f"embeddings/{spec.key}"
    places = store.places(prefix)
    rows = store.array(f"{prefix}/rows", places).astype(np.intp)
    sets = np.full(store.rows(f"{prefix}/rows"), -1, dtype=np.int32)
    if len(places):
        named = [_numbered(_texts(store, f"samples/{name}", rows)) for name in ("group", "exam")]
        digests = same_bytes(store.array(f"{prefix}/digests", places))
        sets[places] = chained([*named, digests])
    known = np.empty(0, dtype=np.float32) if inverse is None else inverse
    lengths = [_lengths(block) for block in _blocks(vectors_of(store, spec), len(known))]
    with np.errstate(divide="ignore"):
        more = [np.where(length > 0, 1 / length, 0).astype(np.float32) for length in lengths]
    every = np.arange(store.rows("samples/id"))
    order = np.argsort(_texts(store, "samples/id", every), kind="stable").astype(np.int32)
    return Tables(np.concatenate([known, *more]), sets, order)


def _texts(store: Stored, name: str, rows: NDArray[np.intp]) -> NDArray[np.bytes_]:
    """Read a column of text as UTF-8, which sorts as its characters do, in a quarter of the memory.

    Block by block: text on its way takes ten times the memory it ends in.
    """
    starts = range(0, max(1, len(rows)), _TEXTS)
    return np.concatenate([_utf8(store.array(name, rows[a : a + _TEXTS])) for a in starts])


def _utf8(texts: NDArray[np.str_]) -> NDArray[np.bytes_]:
    width = texts.dtype.itemsize // 4
    codes = np.ascontiguousarray(texts).view(np.uint32).reshape(len(texts), width)
    if not width or codes.max(initial=0) >= 128:
        return np.char.encode(texts, "utf-8")
    return codes.astype(np.uint8).view(f"S{width}").reshape(len(texts))


def _numbered(values: NDArray[np.bytes_]) -> NDArray[np.intp]:
    """(n,) numbers that are equal where values are; an unknown one, b"", is like no other."""
    _, number = distinct(values)
    unknown = np.flatnonzero(values == b"")
    number[unknown] = len(values) + np.arange(len(unknown))
    return number


def _lengths(block: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    values = block.astype(np.float32, copy=False)
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    return lengths


def _blocks(vectors: NDArray[Any], start: int = 0) -> Iterator[NDArray[Any]]:
    for at in range(start, len(vectors), _BLOCK):
        yield vectors[at : at + _BLOCK]


def learnt(store: Stored, spec: Spec, kind: str, seed: int = 0) -> Index:
    """Make an empty index, learnt from a sample of the vectors that are not deleted.

    Raises
    ------
    UsageError
        FAISS cannot make one of this kind.
    """
    vectors = vectors_of(store, spec)
    there = store.places(f"embeddings/{spec.key}")
    rng = np.random.default_rng(seed)

    def sample(most: int) -> Floats:
        return unit_rows(vectors[np.sort(rng.choice(there, min(most, len(there)), replace=False))])

    return Index.trained(kind, spec.dim, sample, seed)


def grow(
    store: Stored,
    spec: Spec,
    index: Index,
    folder: Path | None = None,
    on_progress: Progress = lambda *_: None,
) -> None:
    """Add the vectors that came after the last in the index; on the disk, with a new `folder`.

    Raises
    ------
    UsageError
        This kind of index does not grow, cannot be filtered, or has no lists for the disk.
    """
    vectors = vectors_of(store, spec)
    start, done = len(index), len(index)

    def blocks() -> Iterator[Floats]:
        nonlocal done
        for block in _blocks(vectors, start):
            yield unit_rows(block)
            done += len(block)
            on_progress(done - start, len(vectors) - start)

    if folder is None:
        index.add(blocks())
    else:
        earlier = folder_of(store, spec) / FILES[3] if start else None
        index.added_on_disk(blocks(), folder / FILES[3], folder, earlier)
    there = store.places(f"embeddings/{spec.key}")
    index.propose(unit_rows(vectors[there[:1]]), 1, np.ones(len(index), dtype=bool))


def rewrites_of(store: Stored, spec: Spec) -> dict[str, int]:
    """Return how often each array an index depends on has been written anew."""
    prefix = f"embeddings/{spec.key}"
    names = ("samples/id", "samples/group", "samples/exam")
    own = (f"{prefix}/vectors", f"{prefix}/rows", f"{prefix}/digests")
    return {
        name: int(store.arrays[name]["attributes"].get("rewrites", 0)) for name in (*own, *names)
    }


@contextlib.contextmanager
def making(store: Stored, spec: Spec) -> Iterator[Path]:
    """Yield a folder whose files take the place of an earlier index, whole, when all went well.

    Readers keep what they have opened.

    Raises
    ------
    StoreError
        The disk refuses, or another process is making one of the same vectors.
    """
    place = folder_of(store, spec)
    try:
        with put(place, replace=True, folder_of=FILES) as folder:
            folder.mkdir()
            yield folder
    finally:
        with contextlib.suppress(OSError):  # which it is where an index is in it
            place.parent.rmdir()


def save(folder: Path, index: Index | None, tables: Tables, made: Made) -> Made:
    """Write an index, whose lists may be there already, to a folder `making` gave."""
    from safetensors.numpy import save as packed

    (folder / FILES[2]).write_bytes(packed(asdict(tables)))
    if index is not None:
        if made.on_disk:
            index.use_lists(None)
        index.to_file(folder / FILES[1])
    sums = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    size = sum((folder / name).stat().st_size for name in sums if name != FILES[2])
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    made = replace(made, sha256=sums, bytes=size, made=stamp)
    (folder / FILES[0]).write_text(json.dumps(asdict(made), indent=1))
    return made


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_made(store: Stored, spec: Spec) -> Made | None:
    """Return what the saved index of a Spec says of itself; None where there is none.

    Raises
    ------
    StoreError
        It cannot be understood, or is of another Spec.
    """
    file = folder_of(store, spec) / FILES[0]
    try:
        said = json.loads(file.read_bytes())
        made = Made(**said)
        if not isinstance(made.rewrites, dict) or not isinstance(made.sha256, dict):
            raise TypeError("tables")
        if {type(n) for n in (made.rows, made.samples, made.probes, made.widen)} != {int}:
            raise TypeError("numbers")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        raise StoreError(f"{file}: cannot be understood; {_again(store, spec)}") from error
    if made.format != _FORMAT or made.spec != spec.key:
        raise StoreError(f"{file}: is of other vectors, or another version; {_again(store, spec)}")
    return made


def _again(store: Stored, spec: Spec) -> str:
    return f"make it anew: embedstore index {store.path} --backbone {spec.backbone} --rebuild"


def in_use(store: Stored, specs: Iterable[Spec]) -> dict[str, set[str]]:
    """Map the key of each Spec with an index that may be used to its files, within the store."""
    found = {}
    for spec in specs:
        with contextlib.suppress(StoreError):
            made = read_made(store, spec)
            if made and not _is_of_others(store, spec, made):
                names = (FILES[0], *made.sha256)
                found[spec.key] = {f"{FOLDER}/{spec.key}/{name}" for name in names}
    return found


def _is_of_others(store: Stored, spec: Spec, made: Made) -> bool:
    """Say whether the vectors were written anew since they were indexed."""
    now = rewrites_of(store, spec)
    own = (f"embeddings/{spec.key}/vectors", f"embeddings/{spec.key}/rows")
    return made.rows > store.rows(own[0]) or any(made.rewrites.get(n) != now[n] for n in own)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A saved index as it is usable now; `note` says what is not.

    `tables` is None where they are of another state of the store.
    """

    made: Made
    index: Index | None
    tables: Tables | None
    note: str = ""


def load(store: Stored, spec: Spec, mapped: bool = True) -> Loaded | None:
    """Read the saved index of a Spec, after its checksums; None where there is none.

    Not `mapped`, it can grow.

    Raises
    ------
    StoreError
        A file is missing, cut, changed or of another store.
    """
    found = None
    for attempt in range(2):  # another may be saved between reading what it says and its files
        if (made := read_made(store, spec)) is None:
            return None
        try:
            found = _read(store, spec, made, mapped)
            break
        except StoreError:
            if attempt or read_made(store, spec) == made:
                raise
    return found


def _read(store: Stored, spec: Spec, made: Made, mapped: bool) -> Loaded:
    from safetensors.numpy import load_file

    folder = folder_of(store, spec)
    if _is_of_others(store, spec, made):
        note = "the vectors were written anew since they were indexed, and all are compared"
        return Loaded(made, None, None, f"{note}; {_do(store)}")
    needed = {FILES[2], *([FILES[1], FILES[3]] if made.on_disk else [])}
    for name in sorted(needed | made.sha256.keys()):
        file, expected = folder / name, made.sha256.get(name)
        if name not in FILES or not file.is_file() or _sha256(file) != expected:
            raise StoreError(f"{file}: missing, cut or changed; {_again(store, spec)}")
    tables = Tables(**load_file(folder / FILES[2]))
    _refuse_foreign(store, spec, made, tables)
    index = None
    if FILES[1] in made.sha256:
        effort = Effort(made.probes, made.widen)
        lists = folder / FILES[3] if made.on_disk else None
        index = Index.from_file(folder / FILES[1], effort, mapped, lists)
    if behind := store.rows(f"embeddings/{spec.key}/vectors") - made.rows:
        note = f"{behind} vectors came after the index, and are compared one by one; {_do(store)}"
        return Loaded(made, index, tables_of(store, spec, tables.inverse), note)
    if made.rewrites != rewrites_of(store, spec) or made.samples != store.rows("samples/id"):
        return Loaded(made, index, tables_of(store, spec, tables.inverse))
    return Loaded(made, index, tables)


def _do(store: Stored) -> str:
    return f"`embedstore index {store.path}` puts that right"


def _refuse_foreign(store: Stored, spec: Spec, made: Made, tables: Tables) -> None:
    """Compare the lengths of a few vectors with the index's: another store's are others."""
    chosen = np.unique(np.linspace(0, made.rows, _TRIED, endpoint=False).astype(np.intp))
    lengths, inverse = _lengths(vectors_of(store, spec)[chosen]), tables.inverse
    if len(inverse) == len(tables.sets) == made.rows and np.allclose(
        lengths * inverse[chosen], lengths > 0, atol=1e-4
    ):
        return
    folder = folder_of(store, spec)
    raise StoreError(f"{folder}: is an index of other vectors; {_again(store, spec)}")

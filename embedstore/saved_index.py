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
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from embedstore.errors import StoreError
from embedstore.index import Effort, Index
from embedstore.output import put
from embedstore.places import quoted
from embedstore.search_tables import Stored, Tables, blocks_of, lengths_of, tables_of, vectors_of
from embedstore.types import Floats, Spec, unit_rows

FOLDER = "index"
FILES = ("index.json", "vectors.faiss", "tables.safetensors", "lists.faiss")
_TRIED = 64  # vectors whose lengths must be those of the index
_FORMAT = 1

Progress = Callable[[int, int], None]


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
        for block in blocks_of(vectors, start):
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
    words = ["embedstore", "index", str(store.path), "--backbone", spec.backbone, "--rebuild"]
    return f"make it anew: {shlex.join(words)}"


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
    return f"`embedstore index {quoted(store.path)}` puts that right"


def _refuse_foreign(store: Stored, spec: Spec, made: Made, tables: Tables) -> None:
    """Compare the lengths of a few vectors with the index's: another store's are others."""
    chosen = np.unique(np.linspace(0, made.rows, _TRIED, endpoint=False).astype(np.intp))
    lengths, inverse = lengths_of(vectors_of(store, spec)[chosen]), tables.inverse
    if len(inverse) == len(tables.sets) == made.rows and np.allclose(
        lengths * inverse[chosen], lengths > 0, atol=1e-4
    ):
        return
    folder = folder_of(store, spec)
    raise StoreError(f"{folder}: is an index of other vectors; {_again(store, spec)}")

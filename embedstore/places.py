"""Where a store or an image is: a path on this machine, or objects in S3, GCS or Azure.

`place` makes a path of a text. A text with a scheme (``s3://bucket/x.zarr``, ``gs://``, ``az://``)
becomes an `ObjectPlace`: a `Path` whose reading, listing and writing go to the bucket, through
obstore. What embedstore does not do there needs a file of this machine, asks for it by
``__fspath__``, and ends in one line. Credentials and endpoint are the environment's, as obstore
reads them; they are never put into a message.

How a store is written there, where nothing can be locked or renamed:

- An object is put whole, so that readers see the old one or the new one.
- The lock is an object beside the store (`embedstore.lock`), a lease that its holder renews. Who
  takes it over from a writer that is silent first writes the root ``zarr.json`` anew: a commit is
  put on the condition that the root is the one its writer knows, so the other can commit no more.
- Who holds the lock lists the store once, and puts every object on the condition that it is the
  one known, or that there is none (`Held`). What it finds changed is overwritten only while the
  lock is its own, and the root never. So nothing that was committed is lost, whoever comes second.
- Nothing is deleted unless the lease is young; a deletion can have no condition.
- Chunks are fetched whole, several at a time, and their checksum is always verified; nothing is
  memory-mapped, and a bounded number of chunks is kept.
- What must not lie beside the data, the key of patient ids and the linkage table, stays on this
  machine (`beside`).
"""

from __future__ import annotations

import io
import os
import re
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path, PosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar

from embedstore.bucket import SCHEMES, Changed, request
from embedstore.errors import StoreBusy, UsageError

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode, PutResult, UpdateVersion

T = TypeVar("T")
S = TypeVar("S")

AT_ONCE = 16
"""Requests at once."""

_OBJECT = re.compile(rf"({'|'.join(SCHEMES)}):/+(.*)", re.DOTALL)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://")
_KEYS = "EMBEDSTORE_KEYS"


def place(text: str | Path) -> Path:
    """Return where a text points to, an `ObjectPlace` where it begins with ``s3://`` and the like.

    Raises
    ------
    UsageError
        The scheme is unknown, or no bucket is named.
    """
    if isinstance(text, ObjectPlace):
        return text
    # a Path has one slash of the two
    if found := _OBJECT.fullmatch(str(text)):
        scheme, rest = found.groups()
        parts = [part for part in rest.split("/") if part]
        if not parts or {".", ".."} & {*parts}:
            raise UsageError(f"{text}: give a bucket and a name, such as {scheme}://bucket/x.zarr")
        return ObjectPlace(f"{scheme}:", *parts)
    if isinstance(text, str) and (other := _SCHEME.match(text)):
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(f"{text}: {other[1]}:// is not read here; give a path, or {known}")
    return Path(text)


def quoted(path: Path | str) -> str:
    """Return a path as it stands in a command that is printed to be pasted."""
    return shlex.quote(str(path))


def inside(root: Path, text: str) -> Path:
    """Return the place a text names, from a folder where it is relative."""
    return place(text) if _OBJECT.fullmatch(text) else root / text


def beside(store: Path) -> Path:
    """Return the path that a store's secrets are kept beside: itself, or one on this machine."""
    if not isinstance(store, ObjectPlace):
        return store
    folder = os.environ.get(_KEYS)
    above = Path(folder) if folder else Path.home() / ".embedstore"
    return above.joinpath(store.parts[0].removesuffix(":"), *store.parts[1:])


class ObjectPlace(PosixPath):
    """An object in a bucket, or the prefix of some, spelt and handled as a path.

    Its parts are the scheme with its colon, the bucket, and the key's.
    """

    __slots__ = ()

    def __str__(self) -> str:
        """Spell it with both slashes."""
        if not self.parts:
            return "."
        scheme, *rest = self.parts
        return f"{scheme}//{'/'.join(rest)}"

    def __repr__(self) -> str:
        """Show it as `place` takes it."""
        return f"place({str(self)!r})"

    def __fspath__(self) -> str:
        """Refuse what only a file of this machine can do."""
        raise UsageError(
            f"{self}: is in object storage, and a file on this machine is needed here; "
            f"`embedstore copy` brings a store here"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross process borders."""
        return place, (str(self),)

    @property
    def bucket(self) -> str:
        """The bucket, with its scheme."""
        return f"{self.parts[0]}//{self.parts[1]}"

    @property
    def key(self) -> str:
        """The key in the bucket."""
        return "/".join(self.parts[2:])

    def relative_to(self, *other: Any, **walk: Any) -> Path:  # type: ignore[override]
        """Return the rest of the key, which is a path like any other."""
        return Path(*super().relative_to(*other, **walk).parts)

    def resolve(self, strict: bool = False) -> ObjectPlace:
        """Return itself."""
        return self

    def absolute(self) -> ObjectPlace:
        """Return itself."""
        return self

    def is_absolute(self) -> bool:
        """Say that it is."""
        return True

    def head(self) -> ObjectMeta:
        """Return size, time and version of the object; `FileNotFoundError` without one."""
        with request(str(self), self.bucket) as (obstore, store):
            found: ObjectMeta = obstore.head(store, self.key)
            return found

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return size and time as a file has them.

        The time is the object's, to a second; what follows the second is made of its version, so
        that what replaced it within that second has another time.
        """
        return stat_of(self.head())

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Say whether there is an object of that key, or any below it."""
        return self.is_file() or self.is_dir()

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Say whether there is an object of that key."""
        try:
            return bool(self.key) and bool(self.head())
        except FileNotFoundError:
            return False

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Say whether there are objects below."""
        return next(self._listed(1), None) is not None

    def read_bytes(self) -> bytes:
        """Return the whole object."""
        return self.read_version()[0]

    def read_version(self) -> tuple[bytes, ObjectMeta]:
        """Return the whole object, and which version of it this is."""
        with request(str(self), self.bucket) as (obstore, store):
            found = obstore.get(store, self.key)
            return found.bytes().to_bytes(), found.meta

    def read_range(self, start: int, stop: int) -> bytes:
        """Return some bytes of the object; fewer at its end."""
        with request(str(self), self.bucket) as (obstore, store):
            found = obstore.get_range(store, self.key, start=start, end=stop)
            return bytes(found)

    def open(self, mode: str = "r", *_: Any, **how: Any) -> IO[Any]:  # type: ignore[override]
        """Open for reading, by ranges as they are asked for."""
        if mode not in {"r", "rb"}:
            self.__fspath__()
        raw = _Ranges(self, self.head()["size"])
        reader = io.BufferedReader(raw, 1 << 20)
        return reader if mode == "rb" else io.TextIOWrapper(reader, how.get("encoding"))

    def put(self, data: bytes, mode: PutMode = "overwrite") -> UpdateVersion:
        """Put the object whole, and return its version; `Changed` where the condition fails."""
        with request(str(self), self.bucket) as (obstore, store):
            made = obstore.put(store, self.key, data, mode=mode, use_multipart=False)
        return version_of(made)

    def write_bytes(self, data: Any) -> int:
        """Put the object whole; under a lock that is held, on the condition that `Held` says."""
        held = _held_of(self)
        if held is None:
            self.put(data)
        else:
            held.put(self, data)
        return len(data)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object; where a lock is held, only while it surely is."""
        remove([self])

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a key needs no folder."""

    def _refuse(self, *_: Any, **how: Any) -> Any:
        """Refuse what is not done here; later Pythons would find nothing, and say nothing."""
        return self.__fspath__()

    iterdir = glob = rglob = walk = rename = replace = touch = rmdir = _refuse

    def files(self) -> Iterator[ObjectMeta]:
        """Yield what there is of each object below, its ``path`` being the whole key."""
        yield from self._listed()

    def child(self, key: str) -> ObjectPlace:
        """Return the place of another key of the bucket."""
        return ObjectPlace(*self.parts[:2], *key.split("/"))

    def _listed(self, most: int | None = None) -> Iterator[ObjectMeta]:
        prefix = f"{self.key}/" if self.key else None
        with request(str(self), self.bucket) as (obstore, store):
            for some in obstore.list(store, prefix, chunk_size=most or 1000):
                yield from some


class _Ranges(io.RawIOBase):
    """An object as a file that can be sought in."""

    def __init__(self, source: ObjectPlace, size: int) -> None:
        self._source, self._size, self._at = source, size, 0
        self.name = str(source)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        data = self._source.read_range(self._at, stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def version_of(meta: ObjectMeta | PutResult) -> UpdateVersion:
    """Return what an object is known by, as a condition for the next put."""
    version: UpdateVersion = {"e_tag": meta["e_tag"]}
    if meta["version"] is not None:
        version["version"] = meta["version"]
    return version


def stat_of(meta: ObjectMeta) -> os.stat_result:
    """Return size and time of an object as a file has them."""
    seconds = int(meta["last_modified"].timestamp())
    version = meta["e_tag"] or meta["version"] or ""
    fraction = int.from_bytes(version.encode()[-12:], "big") % 10**9
    times = {"st_mtime_ns": seconds * 10**9 + fraction}
    fields = (0o100644, 0, 0, 1, 0, 0, meta["size"], seconds, seconds, seconds)
    return os.stat_result(fields, times)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file in a folder, relative to it; links to folders are not followed."""
    if isinstance(folder, ObjectPlace):
        for meta in folder.files():
            yield folder.child(meta["path"]).relative_to(folder)
        return
    for above, _, names in os.walk(folder):
        for name in names:
            yield Path(above, name).relative_to(folder)


def sizes_below(folder: Path) -> dict[str, int]:
    """Map every file in a folder, by its name from there, to its bytes."""
    if isinstance(folder, ObjectPlace):
        start = len(folder.key) + 1
        return {meta["path"][start:]: meta["size"] for meta in folder.files()}
    found = {}
    for file in files_below(folder):
        try:
            found[file.as_posix()] = (folder / file).stat().st_size
        except FileNotFoundError:  # replaced meanwhile
            continue
    return found


def missing_of(files: Iterable[Path]) -> set[Path]:
    """Return the files that are not there; of objects, each folder is listed once."""
    files = list(files)
    gone = {f for f in files if not isinstance(f, ObjectPlace) and not f.is_file()}
    objects = [f for f in files if isinstance(f, ObjectPlace)]
    there: set[Path] = set()
    for found in each(_names_in, list({file.parent for file in objects})):
        there |= found
    return gone | {file for file in objects if file not in there}


def _names_in(folder: Path) -> set[Path]:
    assert isinstance(folder, ObjectPlace)
    with request(str(folder), folder.bucket) as (obstore, store):
        prefix = f"{folder.key}/" if folder.key else None
        listed = obstore.list_with_delimiter(store, prefix)
        return {folder.child(meta["path"]) for meta in listed["objects"]}


def remove(files: Sequence[Path]) -> None:
    """Remove files; of objects, many by one request, and only while the lock surely is held."""
    objects = [f for f in files if isinstance(f, ObjectPlace)]
    for file in files:
        if not isinstance(file, ObjectPlace):
            file.unlink(missing_ok=True)
    for start in range(0, len(objects), 1000):
        some = objects[start : start + 1000]
        held = _held_of(some[0])
        if held:
            held.confirm()
        with request(str(some[0]), some[0].bucket) as (obstore, store):
            obstore.delete(store, [f.key for f in some])
        if held:
            for file in some:
                held.versions.pop(file.key, None)


@dataclass(slots=True)
class Held:
    """What the holder of a store's lock knows of the objects of the store.

    Attributes
    ----------
    confirm
        Raises `StoreBusy` unless the lock is held, and will be for a while.
    insist
        The same, but asks.
    versions
        Of each object that is there, by its key.
    """

    root: ObjectPlace
    confirm: Callable[[], None]
    insist: Callable[[], None]
    versions: dict[str, UpdateVersion] = field(default_factory=dict)

    def put(self, target: ObjectPlace, data: bytes) -> None:
        """Put an object in the place of the one that is known, or where there is none."""
        known = self.versions.get(target.key)
        for _ in range(3):
            try:
                mode: PutMode = "create" if known is None else _exact(target, known)
                self.versions[target.key] = target.put(data, mode)
                return
            except Changed:
                found, now = _now(target)
                if now and found == data:  # ours: the answer to the first try was lost
                    self.versions[target.key] = now
                    return
                if target == self.root / "zarr.json":
                    break
                # by a writer that was silent for so long that the lock is ours now
                self.insist()
                known = now
        raise StoreBusy(
            f"{self.root}: another process has written to it meanwhile; what it committed is "
            f"kept: run the same command again"
        )


def _now(target: ObjectPlace) -> tuple[bytes, UpdateVersion | None]:
    try:
        found, meta = target.read_version()
    except FileNotFoundError:
        return b"", None
    return found, version_of(meta)


def _exact(target: ObjectPlace, known: UpdateVersion) -> UpdateVersion:
    """Return a version as a condition; GCS goes by generations, which a listing leaves out."""
    if "version" not in known and target.parts[0] == "gs:":
        try:
            meta = target.head()
        except FileNotFoundError:
            return known
        if meta["e_tag"] == known.get("e_tag"):
            return version_of(meta)
    return known


_all_held: dict[ObjectPlace, Held] = {}


def _held_of(target: ObjectPlace) -> Held | None:
    return next((_all_held[p] for p in target.parents if p in _all_held), None)


@contextmanager
def held(
    root: ObjectPlace, confirm: Callable[[], None], insist: Callable[[], None]
) -> Iterator[Held]:
    """Write below a root, for the length of the block, as who holds its lock."""
    known = Held(root, confirm, insist)
    for meta in root.files():
        known.versions[meta["path"]] = version_of(meta)
    _all_held[root] = known
    try:
        yield known
    finally:
        del _all_held[root]


def is_remote(where: Path) -> bool:
    """Say whether each request takes a while, so that several should be under way."""
    return isinstance(where, ObjectPlace)


def each(function: Callable[[S], T], items: Sequence[S], remote: bool = True) -> list[T]:
    """Call a function for all items, where that pays several at once; the first error is raised."""
    if not remote or len(items) < 2:
        return [function(item) for item in items]
    return list(_threads().map(function, items))


def ahead(
    function: Callable[[S], T], items: Iterable[S], remote: bool = True
) -> Iterator[Callable[[], T]]:
    """Yield for each item what returns, or raises, as the function does; some are called ahead."""
    if not remote:
        yield from (partial(function, item) for item in items)
        return
    left = (_threads().submit(function, item) for item in items)
    waiting = deque(islice(left, AT_ONCE))
    while waiting:
        yield waiting.popleft().result
        waiting.extend(islice(left, 1))


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="objects")

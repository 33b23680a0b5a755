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

import errno
import io
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path, PosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar

from embedstore.errors import StoreBusy, StoreError, UsageError

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode, PutResult, UpdateVersion
    from obstore.store import ObjectStore, RetryConfig

T = TypeVar("T")
S = TypeVar("S")

AT_ONCE = 16
"""Requests at once."""

_SCHEMES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY",
}
_SETTINGS = ("AWS_", "GOOGLE_", "AZURE_")
_OBJECT = re.compile(rf"({'|'.join(_SCHEMES)}):/+(.*)", re.DOTALL)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
_KEYS = "EMBEDSTORE_KEYS"
_CODE = re.compile(r"<Code>(\w+)</Code>")
_REFUSED = re.compile("AccessDenied|Signature|AccessKey|Token|Authoriz|Authentic")
_REASONS = (
    ("BadScheme", "http:// needs AWS_ALLOW_HTTP=true"),
    ("api/token|security-credentials|169.254|redential", "no credentials"),
    ("error sending request|onnect", "nobody answers"),
)
_STATUS = re.compile(r"status code: (\d+ [A-Za-z ]+)|status: (\d+)")


class PlaceError(StoreError, OSError):
    """An object cannot be read or written."""


class Unreachable(PlaceError):
    """Object storage does not answer, or not for a reason of one object's: to be tried again."""


class Changed(StoreBusy):
    """An object is not the one it was known as."""


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
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise UsageError(f"{text}: {other[1]}:// is not read here; give a path, or {known}")
    return Path(text)


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
        with _told(self) as obstore:
            found: ObjectMeta = obstore.head(_store(self), self.key)
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
        with _told(self) as obstore:
            found = obstore.get(_store(self), self.key)
            return found.bytes().to_bytes(), found.meta

    def read_range(self, start: int, stop: int) -> bytes:
        """Return some bytes of the object; fewer at its end."""
        with _told(self) as obstore:
            found = obstore.get_range(_store(self), self.key, start=start, end=stop)
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
        with _told(self) as obstore:
            made = obstore.put(_store(self), self.key, data, mode=mode, use_multipart=False)
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
        with _told(self) as obstore:
            for some in obstore.list(_store(self), prefix, chunk_size=most or 1000):
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
    with _told(folder) as obstore:
        prefix = f"{folder.key}/" if folder.key else None
        listed = obstore.list_with_delimiter(_store(folder), prefix)
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
        with _told(some[0]) as obstore:
            obstore.delete(_store(some[0]), [f.key for f in some])
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


def object_store(where: ObjectPlace) -> ObjectStore:
    """Return obstore's store of a bucket, as the environment describes it."""
    return _store(where)


def _store(where: ObjectPlace) -> ObjectStore:
    settings = tuple(item for item in os.environ.items() if item[0].startswith(_SETTINGS))
    return _connected(where.parts[0].removesuffix(":"), where.parts[1], settings)


@lru_cache(maxsize=8)
def _connected(scheme: str, bucket: str, settings: object) -> ObjectStore:
    """Connect to a bucket; whether anyone answers is tried with less patience."""
    from datetime import timedelta

    quick: RetryConfig = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
    where = ObjectPlace(f"{scheme}:", bucket)
    with _told(where) as obstore:
        from obstore.store import from_url

        url = f"{scheme}://{bucket}"
        first = from_url(url, retry_config=quick)
        try:
            obstore.head(first, ".embedstore")
        except FileNotFoundError as error:
            if any(word in str(error) for word in _NO_BUCKET):
                raise
        except obstore.exceptions.PermissionDeniedError:
            pass  # of that one object, perhaps
        made: ObjectStore = from_url(url)
        return made


@contextmanager
def _told(where: ObjectPlace) -> Iterator[Any]:
    """Yield obstore; say in one line what an error of its means, whose text has the endpoint."""
    try:
        import obstore
        from obstore import exceptions
    except ImportError as error:
        raise StoreError(
            f"{where.bucket}: object storage needs obstore: pip install 'embedstore[cloud]'"
        ) from error

    try:
        yield obstore
    except FileNotFoundError as error:
        if not any(word in str(error) for word in _NO_BUCKET):
            raise FileNotFoundError(errno.ENOENT, "no such object", str(where)) from None
        raise Unreachable(_one_line(where, error)) from None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise Changed(f"{where}: is another object by now") from None
    except exceptions.PermissionDeniedError as error:
        raise PlaceError(_one_line(where, error)) from None
    except (exceptions.BaseError, ValueError) as error:
        raise Unreachable(_one_line(where, error)) from None


def _one_line(where: ObjectPlace, error: Exception) -> str:
    """Say what is wrong and where to look; the text of the error is not for showing."""
    text = str(error)
    if any(word in text for word in _NO_BUCKET):
        return f"{where.bucket}: no such bucket at this endpoint; make it first"
    settings = _SCHEMES[where.parts[0].removesuffix(":")]
    code = found[1] if (found := _CODE.search(text)) else ""
    if "PermissionDenied" in type(error).__name__ or _REFUSED.search(code):
        reason = f"not allowed ({code or 'access denied'})"
        return f"{where}: {reason}; look at the credentials in the environment: {settings}"
    reason = next((said for words, said in _REASONS if re.search(words, repr(error))), "")
    if not reason and (found := _STATUS.search(text)):
        reason = (found[1] or found[2]).strip()
    return (
        f"{where.bucket}: cannot be used ({code or reason or type(error).__name__}); look at the "
        f"environment: {settings}"
    )

"""Patient and exam ids as keyed hashes, so that no store holds them by accident.

HMAC-SHA256 (RFC 2104) under a random key kept in a file beside the store, never in it: without the
key an id cannot be found by hashing guesses, with it the same patient gets the same name again.
What was replaced is kept in a linkage table, also beside the store.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from embedstore.errors import StoreError
from embedstore.places import beside
from embedstore.types import Sample

KEY_BYTES = 32
_HASHED = re.compile("[0-9a-f]{16}")


def key_file(store: Path) -> Path:
    """Return where a store's key is kept: beside it; on this machine, of one in object storage."""
    store = beside(store)
    return store.with_name(f"{store.name}.key")


@dataclass(frozen=True, slots=True)
class Link:
    """Which file, patient and exam an image of a store is of."""

    id: str
    file: str
    image: str
    patient: str
    exam: str


def linkage_file(store: Path) -> Path:
    """Return where the linkage table of a store is kept: as its key."""
    store = beside(store)
    return store.with_name(f"{store.name}.linkage.csv")


def pseudonymise(samples: Sequence[Sample], store: Path, ids: bool = False) -> list[Sample]:
    """Replace `group` and `exam` by 16 hex digits each; empty ones stay empty.

    With `ids`, for DICOM archives, the `id` too (what follows a "#" in it stays), and the path is
    `private`, for folders are named after patients.

    Raises
    ------
    StoreError
        The store has samples but its key file is gone or not a key.
    """
    key = _key(key_file(store), fresh=not (store / "zarr.json").exists())
    hidden = [replace(s, group=_hash(key, s.group), exam=_hash(key, s.exam)) for s in samples]
    if not ids:
        return hidden
    return [replace(s, id=_image(key, s.id), private=True) for s in hidden]


def alias_of(store: Path, known: Iterable[str]) -> Callable[[str], str]:
    """Return the function that makes a patient's or exam's id what a store keeps of it.

    `known` are the ids the store has: what is one of them stays, and where no key lies beside
    the store, all does.

    Raises
    ------
    StoreError
        The ids are keyed hashes by their looks, but the key is gone, or is none.
    """
    there = set(known) - {""}
    file = key_file(store)
    if not file.exists():
        if there and all(_HASHED.fullmatch(value) for value in there):
            raise StoreError(
                f"{file}: the key of the patient hashes is missing; put it back, or a patient's "
                f"id could not be told from another's"
            )
        return lambda value: value
    key = _key(file, fresh=False)
    return lambda value: value if value in there else _hash(key, value)


def same_patients(stores: Mapping[Path, Collection[str]]) -> bool:
    """Say whether one id means one patient in all stores: hashed with one key, or not at all.

    Each store comes with the ids of its patients and exams.

    Raises
    ------
    StoreError
        A key file holds no key.
    """
    keys: set[bytes | Path] = set()
    for store, ids in stores.items():
        there = set(ids) - {""}
        if key_file(store).exists():
            keys.add(_key(key_file(store), fresh=False))
        elif there:
            # without its key, a store cannot be known to have another's
            keys.add(store if all(_HASHED.fullmatch(i) for i in there) else b"")
    return len(keys) <= 1


def adopt(sources: Sequence[Path], target: Path, ids: Container[str], one_key: bool) -> None:
    """Put beside a store what lies beside those it is made of: their key, and lines of linkage.

    Raises
    ------
    StoreError
        Another key lies there, or they cannot be written.
    """
    keys = [key_file(s) for s in sources if key_file(s).exists()]
    file = key_file(target)
    if file.exists() and not (keys and one_key and _key(file, False) == _key(keys[0], False)):
        raise StoreError(f"{file}: is the key of another store; move it away")
    if keys and one_key and not file.exists():
        _make(file, _key(keys[0], fresh=False))
    links = {row.id: row for s in sources[::-1] for row in _links(linkage_file(s))}
    if links:
        _write_links(linkage_file(target), (row for i, row in links.items() if i in ids))


def unlink(store: Path, ids: Container[str]) -> int:
    """Remove images from the linkage table of a store; return how many there were.

    Raises
    ------
    StoreError
        The table cannot be read or written.
    """
    file = linkage_file(store)
    links = _links(file)
    left = [row for row in links if row.id not in ids]
    if len(left) < len(links):
        _write_links(file, left)
    return len(links) - len(left)


def link(samples: Sequence[Sample], hidden: Sequence[Sample], store: Path) -> Path:
    """Write which file is behind each hidden sample, besides what the linkage table has already.

    Returns
    -------
    Path
        The table, readable by its owner alone.

    Raises
    ------
    StoreError
        It cannot be written.
    """
    file = linkage_file(store)
    links = {row.id: row for row in _links(file)}
    for sample, alias in zip(samples, hidden, strict=True):
        path = str(sample.path.resolve())
        links[alias.id] = Link(alias.id, path, sample.id, sample.group, sample.exam)
    _write_links(file, links.values())
    return file


def _write_links(file: Path, links: Iterable[Link]) -> None:
    temporary = file.with_name(f"{file.name}.writing")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        # file names may be any bytes
        with os.fdopen(
            _own(temporary), "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as out:
            table = csv.writer(out)
            table.writerow([f.name for f in fields(Link)])
            table.writerows(astuple(row) for row in links)
        temporary.replace(file)
    except OSError as error:
        raise StoreError(f"{file}: the linkage cannot be written: {error.strerror}") from error


def _links(file: Path) -> list[Link]:
    if not file.exists():
        return []
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as table:
            head, *rows = csv.reader(table)
            if head != [f.name for f in fields(Link)]:
                raise ValueError(head)
            return [Link(*row) for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise StoreError(f"{file}: not a linkage table; move it away") from error


def _image(key: bytes, sample_id: str) -> str:
    uid, hash_sign, frame = sample_id.partition("#")
    return f"{_hash(key, uid)}{hash_sign}{frame}"


def _hash(key: bytes, value: str) -> str:
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:16] if value else ""


def _own(file: Path) -> int:
    """Create a file that only its owner may read; `OSError` where there is one."""
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _make(file: Path, key: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = _own(file)
    except OSError as error:
        raise StoreError(f"{file}: the key cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "w") as out:
        out.write(key.hex() + "\n")


def _key(file: Path, fresh: bool) -> bytes:
    if not file.exists():
        if not fresh:
            raise StoreError(
                f"{file}: the key of the patient hashes is missing; put it back, or new images "
                f"of a patient would look like another patient's (--patient-ids keep, if the "
                f"store was made so)"
            )
        _make(file, secrets.token_bytes(KEY_BYTES))
    try:
        key = bytes.fromhex(file.read_text().strip())
    except OSError as error:
        raise StoreError(f"{file}: the key cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"{file}: not a key of {KEY_BYTES} bytes in hexadecimal") from error
    if len(key) != KEY_BYTES:
        raise StoreError(f"{file}: not a key of {KEY_BYTES} bytes in hexadecimal")
    return key

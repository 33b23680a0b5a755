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
import secrets
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from embedstore.errors import StoreError
from embedstore.types import Sample

KEY_BYTES = 32


def key_file(store: Path) -> Path:
    """Return where the key of a store is kept: beside it."""
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
    """Return where the linkage table of a store is kept: beside it."""
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
    temporary = file.with_name(f"{file.name}.writing")
    try:
        temporary.unlink(missing_ok=True)
        # file names may be any bytes
        with os.fdopen(
            _own(temporary), "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as out:
            table = csv.writer(out)
            table.writerow([f.name for f in fields(Link)])
            table.writerows(astuple(row) for row in links.values())
        temporary.replace(file)
    except OSError as error:
        raise StoreError(f"{file}: the linkage cannot be written: {error.strerror}") from error
    return file


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


def _make(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = _own(file)
    except OSError as error:
        raise StoreError(f"{file}: the key cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "w") as out:
        out.write(secrets.token_hex(KEY_BYTES) + "\n")


def _key(file: Path, fresh: bool) -> bytes:
    if not file.exists():
        if not fresh:
            raise StoreError(
                f"{file}: the key of the patient hashes is missing; put it back, or new images "
                f"of a patient would look like another patient's (--patient-ids keep, if the "
                f"store was made so)"
            )
        _make(file)
    try:
        key = bytes.fromhex(file.read_text().strip())
    except OSError as error:
        raise StoreError(f"{file}: the key cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"{file}: not a key of {KEY_BYTES} bytes in hexadecimal") from error
    if len(key) != KEY_BYTES:
        raise StoreError(f"{file}: not a key of {KEY_BYTES} bytes in hexadecimal")
    return key

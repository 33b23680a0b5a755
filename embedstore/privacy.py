"""Patient and exam ids as keyed hashes, so that no store holds them by accident.

HMAC-SHA256 (RFC 2104) under a random key kept in a file beside the store, never in it: without the
key an id cannot be found by hashing guesses, with it the same patient gets the same name again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from embedstore.errors import StoreError
from embedstore.types import Sample

KEY_BYTES = 32


def key_file(store: Path) -> Path:
    """Return where the key of a store is kept: beside it."""
    return store.with_name(f"{store.name}.key")


def pseudonymise(samples: Sequence[Sample], store: Path) -> list[Sample]:
    """Replace `group` and `exam` by 16 hex digits each; empty ones stay empty.

    Raises
    ------
    StoreError
        The store has samples but its key file is gone or not a key.
    """
    key = _key(key_file(store), fresh=not (store / "zarr.json").exists())
    return [replace(s, group=_hash(key, s.group), exam=_hash(key, s.exam)) for s in samples]


def _hash(key: bytes, value: str) -> str:
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:16] if value else ""


def _make(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
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

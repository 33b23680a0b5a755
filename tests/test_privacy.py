from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import pytest

from embedstore.errors import StoreError
from embedstore.privacy import key_file, pseudonymise
from embedstore.types import Sample

SAMPLES = [
    Sample("1", Path("a.png"), group="Müller, Anna", exam="E-1", view="CC", labels={"t": "x"}),
    Sample("2", Path("b.png"), group="Müller, Anna", exam="", laterality="L", split="train"),
    Sample("3", Path("c.png"), group="", exam="E-2"),
]


def reference(key: bytes, value: str) -> str:
    return hmac.digest(key, value.encode("utf-8"), "sha256").hex()[:16] if value else ""


def test_ids_are_keyed_hashes_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    found = pseudonymise(SAMPLES, tmp_path / "s.zarr")
    text = (tmp_path / "s.zarr.key").read_text().strip()
    key = bytes.fromhex(text)
    assert found == [
        Sample(
            s.id,
            s.path,
            reference(key, s.group),
            reference(key, s.exam),
            s.view,
            s.laterality,
            s.split,
            s.labels,
        )
        for s in SAMPLES
    ]
    assert found[0].group == found[1].group != found[0].exam
    assert (found[1].exam, found[2].group) == ("", "")
    # not one of the unkeyed hashes, nor keyed by the text of the key
    bare = hashlib.sha256(SAMPLES[0].group.encode()).hexdigest()[:16]
    assert found[0].group not in {bare, reference(text.encode(), SAMPLES[0].group)}


def test_the_key_lies_beside_the_store_for_its_owner_alone(tmp_path: Path) -> None:
    store = tmp_path / "deep" / "s.zarr"
    pseudonymise(SAMPLES, store)
    file = tmp_path / "deep" / "s.zarr.key"
    assert key_file(store) == file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert len(text.strip()) == 64
    assert set(text.strip()) <= set("0123456789abcdef")
    assert not store.exists()


def test_the_key_is_kept_and_every_store_has_its_own(tmp_path: Path) -> None:
    first = pseudonymise(SAMPLES, tmp_path / "s.zarr")
    text = (tmp_path / "s.zarr.key").read_text()
    assert pseudonymise(SAMPLES, tmp_path / "s.zarr") == first
    assert (tmp_path / "s.zarr.key").read_text() == text
    assert pseudonymise(SAMPLES, tmp_path / "t.zarr")[0].group != first[0].group


def test_a_key_brought_along_is_used(tmp_path: Path) -> None:
    (tmp_path / "s.zarr.key").write_text("00ff" * 16)
    found = pseudonymise(SAMPLES, tmp_path / "s.zarr")
    assert found[0].group == reference(b"\x00\xff" * 16, "Müller, Anna")


def test_a_store_without_its_key_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    store.mkdir()
    (store / "zarr.json").write_text("{}")
    with pytest.raises(StoreError, match=r"s\.zarr\.key: the key .* is missing; put it back"):
        pseudonymise(SAMPLES, store)
    assert not (tmp_path / "s.zarr.key").exists()


@pytest.mark.parametrize("content", [b"", b"00ff", b"zz" * 32, b"00" * 33, b"\xff\xfe" * 32])
def test_what_is_no_key_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.zarr.key").write_bytes(content)
    with pytest.raises(StoreError, match="not a key of 32 bytes in hexadecimal"):
        pseudonymise(SAMPLES, tmp_path / "s.zarr")
    assert (tmp_path / "s.zarr.key").read_bytes() == content


def test_a_key_that_cannot_be_read_or_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "s.zarr.key").mkdir()
    with pytest.raises(StoreError, match="the key cannot be read: Is a directory"):
        pseudonymise(SAMPLES, tmp_path / "s.zarr")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="the key cannot be written: "):
        pseudonymise(SAMPLES, tmp_path / "file" / "s.zarr")

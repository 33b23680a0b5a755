"""Chunk files one by one: what lies in them, what is said of damaged ones, what is kept of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from numcodecs.vlen import VLenUTF8

from embedstore import chunks
from embedstore.chunks import DIFFERS, Layout, Maps, encode, is_whole, map_chunk, read_chunk
from embedstore.errors import StoreError

NUMBERS = Layout("numbers", "float32", (3,))
TEXTS = Layout("texts", "string")


def sealed(body: bytes) -> bytes:
    return body + google_crc32c.value(body).to_bytes(4, "little")


def written(root: Path, layout: Layout, data: bytes) -> Path:
    file = layout.chunk_file(root, 0)
    chunks.write_whole(file, data)
    return file


def test_what_a_chunk_is_short_of_is_its_fill_value(tmp_path: Path) -> None:
    block = np.arange(6, dtype=np.float32).reshape(2, 3)
    rest = np.zeros((NUMBERS.chunk_rows - 2, 3), dtype="<f4")
    assert encode(NUMBERS, block) == sealed(block.astype("<f4").tobytes() + rest.tobytes())
    texts = np.array(["a", "ü", ""], dtype=object)
    data = encode(TEXTS, texts)
    assert VLenUTF8().decode(data[:-4]).tolist() == ["a", "ü", *[""] * (TEXTS.chunk_rows - 2)]
    assert data == sealed(data[:-4])
    assert is_whole(data)
    assert not is_whole(data[:-1] + bytes([data[-1] ^ 1]))
    written(tmp_path, TEXTS, data)
    assert read_chunk(tmp_path, TEXTS, 0)[:3].tolist() == ["a", "ü", ""]


def test_a_chunk_that_cannot_be_read_is_named_and_so_is_why(tmp_path: Path) -> None:
    data = encode(NUMBERS, np.ones((2, 3), dtype=np.float32))
    file = NUMBERS.chunk_file(tmp_path, 0)

    def says(text: str, layout: Layout = NUMBERS, mapped: bool = True) -> None:
        reads = [lambda: read_chunk(tmp_path, layout, 0)]
        if mapped:
            reads.append(lambda: map_chunk(tmp_path, layout, 0, Maps(), verify=True))
        for read in reads:
            with pytest.raises(StoreError, match=re.escape(text)):
                read()

    says(f"{file}: a chunk of the store is missing")
    written(tmp_path, NUMBERS, data[:7] + b"\1" + data[8:])
    says(f"{file}: {DIFFERS}")
    map_chunk(tmp_path, NUMBERS, 0, Maps())
    written(tmp_path, NUMBERS, data[:-1])
    says(f"{file}: {DIFFERS}", mapped=False)
    with pytest.raises(StoreError, match=re.escape(f"{file}: the chunk is cut short")):
        map_chunk(tmp_path, NUMBERS, 0, Maps())
    written(tmp_path, NUMBERS, sealed(data[:-5]))
    says(f"{file}: is no chunk of numbers: ", mapped=False)
    texts = written(tmp_path, TEXTS, sealed(bytes(VLenUTF8().encode(np.array(["a"], object)))))
    says(f"{texts}: is no chunk of texts: not of 8192 texts", TEXTS, mapped=False)


def test_a_file_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "0" / "x").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        chunks.write_whole(tmp_path / "0", b"data")
    assert [p.name for p in tmp_path.iterdir()] == ["0"]


def test_of_what_was_fetched_the_last_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    block = np.ones((2, 3), dtype=np.float32)
    monkeypatch.setattr(chunks, "FETCHED_BYTES", 2 * block.nbytes)
    maps = Maps()

    def kept() -> list[int]:
        return [c for c in range(5) if maps.get(NUMBERS, c) is not None]

    for c in (0, 1, 1, 0):  # twice is once
        maps.fetched(NUMBERS, c, block)
    assert kept() == [0, 1]
    assert maps.recent(NUMBERS, 0) is block
    assert maps.recent(NUMBERS, 4) is None
    maps.fetched(NUMBERS, 2, block)
    assert kept() == [0, 2]
    maps.fetched(NUMBERS, 3, block)
    assert kept() == [2, 3]
    maps.fetched(TEXTS, 0, np.array(["a"], dtype=object))
    assert maps.get(TEXTS, 0) is None
    assert maps.made == 7


@pytest.mark.parametrize("wanted", [None, [3, 1, 3]])
def test_rows_are_of_the_arrays_type_and_verified_where_asked(
    tmp_path: Path, wanted: list[int] | None
) -> None:
    layout = Layout("halves", "float16", (64,))
    block = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float16)
    data = bytearray(encode(layout, block))
    data[7 * 128] ^= 1  # in a row that is not asked for
    rows = None if wanted is None else np.array(wanted)
    expected = block[:6] if rows is None else block[rows]
    for damaged in (False, True):
        written(tmp_path, layout, bytes(data) if damaged else encode(layout, block))
        found = chunks.read_rows(tmp_path, layout, 6, rows)
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(StoreError, match=DIFFERS):
        chunks.read_rows(tmp_path, layout, 6, rows, verify=True)


def test_what_is_mapped_once_is_not_mapped_again(tmp_path: Path) -> None:
    layout = Layout("halves", "float16", (64,))
    for c in (0, 1):
        chunks.write_whole(
            layout.chunk_file(tmp_path, c), encode(layout, np.full((2, 64), c, "float16"))
        )
    maps = Maps()
    one, other = (map_chunk(tmp_path, layout, c, maps) for c in (0, 1))
    assert (one[0, 0], other[0, 0], maps.made) == (0, 1, 2)
    assert map_chunk(tmp_path, layout, 0, maps) is one
    whole = chunks.map_rows(tmp_path, layout, layout.chunk_rows + 2, maps)
    assert whole is not None
    assert (whole[0, 0], whole[-1, 0], len(whole)) == (0, 1, layout.chunk_rows + 2)
    again = chunks.map_rows(tmp_path, layout, 2, maps)
    assert again is not None
    assert np.shares_memory(again, whole)
    assert maps.made == 3
    none = chunks.map_rows(tmp_path, layout, 0, Maps())
    assert none is not None
    assert (none.shape, none.dtype) == ((0, 64), np.float16)


@pytest.mark.parametrize("rewrites", [0, 1, 2, 3])
@pytest.mark.parametrize("layout", [NUMBERS, TEXTS])
def test_zarr_finds_the_layout_as_it_is_meant(
    tmp_path: Path, layout: Layout, rewrites: int
) -> None:
    for _ in range(rewrites):
        layout = layout.rewritten()
    block = np.array(["a", "ü"], dtype=object)
    if layout.dtype != "string":
        block = np.arange(6, dtype=np.float32).reshape(2, 3)
    written(tmp_path, layout, encode(layout, block))
    metadata = layout.metadata(5)
    (tmp_path / layout.name / "zarr.json").write_text(json.dumps(metadata))
    found = zarr.open_array(tmp_path / layout.name, mode="r")
    assert found.shape == (5, *layout.row)
    assert found[:2].tolist() == block.tolist()
    assert found.fill_value == ("" if layout.dtype == "string" else 0)
    assert dict(found.attrs) == ({"rewrites": rewrites} if rewrites else {})
    serializer = {"name": "bytes", "configuration": {"endian": "little"}}
    if layout.dtype == "string":
        serializer = {"name": "vlen-utf8", "configuration": {}}
    assert metadata["codecs"] == [serializer, {"name": "crc32c"}]
    assert chunks.no_rows(layout).dtype == block.dtype


def test_texts_are_read_from_the_chunks_they_are_in(tmp_path: Path) -> None:
    texts = np.arange(TEXTS.chunk_rows + 5).astype(str).astype(object)
    for c in (0, 1):
        block = texts[c * TEXTS.chunk_rows :][: TEXTS.chunk_rows]
        chunks.write_whole(TEXTS.chunk_file(tmp_path, c), encode(TEXTS, block))
    rows = np.array([TEXTS.chunk_rows + 3, 2, TEXTS.chunk_rows, 2])
    found = chunks.read_rows(tmp_path, TEXTS, len(texts), rows)
    assert found.tolist() == texts[rows].tolist()
    assert chunks.read_rows(tmp_path, TEXTS, len(texts)).tolist() == texts.tolist()

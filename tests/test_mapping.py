"""Chunk files mapped side by side, against numpy over the same bytes."""

from __future__ import annotations

import gc
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedstore.mapping import can_map, map_files

PAGE = mmap.ALLOCATIONGRANULARITY


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Write five files of two pages and a checksum each."""
    rng = np.random.default_rng(0)
    made = [tmp_path / str(n) for n in range(5)]
    for file in made:
        file.write_bytes(rng.integers(0, 256, 2 * PAGE + 4, dtype=np.uint8).tobytes())
    return made


def flat(files: list[Path]) -> np.ndarray:
    return np.concatenate([np.fromfile(f, np.uint8)[: 2 * PAGE] for f in files])


def test_the_files_read_as_one_array(files: list[Path]) -> None:
    mapped = map_files(files, 2 * PAGE)
    np.testing.assert_array_equal(mapped, flat(files))
    rows = mapped.view("<u4").reshape(-1, 5 * PAGE // 16)  # that reach over the files' borders
    np.testing.assert_array_equal(rows, flat(files).view("<u4").reshape(rows.shape))


def test_nothing_can_be_written(files: list[Path]) -> None:
    with pytest.raises(ValueError, match="read-only"):
        map_files(files, 2 * PAGE)[0] = 1


def test_views_outlive_the_array_and_a_replaced_file(files: list[Path]) -> None:
    expected = flat(files)
    view = map_files(files, 2 * PAGE)[PAGE:]
    files[1].with_name("new").write_bytes(bytes(2 * PAGE))
    files[1].with_name("new").replace(files[1])
    gc.collect()
    np.testing.assert_array_equal(view, expected[PAGE:])


@pytest.mark.skipif(sys.platform != "linux", reason="counts mappings in /proc")
def test_a_mapping_ends_with_its_last_view(files: list[Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from embedstore.mapping import map_files\n"
        "files = [Path(p) for p in sys.argv[2:]]; size = int(sys.argv[1])\n"
        "count = lambda: open('/proc/self/maps').read().count(str(files[0].parent))\n"
        "view = map_files(files, size)[5:9]; during = count(); del view\n"
        "import gc; gc.collect(); print(during, count())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(2 * PAGE), *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["5", "0"]


def test_missing_and_short_files_are_named(files: list[Path]) -> None:
    with pytest.raises(ValueError, match=str(files[0])):
        map_files(files, 3 * PAGE)
    files[3].unlink()
    with pytest.raises(FileNotFoundError, match=str(files[3])):
        map_files(files, 2 * PAGE)


def test_only_whole_pages_can_be_mapped() -> None:
    assert can_map(PAGE)
    assert can_map(7 * PAGE)
    assert not any(can_map(size) for size in (0, 1, PAGE - 1, PAGE + 8))

"""Extractions over files that are damaged, lie, or are meant to fill the memory: none stops one."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from mutants import IDENTIFIERS, WHOLE, write_corpus

from embedstore.store import Failure, Store
from embedstore.types import Embeddings

SCRIPT = Path(sys.executable).with_name("embedstore")
MOST_MEMORY = 2 * 10**9
PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@dataclass(frozen=True)
class Outcome:
    """What an extraction with two readers made of some files; `peak` is of one process, bytes."""

    code: int
    output: str
    seconds: float
    peak: int
    vectors: Embeddings
    failures: list[Failure]


def extraction(files: Sequence[Path], folder: Path, limit: float) -> Outcome:
    """Run the command over files, which get their place as their id."""
    with (folder / "files.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["image", "id"])
        table.writerows([str(path), str(number)] for number, path in enumerate(files))
    command = [str(SCRIPT), "extract", "files.csv", "--store", "s.zarr"]
    command += ["--backbone", "statistics", "--workers", "2"]
    clean = {k: v for k, v in os.environ.items() if k not in {"FORCE_COLOR", "PYTHONWARNINGS"}}
    began = time.monotonic()
    with (folder / "output.txt").open("w+") as output:
        child = subprocess.Popen(
            command, cwd=folder, env=clean, stdout=output, stderr=output, start_new_session=True
        )
        ended, peaks = threading.Event(), [0]
        watch = threading.Thread(target=_watch, args=(child.pid, ended, peaks))
        watch.start()
        try:
            code = child.wait(limit)
        finally:
            ended.set()
            watch.join()
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        output.seek(0)
        text = output.read()
    store = Store.open(folder / "s.zarr")
    vectors = store.read(store.find("statistics"))
    seconds = time.monotonic() - began
    return Outcome(code, text, seconds, max(peaks), vectors, store.failures())


def _watch(session: int, ended: threading.Event, peaks: list[int]) -> None:
    """Note the most memory that any process of a session has held at once."""
    while not ended.wait(0.05):
        peaks += [_peak(number) for number in _members(session)]


def _members(session: int) -> list[int]:
    members = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(after_name[3]) == session:
                members.append(int(entry.name))
    return members


def _peak(number: int) -> int:
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{number}/status").read_text())
        return int(found[1]) * 1024 if found else 0
    return 0


def names(files: Sequence[Path], ids: Sequence[str]) -> list[str]:
    return [files[int(i)].name for i in ids]


def assert_each_is_told_of_once(files: Sequence[Path], outcome: Outcome) -> None:
    """Each file has either a vector or a failure with a reason, and the command went well."""
    assert outcome.code == 0, outcome.output[-2000:]
    told = [*outcome.vectors.ids.tolist(), *(f.id for f in outcome.failures)]
    assert sorted(told, key=int) == [str(number) for number in range(len(files))]
    assert np.isfinite(outcome.vectors.vectors).all()
    for failure in outcome.failures:
        assert failure.stage in {"read", "decode", "preprocess", "encode"}
        assert failure.reason.strip()
        assert "\n" not in failure.reason


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def outcome(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return extraction(corpus, tmp_path_factory.mktemp("run"), limit=300)


def test_each_damaged_file_ends_as_a_vector_or_a_reason(
    corpus: list[Path], outcome: Outcome
) -> None:
    assert len(corpus) >= 2000
    print(
        f"{len(outcome.vectors)} vectors, {len(outcome.failures)} failures, "
        f"{outcome.seconds:.0f} s, at most {outcome.peak / 1e6:.0f} MB a process"
    )
    assert_each_is_told_of_once(corpus, outcome)


def test_undamaged_files_all_give_vectors(corpus: list[Path], outcome: Outcome) -> None:
    whole = [path.name for path in corpus if path.name.startswith(WHOLE)]
    assert len(whole) > 50
    assert set(whole) <= set(names(corpus, outcome.vectors.ids.tolist()))


def test_nothing_is_made_up_where_the_end_of_a_file_is_gone(
    corpus: list[Path], outcome: Outcome
) -> None:
    assert sum("-cut" in path.name for path in corpus) > 500
    shown = [n for n in names(corpus, outcome.vectors.ids.tolist()) if "-cut" in n]
    # of several frames the first is there
    assert {n.rpartition("-")[0] for n in shown} == {"frames", "j2k-frames"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_no_process_of_the_run_takes_two_gigabytes(outcome: Outcome) -> None:
    assert 10**9 // 2 < outcome.peak < MOST_MEMORY  # some of the files do try


def test_no_reason_names_the_patient(corpus: list[Path], outcome: Outcome) -> None:
    told = [f for f in outcome.failures if any(name in f.reason for name in IDENTIFIERS)]
    assert [(corpus[int(f.id)].name, f.reason) for f in told] == []


def test_pydicoms_own_files_all_go_through(tmp_path: Path) -> None:
    files = [p for p in sorted(PYDICOM_FILES.rglob("*")) if p.is_file()]
    files = [p for p in files if p.suffix in {"", ".dcm"}]
    assert len(files) > 150
    outcome = extraction(files, tmp_path, limit=120)
    assert_each_is_told_of_once(files, outcome)
    shown = set(names(files, outcome.vectors.ids.tolist()))
    assert len(shown) >= 70
    assert {
        "CT_small.dcm",
        "JPEG2000.dcm",
        "MR_small_RLE.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
    } <= shown

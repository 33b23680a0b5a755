"""Fuzz one harness by coverage: ``python fuzz/fuzz.py NAME [SECONDS]``; no name lists them.

It ends with an error where reading raised what is not embedstore's own, took more than ten
seconds, or more memory than the harness allows; the input is left in ``build/fuzz/NAME``, and
``python fuzz/fuzz.py NAME 0 FILE`` reads it once more.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[1]
SECONDS_EACH = 10
sys.path.append(str(ROOT / "tests"))

with atheris.instrument_imports(include=["embedstore", "pydicom", "yaml", "tomllib"]):
    import harnesses

from mutation import changed  # noqa: E402

from embedstore.readers import MEMORY  # noqa: E402


def _mutate(data: bytes, most: int, seed: int) -> bytes:
    """Change values as often as bytes."""
    chance = random.Random(seed)
    other = changed(data, chance) if chance.random() < 0.7 else None
    if other is None or len(other) > most:
        return bytes(atheris.Mutate(data, most))
    return other


def once(name: str, file: Path) -> None:
    """Read one input again, for its traceback."""
    harness = harnesses.HARNESSES[name]
    harnesses.few_rows_a_chunk()
    with tempfile.TemporaryDirectory() as folder:
        harness.prepare(Path(folder))
        print("read" if harness.run(file.read_bytes(), Path(folder)) else "refused")


def fuzz(name: str, seconds: int) -> None:
    """Try inputs until the time is over; the process ends here."""
    harness = harnesses.HARNESSES[name]
    harnesses.few_rows_a_chunk()
    kept = ROOT / "build" / "fuzz" / name
    (kept / "corpus").mkdir(parents=True, exist_ok=True)
    seeds = harness.seeds()
    for number, seed in enumerate(seeds):
        (kept / "corpus" / f"seed{number}").write_bytes(seed)
    if harness.limited:  # as a reader process is
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory(dir=kept) as folder:
        harness.prepare(Path(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # MiB, most of it torch
        options = {
            "max_total_time": seconds,
            "timeout": SECONDS_EACH,
            "rss_limit_mb": before + harness.memory,
            # what a reader process may not have is a MemoryError there
            "malloc_limit_mb": 4096 if harness.limited else harness.memory,
            "max_len": 2 * max(map(len, seeds)),
            "artifact_prefix": f"{kept}/",
            "verbosity": 0,
            "print_final_stats": 1,
        }
        arguments = [sys.argv[0], *(f"-{k}={v}" for k, v in options.items()), str(kept / "corpus")]
        more = {"custom_mutator": _mutate} if harness.json else {}
        atheris.Setup(arguments, lambda data: harness.run(data, Path(folder)) and None, **more)
        atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        print("\n".join(harnesses.HARNESSES))
    elif len(sys.argv) > 3:
        once(sys.argv[1], Path(sys.argv[3]))
    else:
        fuzz(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60)

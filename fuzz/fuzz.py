"""Fuzz harnesses by coverage: ``python fuzz/fuzz.py --seconds 60 [NAME …]``.

Each has a process of its own. One that ends by an exception which is not embedstore's own, by more
than ten seconds, or by more memory than the harness allows, leaves its input in
``build/fuzz/NAME``; ``--input FILE`` reads it once more.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[1]
SECONDS_EACH = 10
sys.path.append(str(ROOT / "tests"))

# of pydicom only what parses: its dictionaries would take minutes
_READERS = ["pydicom.filereader", "pydicom.dataset", "pydicom.dataelem", "pydicom.values"]
with atheris.instrument_imports(include=["embedstore", "tomllib", *_READERS]):
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


def fuzz(name: str, seconds: int, kept: Path, folder: Path) -> None:
    """Try inputs until the time is over; the process ends here."""
    harness = harnesses.HARNESSES[name]
    seeds = harness.seeds()
    for number, seed in enumerate(seeds):
        (kept / f"seed{number}").write_bytes(seed)
    harness.prepare(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # MiB of libraries
    if harness.limited:  # as a reader process is
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.RLIM_INFINITY))
    options = {
        "max_total_time": seconds,
        "timeout": SECONDS_EACH,
        "rss_limit_mb": before + harness.memory,
        # what a reader process may not have is a MemoryError there
        "malloc_limit_mb": 4096 if harness.limited else harness.memory,
        "max_len": 2 * max(map(len, seeds)),
        "artifact_prefix": f"{kept.parent}/",
        "verbosity": 0,
        "print_final_stats": 1,
    }
    arguments = [sys.argv[0], *(f"-{k}={v}" for k, v in options.items()), str(kept)]
    more = {"custom_mutator": _mutate} if harness.json else {}
    atheris.Setup(arguments, lambda data: harness.run(data, folder) and None, **more)
    atheris.Fuzz()


def _apart(name: str, seconds: int) -> bool:
    """Fuzz one harness in a child; say whether it went well."""
    kept = ROOT / "build" / "fuzz" / name / "corpus"
    kept.mkdir(parents=True, exist_ok=True)
    print(f"== {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pid = os.fork()
        if not pid:
            fuzz(name, seconds, kept, Path(folder))
        return os.waitpid(pid, 0)[1] == 0


def main() -> int:
    """Fuzz the harnesses named, or all; 1 where one found something."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(harnesses.HARNESSES))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--input", type=Path)
    asked = parser.parse_args()
    harnesses.few_rows_a_chunk()
    names = asked.names or list(harnesses.HARNESSES)
    if asked.input:
        with tempfile.TemporaryDirectory() as folder:
            harnesses.HARNESSES[names[0]].prepare(Path(folder))
            read = harnesses.HARNESSES[names[0]].run(asked.input.read_bytes(), Path(folder))
            print("read" if read else "refused")
        return 0
    found = [name for name in names if not _apart(name, asked.seconds)]
    print(f"found something: {', '.join(found)}" if found else "nothing found")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())

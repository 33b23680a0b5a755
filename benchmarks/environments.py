"""Environments of the peers: one each, for some want other versions than embedstore or each other.

Each sees this environment's packages behind its own, so that torch is not installed again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINS = Path(__file__).with_name("peers.txt")
BUILT = ROOT / "build" / "bench"


def pins() -> dict[str, list[str]]:
    """Return the packages of each environment, by the peer's name, which is the first of them."""
    lines = (line.split() for line in PINS.read_text().splitlines() if line[:1] not in ("", "#"))
    return {line[0].split("==")[0]: line for line in lines}


def version(peer: str) -> str:
    """Return the peer's own version."""
    return pins()[peer][0].split("==")[1]


def python(peer: str) -> Path:
    """Return the interpreter of a peer's environment, made if it is not there as pinned.

    Raises
    ------
    RuntimeError
        It cannot be installed here; the last that pip said.
    """
    home, wanted = BUILT / peer, pins()[peer]
    stamp, found = home / "installed", home / "bin" / "python"
    if stamp.exists() and stamp.read_text().split() == wanted:
        return found
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, symlinks=True)
    paths = {"base": str(home), "platbase": str(home)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    (site / "host.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(found), "install", "-q", "--no-deps"]
    done = subprocess.run(pip + wanted, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    stamp.write_text("\n".join(wanted))
    return found

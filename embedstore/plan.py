"""How an extraction runs on this machine, and the record of it that goes into the store."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from embedstore.readers import SECONDS

Precision = Literal["float32", "bfloat16"]
IMAGES_A_READER = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """How an extraction runs; `choose` fills in what suits the machine."""

    device: str
    precision: Precision
    batch_size: int
    workers: int
    seconds: float = SECONDS  # for one file

    def __str__(self) -> str:
        """One line for the user."""
        return (
            f"{self.device}, {self.precision}, batches of {self.batch_size}, "
            f"{self.workers} reader process{'es' * (self.workers != 1)}"
        )


def choose_device(device: str = "auto") -> str:
    """Return the device to use: as given, else a GPU where there is one."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose(
    device: str,
    precision: str,
    batch_size: int,
    workers: int,
    images: int,
    seconds: float = SECONDS,
) -> Plan:
    """Fill in "auto", 0 and -1: what this machine does well.

    bfloat16 where the processor or GPU computes in it (about twice as fast, cosine to float32
    above 0.999), float32 otherwise.
    """
    if precision == "auto":
        precision = "bfloat16" if _has_bfloat16(device) else "float32"
    if workers < 0:  # at least one, so that a file can take down no more than its reader
        workers = max(1, min(os.cpu_count() or 1, 8, images // IMAGES_A_READER))
    chosen: Precision = "bfloat16" if precision == "bfloat16" else "float32"
    return Plan(device, chosen, batch_size or (32 if device == "cpu" else 256), workers, seconds)


def _has_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def provenance(plan: Plan, private: bool = False) -> dict[str, Any]:
    """Return what made the vectors, besides the Spec: versions, machine, command, time (UTC).

    Paths in the command are left out where they are `private`.
    """
    packages = ("embedstore", "torch", "timm", "open_clip_torch", "numpy", "pillow")
    return {
        "versions": {name: version(name) for name in packages} | {"python": sys.version.split()[0]},
        "platform": platform.platform(),
        "device": plan.device,
        "precision": plan.precision,
        "batch_size": plan.batch_size,
        "command": " ".join([Path(sys.argv[0]).name, *(_said(a, private) for a in sys.argv[1:])]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _said(argument: str, private: bool) -> str:
    parts = re.split("([=@])", argument)
    return "".join("…" if private and p and Path(p).exists() else p for p in parts)

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
    """How an extraction runs; `choose` fills in what suits the machine.

    Attributes
    ----------
    device
        A torch device, or several of one kind with commas: ``cuda:0,cuda:1``.
    batch_size
        Images the backbones take at a time; 0: found by trying.
    workers
        Reader processes; 0: files are read in this process, without protection.
    seconds
        What one file may take.
    compile
        Run the backbones through ``torch.compile``.
    """

    device: str
    precision: Precision
    batch_size: int
    workers: int
    seconds: float = SECONDS
    compile: bool = False

    @property
    def devices(self) -> tuple[str, ...]:
        """Every device by its name."""
        return tuple(self.device.split(","))

    def __str__(self) -> str:
        """One line for the user."""
        batches = f"batches of {self.batch_size}" if self.batch_size else "batch size by trying"
        return (
            f"{', '.join(self.devices)}, {self.precision}{', compiled' * self.compile}, {batches}, "
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
    compile_: bool = False,
) -> Plan:
    """Fill in "auto" and -1: what this machine does well.

    bfloat16 where the processor or GPU computes in it (about twice as fast, cosine to float32
    above 0.999), float32 otherwise. The backbones must be on the device that is chosen.
    """
    device = ",".join(map(choose_device, device.split(",")))
    if precision == "auto":
        has = all(has_bfloat16(d) for d in device.split(","))
        precision = "bfloat16" if has else "float32"
    if workers < 0:  # at least one, so that a file can take down no more than its reader
        workers = max(1, min(os.cpu_count() or 1, 8, images // IMAGES_A_READER))
    chosen: Precision = "bfloat16" if precision == "bfloat16" else "float32"
    return Plan(device, chosen, batch_size, workers, seconds, compile_)


def has_bfloat16(device: str) -> bool:
    """Tell whether a device computes in bfloat16; elsewhere it is slower than float32."""
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
        "compiled": plan.compile,
        "command": " ".join([Path(sys.argv[0]).name, *(_said(a, private) for a in sys.argv[1:])]),
        "started": datetime.now(UTC).isoformat(timespec="microseconds"),
    }


def _said(argument: str, private: bool) -> str:
    parts = re.split("([=@])", argument)
    return "".join("…" if private and p and Path(p).exists() else p for p in parts)

"""The folder of a run.

::

    RUN/
      run.json              what makes it this run and no other
      report.json           the scores
      config.json, …        the model in its library's own format: a backbone again
      probe/                its last layer, as `probe --save` saves a head on those vectors
      fold.json             losses by epoch
      fold.safetensors      its answers, and its last layer
      last.ckpt, best.ckpt  until it has ended
      tensorboard/

Of several folds each has such a folder of its own, ``fold-0``, ``fold-1`` …, beside the first two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from embedstore.backbones import RUN
from embedstore.errors import StoreError, UsageError
from embedstore.finetune.job import Job
from embedstore.fitted import Answers
from embedstore.lock import write_lock
from embedstore.output import put
from embedstore.protocol import Posed
from embedstore.split_files import fingerprint_of
from embedstore.types import fingerprint

__all__ = ["FORMAT", "Fold", "claim", "give_up", "held", "read", "refuse_strange", "write"]

FORMAT = 1
_RUN, _FOLD, _ARRAYS = RUN, "fold.json", "fold.safetensors"
_OURS = (".", "images.zarr")


@dataclass(frozen=True, slots=True)
class Fold:
    """What one fold came to: answers for its tested side, its last layer, and how it went."""

    answers: Answers
    layer: Mapping[str, torch.Tensor]
    told: Mapping[str, Any]


@contextmanager
def held(folder: Path, first: bool) -> Iterator[None]:
    """Keep other runs out of the folder."""
    if not first:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with write_lock(folder / ".lock"):
            yield
    finally:
        with suppress(OSError):  # not empty: there is something to keep
            folder.rmdir()


def claim(folder: Path, job: Job, posed: Posed) -> None:
    """Write down what this run is, or refuse a folder that holds another."""
    told = {
        "format": FORMAT,
        "label": job.label,
        "classes": list(posed.classes),
        "spec": job.spec.to_dict() | {"key": job.spec.key},
        "split": fingerprint_of(posed.splits),
        "images": fingerprint(sorted(posed.images.ids.tolist())),
        "settings": job.settings.to_dict(),
        "sentences": {k: list(v) for k, v in (job.sentences or {}).items()},
    }
    file = folder / _RUN
    if not file.exists():
        refuse_strange(folder)
        if job.first:
            with put(file) as fresh:
                fresh.write_text(json.dumps(told, indent=1) + "\n")
        return
    try:
        there = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: damaged; give another --out") from error
    for name, now, before in _pairs(told, there):
        if now != before:
            raise UsageError(
                f"{folder}: holds another run, whose {name} is {before!r}, not {now!r}; give the "
                f"same, or another --out"
            )


def _strange(folder: Path, *more: str) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith((*_OURS, *more)))


def refuse_strange(folder: Path) -> None:
    """Raise `UsageError` where a folder holds what no run has put there."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give the name of a folder")
    if folder.exists() and not (folder / _RUN).exists() and (strange := _strange(folder)):
        raise UsageError(f"{folder}: holds {strange[0]!r}; give a folder of its own")


def give_up(folder: Path) -> None:
    """Leave nothing of a run that never began, so that a better one may have the folder."""
    if not _strange(folder, _RUN):
        (folder / _RUN).unlink()


def _pairs(told: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Every value of two runs by its name, those of the settings by theirs."""
    for name, now in told.items():
        before = there.get(name)
        if name in {"settings", "spec"} and isinstance(before, Mapping):
            yield from ((k, v, before.get(k)) for k, v in now.items())
        else:
            yield name, now, before


def write(found: Fold, folder: Path) -> None:
    """Write what a fold came to; its checkpoints go, since the model is there."""
    arrays = {f"layer.{k}": v for k, v in found.layer.items()}
    arrays["answers"] = torch.from_numpy(found.answers)
    with put(folder / _ARRAYS, replace=True) as fresh:
        save_file(arrays, fresh)
    with put(folder / _FOLD, replace=True) as fresh:
        fresh.write_text(json.dumps(found.told, indent=1) + "\n")
    for checkpoint in folder.glob("*.ckpt"):
        checkpoint.unlink()


def read(folder: Path, tested: int) -> Fold | None:
    """Return what a fold came to, answers for so many images; None where it has not ended."""
    if not (folder / _FOLD).exists():
        return None
    try:
        told = json.loads((folder / _FOLD).read_text())
        arrays = load_file(folder / _ARRAYS)
        answers = arrays.pop("answers").numpy()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StoreError(f"{folder}: what this fold came to is damaged: {error}") from error
    if len(answers) != tested:
        raise StoreError(f"{folder}: answers for {len(answers)} images, not {tested}")
    return Fold(answers, {k.removeprefix("layer."): v for k, v in arrays.items()}, told)

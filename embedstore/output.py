"""Putting a finished file or folder in its place in one step, and over nothing by accident."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from embedstore.errors import StoreError, UsageError
from embedstore.lock import write_lock


@contextmanager
def put(out: Path, replace: bool = False, folder_of: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of `out` when the block ends well.

    Until then nothing is at `out`, or what was there before. What a killed process left is
    removed by the next one with the same `out`.

    Parameters
    ----------
    replace
        Whether something may be there already: a file, or a folder of such files only as
        `folder_of`, or an empty one.
    folder_of
        Names (with ``*``) of the files that a folder is made of; none where it is a file.

    Raises
    ------
    UsageError
        Something is there that is not to be replaced.
    StoreError
        The disk refuses, or another process is writing to the same `out`.
    """
    refuse(out, replace, folder_of)
    try:
        with _workshop(out) as work:
            made = work / out.name
            yield made
            _flush(made)
            if folder_of and out.exists():
                out.rename(work / "before")
            made.rename(out) if folder_of else made.replace(out)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written: {error.strerror or error}") from error


def refuse(out: Path, replace: bool, folder_of: tuple[str, ...]) -> None:
    """Raise `UsageError` where `put` must not write."""
    if not os.path.lexists(out):
        return
    if out.is_dir() and not folder_of:
        raise UsageError(f"{out}: is a folder; give the name of a file")
    if folder_of and not out.is_dir():
        raise UsageError(f"{out}: is a file; give the name of a folder")
    if not replace:
        raise UsageError(f"{out}: is there already; give another name, or --force to replace it")
    others = [p.name for p in out.iterdir() if not _is_of(p, folder_of)] if folder_of else []
    if others:
        raise UsageError(
            f"{out}: holds {min(others)!r}, which no such export makes; --force replaces only "
            f"an earlier export"
        )


def _is_of(path: Path, names: tuple[str, ...]) -> bool:
    return path.is_file() and any(fnmatch(path.name, name) for name in names)


@contextmanager
def _workshop(out: Path) -> Iterator[Path]:
    """Make a folder beside `out`, for one process at a time; remove it in the end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.with_name(f".writing-{out.name}")
    with write_lock(out.with_name(f".writing-{out.name}.lock")):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _flush(made: Path) -> None:
    """Have it on the disk before its name is."""
    for file in made.iterdir() if made.is_dir() else [made]:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

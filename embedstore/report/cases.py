"""Answers of a search as a file to look at: a page (.html) or a contact sheet (.png)."""

from __future__ import annotations

import os
from pathlib import Path

from embedstore.errors import UsageError
from embedstore.output import put
from embedstore.report.answers import Case, Facts, Origin, Page, Query, Shown
from embedstore.report.cases_page import MARK, html
from embedstore.report.cases_sheet import SHEET_MARK, sheet
from embedstore.report.pen import is_png_of, png

__all__ = ["Case", "Facts", "Origin", "Page", "Query", "Shown", "check_target", "save"]


def save(page: Page, path: Path) -> None:
    """Write a page or a sheet, whole or not at all; an earlier one is replaced.

    Raises
    ------
    UsageError
        The name ends in neither .html nor .png, or something else is there.
    StoreError
        The disk refuses.
    """
    check_target(path)
    if path.suffix.lower() == ".html":
        data = html(page).encode("utf-8", "backslashreplace")
    else:
        data = png(sheet(page), SHEET_MARK)
    with put(path, replace=True) as fresh:
        fresh.write_bytes(data)


def check_target(path: Path) -> None:
    """Refuse a path that `save` would: to be called before the work.

    Raises
    ------
    UsageError
        As `save`.
    """
    if path.suffix.lower() not in {".html", ".png"}:
        raise UsageError(f"{path}: the picture of a search is a page or a sheet: .html or .png")
    if os.path.isdir(path):
        raise UsageError(f"{path}: is a folder; give the name of a file")
    if os.path.lexists(path) and not _is_ours(path):
        raise UsageError(f"{path}: is there and no earlier search made it; give a free name")


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except OSError:
        return False
    return start.startswith(MARK.encode()) or is_png_of(start, SHEET_MARK)

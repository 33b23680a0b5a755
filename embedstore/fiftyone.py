"""A store as a FiftyOne dataset.

FiftyOne is large and optional. Its ``FiftyOneDataset`` folders are a dump of its database, with
version and migrations, so they are written by FiftyOne itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.errors import DataError, UsageError
from embedstore.selection import Progress, Selection
from embedstore.store import Store
from embedstore.types import Spec

_RESERVED = {"id", "filepath", "tags", "metadata", "created_at", "last_modified_at", "image_id"}
_TEXT = ("group", "exam", "view", "laterality", "split")


def to_fiftyone(
    store: Store,
    backbones: Sequence[Spec | str] = (),
    name: str | None = None,
    persistent: bool = False,
    paths: Mapping[str, str | Path] | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Any:
    """Make a ``fiftyone.Dataset`` of the samples that have a vector of each backbone.

    Each sample has its file, its vectors (``embedding``, or ``embedding_<backbone>`` of several),
    ``image_id``, ``group`` (the patient), ``exam``, ``view``, ``laterality`` and ``split``, which
    is a tag too. A label is a ``Classification``, or a number where it has decimals. Letters that
    FiftyOne does not take in a field's name become "_".

    Parameters
    ----------
    backbones
        Specs, names or keys; by default all that have vectors.
    name, persistent
        As ``fiftyone.Dataset`` takes them.
    paths
        Files by sample id, for samples whose own the store does not know (of a DICOM archive) or
        that FiftyOne cannot show.

    Raises
    ------
    UsageError
        FiftyOne is not installed, or a backbone is not in the store.
    DataError
        A sample has no file, or none a vector of each backbone.
    """
    return _made(Selection.of(store, backbones), name, persistent, paths or {}, on_progress)


def write(chosen: Selection, folder: Path, show: Progress) -> None:
    """Write what ``fiftyone.Dataset.from_dir`` imports as a ``FiftyOneDataset``, without images."""
    fo = _fiftyone()
    dataset = _made(chosen, None, False, {}, show)
    try:
        dataset.export(
            export_dir=str(folder),
            dataset_type=fo.types.FiftyOneDataset,
            export_media=False,
            progress=False,
        )
    finally:
        dataset.delete()


def _fiftyone() -> Any:
    try:
        return import_module("fiftyone")
    except ImportError as error:
        raise UsageError("FiftyOne is not installed: pip install 'embedstore[fiftyone]'") from error


def _made(
    chosen: Selection,
    name: str | None,
    persistent: bool,
    paths: Mapping[str, str | Path],
    show: Progress,
) -> Any:
    fo = _fiftyone()
    own = chosen.table.select("id", "path").iter_rows()
    files = [str(paths.get(i, path or "")) for i, path in own]
    if lost := [i for i, file in zip(chosen.table["id"], files, strict=True) if not file]:
        raise DataError(
            f"{len(lost)} samples have no file in the store, such as {lost[0]!r}: "
            f"give to_fiftyone(paths=…) their files by id"
        )
    dataset = fo.Dataset(name, persistent=persistent)
    try:
        dataset.info["embedstore"] = chosen.provenance()
        dataset.save()
        samples = _samples(fo, chosen, files, show)
        dataset.add_samples(samples, num_samples=len(files), progress=False)
    except BaseException:
        dataset.delete()
        raise
    return dataset


def _samples(fo: Any, chosen: Selection, files: list[str], show: Progress) -> Iterator[Any]:
    fields = _fields(chosen)
    for part, vectors in chosen.blocks(show):
        rows = chosen.table[part].iter_rows(named=True)
        floats = [values.astype(np.float32) for values in vectors]
        for file, row, *own in zip(files[part], rows, *floats, strict=True):
            known = {fields[c]: row[c] for c in _TEXT if row[c] is not None}
            labels = {fields[c]: _label(fo, row[c]) for c in fields if c not in _TEXT}
            tags = [row["split"]] if row["split"] else []
            yield fo.Sample(
                filepath=file,
                tags=tags,
                image_id=row["id"],
                **known,
                **labels,
                **dict(zip(chosen.names, own, strict=True)),
            )


def _label(fo: Any, value: str | int | float | None) -> Any:
    if value is None or isinstance(value, float):
        return value
    return fo.Classification(label=str(value))


def _fields(chosen: Selection) -> dict[str, str]:
    """Map columns of the table to fields that FiftyOne takes, no two the same."""
    taken, fields = {*_RESERVED, *chosen.names}, {}
    labels = [c for c in chosen.table.columns if c not in {"id", "path", *_TEXT}]
    for column in (*_TEXT, *labels):
        name = re.sub(r"\W", "_", column).lstrip("_") or "label"
        while name in taken:
            name += "_"
        taken.add(name)
        fields[column] = name
    return fields

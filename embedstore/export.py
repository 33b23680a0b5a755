"""A store's vectors and table as files that other tools read: Parquet, npy, CSV, FiftyOne.

All formats hold the same samples in the same order: those that have a vector of every backbone
asked for, in the order of the store.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from embedstore import fiftyone
from embedstore.errors import UsageError
from embedstore.output import put, refuse
from embedstore.selection import BLOCK, Progress, Selection
from embedstore.store import Store
from embedstore.types import Spec


def export(
    store: Store,
    out: Path | str,
    form: str,
    backbones: Sequence[Spec | str] = (),
    replace: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Selection:
    """Write vectors and table to `out`, whole or not at all; return what was selected.

    Parameters
    ----------
    form
        "parquet": a file with the columns of `Store.table` and one of float32 lists for each
        backbone. "npy": a folder of ``vectors.npy``, as stored, ``table.csv`` and ``spec.json``
        (of several backbones, ``vectors_<backbone>.npy``). "csv": a file of ids and the d numbers
        of one backbone. "fiftyone": a folder that FiftyOne, which must be installed, imports as
        its ``FiftyOneDataset``.
    backbones
        Specs, names or keys; by default all.
    replace
        Whether an earlier export may be replaced.

    Raises
    ------
    UsageError
        An unknown format or backbone, a name with the ending of another format, or something is at
        `out` that is not to be replaced.
    DataError
        No sample has a vector of each backbone.
    StoreError
        The store cannot be read, or `out` cannot be written.
    """
    if form not in _FORMATS:
        raise UsageError(f"--format is {', '.join(_FORMATS)}; not {form!r}")
    write, folder_of = _FORMATS[form]
    out = Path(out)
    if store.path.resolve() in (out.resolve(), *out.resolve().parents):
        raise UsageError(f"{out}: is the store, or in it; give a path outside it")
    refuse(out, replace, folder_of)
    meant = _ENDINGS.get(out.suffix.lower(), form)
    if meant != form:
        raise UsageError(
            f"{out}: its ending is of --format {meant}, not of {form}; give another name"
        )
    chosen = Selection.of(store, backbones)
    with put(out, replace, folder_of) as path:
        write(chosen, path, on_progress)
    return chosen


def _parquet(chosen: Selection, file: Path, show: Progress) -> None:
    lists = {
        n: pl.Array(pl.Float32, s.dim) for n, s in zip(chosen.names, chosen.specs, strict=True)
    }

    def read(columns: list[str] | None, *_: object) -> Iterator[pl.DataFrame]:
        for part, vectors in chosen.blocks(show):
            pairs = zip(lists.items(), vectors, strict=True)
            made = [pl.Series(n, v.astype(np.float32), dtype=d) for (n, d), v in pairs]
            block = chosen.table[part].with_columns(made)
            yield block if columns is None else block.select(columns)

    rows = register_io_source(read, schema={**chosen.table.schema, **lists})
    specs = {"embedstore": json.dumps(chosen.provenance())}
    try:
        # vectors hardly compress, whatever the effort
        rows.sink_parquet(file, compression="lz4", row_group_size=BLOCK, metadata=specs)
    except pl.exceptions.ComputeError as error:
        if shutil.disk_usage(file.parent).free < _FULL:  # polars hides why
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise OSError(str(error)) from error


def _npy(chosen: Selection, folder: Path, show: Progress) -> None:
    folder.mkdir()
    chosen.table.write_csv(folder / "table.csv")
    (folder / "spec.json").write_text(json.dumps(chosen.provenance(), indent=1))
    # written, not mapped: a full disk is then an error and not the end of the process
    with ExitStack() as stack:
        files = []
        for name, spec in zip(chosen.names, chosen.specs, strict=True):
            path = folder / f"{name.replace('embedding', 'vectors', 1)}.npy"
            files.append(stack.enter_context(path.open("wb")))
            _npy_header(files[-1], spec.dtype, (len(chosen.rows), spec.dim))
        for _, vectors in chosen.blocks(show):
            for file, values in zip(files, vectors, strict=True):
                file.write(values.tobytes())


def _npy_header(file: BinaryIO, dtype: str, shape: tuple[int, int]) -> None:
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )


def _csv(chosen: Selection, file: Path, show: Progress) -> None:
    if len(chosen.specs) > 1:
        names = ", ".join(s.backbone for s in chosen.specs)
        raise UsageError(f"a CSV file holds vectors of one backbone; choose one: {names}")
    ids = chosen.table["id"]
    header = [f"e{i}" for i in range(chosen.specs[0].dim)]
    with file.open("wb") as handle:
        for part, (vectors,) in chosen.blocks(show):
            block = pl.DataFrame(vectors.astype(np.float32), schema=header, orient="row")
            block.insert_column(0, ids[part]).write_csv(handle, include_header=part.start == 0)


_FORMATS: dict[str, tuple[Callable[[Selection, Path, Progress], None], tuple[str, ...]]] = {
    "parquet": (_parquet, ()),
    "npy": (_npy, ("vectors*.npy", "table.csv", "spec.json")),
    "csv": (_csv, ()),
    "fiftyone": (fiftyone.write, ("metadata.json", "samples.json")),
}
FORMATS = tuple(_FORMATS)
_FULL = 1 << 20  # bytes that are left of a full disk
_ENDINGS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".npy": "npy"}

"""Vectors with the ids of their samples on disk: written, read, gathered, and more of them added.

Everything written is on the disk (`sync`) when the time is taken.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.area import Area, Bound, Contender, Work

WRITE, READ, GATHER, APPEND = "write", "read all", "gather 10,000 rows", "append 1,000 rows"
GATHERED, APPENDED = 10_000, 1_000
COMMIT = 16_384  # rows at a time, as an extraction commits them


def make(folder: Path, quick: bool) -> str:
    """Vectors, and the rows that will be asked for."""
    n = 20_000 if quick else 50_000
    rng = np.random.default_rng(0)
    np.save(folder / "vectors.npy", rng.standard_normal((n, 512), dtype=np.float32))
    np.save(folder / "rows.npy", rng.integers(0, n, GATHERED))
    return f"{n:,} x 512 float32 with ids"


def wanted(folder: Path) -> tuple[Any, Any, list[str]]:
    """Vectors, rows to gather and ids."""
    vectors = np.load(folder / "vectors.npy")
    return vectors, np.load(folder / "rows.npy"), [f"film{n:07d}" for n in range(len(vectors))]


def apart(task: str, folder: Path, answer: Any, ours: Any) -> float:
    """Largest difference from what was written."""
    vectors = np.load(folder / "vectors.npy")
    expected = {
        WRITE: vectors[-1:],
        READ: vectors,
        GATHER: vectors[np.load(folder / "rows.npy")],
        APPEND: vectors[:APPENDED],
    }[task]
    if answer.shape != expected.shape:
        return float("inf")
    return float(np.abs(answer - expected).max())


def embedstore(folder: Path) -> Mapping[str, Work]:
    """Fill a store, with a sample's path beside its id and checksums of all."""
    from embedstore.store import Store
    from embedstore.types import Recipe, Sample, Spec
    from embedstore.writer import Writer

    vectors, rows, ids = wanted(folder)
    samples = [Sample(name, Path("x.png")) for name in ids]
    spec = Spec("benchmark", "0", Recipe(), "pooled", vectors.shape[1])

    def add(path: Path, samples: list[Sample], vectors: Any) -> None:
        with Writer(path) as writer:
            start = writer.store().rows("samples/id")
            writer.add_samples(samples)
            writer.add_spec(spec, {})
            for done in range(0, len(vectors), COMMIT):
                part = vectors[done : done + COMMIT]
                places = np.arange(start + done, start + done + len(part))
                writer.append(spec, places, part, np.zeros((len(part), 16), np.uint8))
                writer.commit()
        os.sync()

    def read(path: Path) -> Any:
        return Store.open(path).vectors(spec)

    def write(empty: Path) -> Any:
        add(empty / "s.zarr", samples, vectors)
        return read(empty / "s.zarr")[-1:]

    turn = itertools.count()

    def append(empty: Path) -> Any:
        number = next(turn)
        more = [Sample(f"more{number}_{n}", Path("x.png")) for n in range(APPENDED)]
        add(path, more, vectors[:APPENDED])
        return read(path)[-APPENDED:]

    path = folder / "s.zarr"
    add(path, samples, vectors)
    return {
        WRITE: Work(write),
        READ: Work(lambda empty: np.array(read(path)[: len(vectors)])),
        GATHER: Work(lambda empty: read(path)[rows]),
        APPEND: Work(append),
    }


def memmap(folder: Path) -> Mapping[str, Work]:
    """Keep a .npy file, mapped, and the ids as another; it cannot grow."""
    vectors, rows, ids = wanted(folder)

    def write(empty: Path) -> Any:
        np.save(empty / "v.npy", vectors)
        np.save(empty / "ids.npy", np.array(ids))
        os.sync()
        return np.load(empty / "v.npy", mmap_mode="r")[-1:]

    kept = folder / "memmap"
    kept.mkdir()
    write(kept)

    def mapped() -> Any:
        return np.load(kept / "v.npy", mmap_mode="r")

    return {
        WRITE: Work(write),
        READ: Work(lambda empty: np.array(mapped())),
        GATHER: Work(lambda empty: mapped()[rows]),
    }


def hdf5(folder: Path) -> Mapping[str, Work]:
    """Keep a data set that can grow, in chunks of 1,024 rows."""
    import h5py

    vectors, rows, ids = wanted(folder)
    # its selections have to be sorted, and each row once
    unique, back = np.unique(rows, return_inverse=True)

    def write(empty: Path) -> Any:
        with h5py.File(empty / "s.h5", "w") as file:
            shape = (None, vectors.shape[1])
            chunks = (1024, vectors.shape[1])
            file.create_dataset("vectors", data=vectors, maxshape=shape, chunks=chunks)
            file.create_dataset("ids", data=ids, maxshape=(None,))
        os.sync()
        with h5py.File(empty / "s.h5") as file:
            return file["vectors"][-1:]

    kept = folder / "hdf5"
    kept.mkdir()
    write(kept)

    def append(empty: Path) -> Any:
        with h5py.File(kept / "s.h5", "r+") as file:
            n = len(file["vectors"])
            for name, more in (("vectors", vectors[:APPENDED]), ("ids", ids[:APPENDED])):
                file[name].resize(n + APPENDED, axis=0)
                file[name][n:] = more
        os.sync()
        with h5py.File(kept / "s.h5") as file:
            return file["vectors"][-APPENDED:]

    def read(empty: Path) -> Any:
        with h5py.File(kept / "s.h5") as file:
            return file["vectors"][: len(vectors)]

    def gather(empty: Path) -> Any:
        with h5py.File(kept / "s.h5") as file:
            return file["vectors"][unique][back]

    return {WRITE: Work(write), READ: Work(read), GATHER: Work(gather), APPEND: Work(append)}


def _table(ids: list[str], vectors: Any) -> Any:
    import pyarrow as pa

    flat = pa.array(vectors.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table({"id": ids, "vector": column})


def _vectors(table: Any, width: int) -> Any:
    column = table.column("vector").combine_chunks()
    return column.flatten().to_numpy().reshape(-1, width)


def parquet(folder: Path) -> Mapping[str, Work]:
    """Keep a table with a column of lists; it cannot grow, and rows are gathered from all of it."""
    import pyarrow.parquet as pq

    vectors, rows, ids = wanted(folder)
    width = vectors.shape[1]

    def write(empty: Path) -> Any:
        pq.write_table(_table(ids, vectors), empty / "s.parquet")
        os.sync()
        file = pq.ParquetFile(empty / "s.parquet")
        return _vectors(file.read_row_group(file.num_row_groups - 1), width)[-1:]

    kept = folder / "parquet"
    kept.mkdir()
    write(kept)

    def read(empty: Path) -> Any:
        return _vectors(pq.read_table(kept / "s.parquet", columns=["vector"]), width)

    return {WRITE: Work(write), READ: Work(read), GATHER: Work(lambda empty: read(empty)[rows])}


def lance(folder: Path) -> Mapping[str, Work]:
    """Lance's data set, by its defaults."""
    import lance

    vectors, rows, ids = wanted(folder)
    width, n = vectors.shape[1], len(vectors)
    sorted_rows, back = np.unique(rows, return_inverse=True)

    def write(empty: Path) -> Any:
        found = lance.write_dataset(_table(ids, vectors), str(empty / "s.lance"))
        os.sync()
        return _vectors(found.take([n - 1], columns=["vector"]), width)

    kept = folder / "lance"
    kept.mkdir()
    write(kept)
    path = str(kept / "s.lance")

    def append(empty: Path) -> Any:
        more = _table(ids[:APPENDED], vectors[:APPENDED])
        found = lance.write_dataset(more, path, mode="append")
        os.sync()
        total = found.count_rows()
        last = list(range(total - APPENDED, total))
        return _vectors(found.take(last, columns=["vector"]), width)

    def read(empty: Path) -> Any:
        return _vectors(lance.dataset(path).to_table(columns=["vector"], limit=n), width)

    def gather(empty: Path) -> Any:
        taken = lance.dataset(path).take(sorted_rows, columns=["vector"])
        return _vectors(taken, width)[back]

    return {WRITE: Work(write), READ: Work(read), GATHER: Work(gather), APPEND: Work(append)}


def webdataset(folder: Path) -> Mapping[str, Work]:
    """Keep a tar file with an .npy a sample, which can only be read from end to end."""
    import webdataset as wds

    vectors, _, ids = wanted(folder)

    def samples(path: Path) -> Iterator[Any]:
        return iter(wds.WebDataset(str(path), shardshuffle=False).decode().to_tuple("npy"))

    def write(empty: Path) -> Any:
        with wds.TarWriter(str(empty / "s.tar")) as tar:
            for name, vector in zip(ids, vectors, strict=True):
                tar.write({"__key__": name, "npy": vector})
        os.sync()
        return vectors[-1:]

    kept = folder / "webdataset"
    kept.mkdir()
    write(kept)
    return {
        WRITE: Work(write),
        READ: Work(lambda empty: np.stack([v for (v,) in samples(kept / "s.tar")])),
    }


def zarr(folder: Path) -> Mapping[str, Work]:
    """Plain Zarr, as most write it: chunks of 1,024 rows and its default compressor."""
    import zarr

    vectors, rows, ids = wanted(folder)
    chunks = (1024, vectors.shape[1])

    def write(empty: Path) -> Any:
        group: Any = zarr.open_group(empty / "z.zarr", mode="w")
        group.create_array("vectors", data=vectors, chunks=chunks)
        group.create_array("ids", data=np.array(ids, dtype="U11"), chunks=chunks[:1])
        os.sync()
        return group["vectors"][-1:]

    kept = folder / "zarr"
    kept.mkdir()
    write(kept)

    def opened(mode: Any = "r") -> Any:
        return zarr.open_group(kept / "z.zarr", mode=mode)

    def append(empty: Path) -> Any:
        group = opened("r+")
        group["vectors"].append(vectors[:APPENDED])
        group["ids"].append(np.array(ids[:APPENDED], dtype="U11"))
        os.sync()
        return group["vectors"][-APPENDED:]

    return {
        WRITE: Work(write),
        READ: Work(lambda empty: opened()["vectors"][: len(vectors)]),
        GATHER: Work(lambda empty: opened()["vectors"].oindex[rows]),
        APPEND: Work(append),
    }


EXACT = Bound(0.0, "largest difference from what was written")
AREA = Area(
    "Store",
    {task: EXACT for task in (WRITE, READ, GATHER, APPEND)},
    {
        "embedstore": Contender("", embedstore),
        "numpy, .npy mapped": Contender("", memmap),
        "zarr, its defaults": Contender("", zarr),
        "h5py": Contender("h5py", hdf5),
        "Parquet, pyarrow": Contender("", parquet),
        "Lance": Contender("pylance", lance),
        "webdataset": Contender("webdataset", webdataset),
    },
    make,
    apart,
)

"""One harness for each kind of file or text that embedstore reads.

A harness has a folder to itself. It is given bytes, puts them where they belong, and reads them:
the reader returns, or raises an error of embedstore's own. Nothing here needs a fuzzer; `fuzz.py`
is one, and the tests run the seeds.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dicom_archive
import google_crc32c
import mutants
import numpy as np
import polars as pl
import toy_stores
import vector_stores

from embedstore import chunks, privacy, split_files
from embedstore.archive import read_archive
from embedstore.check import check
from embedstore.commit import layout_of
from embedstore.errors import EmbedstoreError
from embedstore.images.decode import decode
from embedstore.images.dicom_tags import tags
from embedstore.indexing import make_index
from embedstore.manifest import read_manifest
from embedstore.prompts.expand import count
from embedstore.prompts.sets import built_in, load, path_of
from embedstore.saved import load as load_probe
from embedstore.saved_index import folder_of
from embedstore.saved_index import load as load_index
from embedstore.splits import kfold
from embedstore.store import Store
from embedstore.study.plan import read as read_study
from embedstore.update import update
from embedstore.where import parse

Read = Callable[[bytes, Path], object]


@dataclass(frozen=True)
class Harness:
    """How some bytes are read.

    Attributes
    ----------
    read
        Puts them into the folder and reads them.
    seeds
        Inputs that are as they should be, and are read without an error.
    prepare
        Makes what must be in the folder besides.
    json
        They are JSON, and are best changed as such.
    memory
        MiB that reading may take; what is more is a `MemoryError` where `limited`.
    limited
        It happens in a reader process, which has a limit of its own.
    """

    read: Read
    seeds: Callable[[], Sequence[bytes]]
    prepare: Callable[[Path], None] = lambda folder: None
    json: bool = False
    memory: int = 1024
    limited: bool = False

    def run(self, data: bytes, folder: Path) -> bool:
        """Read; say whether there was no error. Errors that are not embedstore's own come out."""
        try:
            self.read(data, folder)
        except EmbedstoreError:
            return False
        except MemoryError:
            if not self.limited:
                raise
            return False
        return True


def _put(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


# tables


def _csv_table(data: bytes, folder: Path) -> None:
    table = read_manifest(_put(folder, "m.csv", data), allow_missing=True)
    assert len({s.id for s in table.samples}) == len(table.samples)


def _parquet_table(data: bytes, folder: Path) -> None:
    read_manifest(_put(folder, "m.parquet", data), allow_missing=True)


def _table() -> pl.DataFrame:
    n = 6
    return pl.DataFrame(
        {
            "image": [f"{i}.png" for i in range(n)],
            "patient": [f"p{i // 2}" for i in range(n)],
            "exam": ["1", "2"] * 3,
            "age": [40 + i for i in range(n)],
            "share": [None, 0.5, 1.5, 2.5, 3.5, 4.5],
            "density": list("ABCDAB"),
            "seen": [i % 2 == 0 for i in range(n)],
        }
    )


def _csv_seeds() -> list[bytes]:
    return [_table().write_csv().encode(), b"\xef\xbb\xbf" + _table().write_csv().encode()]


def _parquet_seeds() -> list[bytes]:
    made = []
    for compression in ("zstd", "uncompressed", "snappy"):
        out = io.BytesIO()
        _table().write_parquet(out, compression=compression)
        made.append(out.getvalue())
    return made


def _update(data: bytes, folder: Path) -> None:
    update(folder / "s.zarr", _put(folder, "u.csv", data))


def _update_seeds() -> list[bytes]:
    return [b"id,density,side\nimage-0001,C,L\nimage-0002,,R\n"]


def _linkage(data: bytes, folder: Path) -> None:
    _put(folder, "s.zarr.linkage.csv", data)
    privacy.unlink(folder / "s.zarr", {"b"})


def _linkage_seeds() -> list[bytes]:
    out = io.StringIO(newline="")
    rows = [["id", "file", "image", "patient", "exam"], ["a", "f", "1", "p", "e"], ["b"] * 5]
    csv.writer(out).writerows(rows)
    return [out.getvalue().encode()]


def _key(data: bytes, folder: Path) -> None:
    _put(folder, "s.zarr.key", data)
    privacy.alias_of(folder / "s.zarr", ["p"])("q")


# images


def _image(data: bytes, folder: Path) -> None:
    pixels = decode(data)
    assert pixels.dtype in (np.uint8, np.uint16)
    decode(data, halvings=1)


def _image_seeds(dicom: bool) -> list[bytes]:
    every = mutants.bases().items()
    return [d for name, d in every if name.endswith(".dcm") == dicom and len(d) < 100_000]


def _tags(data: bytes, folder: Path) -> None:
    tags(data)


def _dicomdir(data: bytes, folder: Path) -> None:
    read_archive(_put(folder, "DICOMDIR", data))


@cache
def _disc() -> dict[str, bytes]:
    """Files of an archive on a disc, by their paths."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        source, disc = Path(name, "source"), Path(name, "disc")
        source.mkdir()
        archive = dicom_archive.Archive(source)
        dicom_archive.studies(archive, 1)
        dicom_archive.dicomdir(source, disc)
        files = (f for f in disc.rglob("*") if f.is_file())
        return {f.relative_to(disc).as_posix(): f.read_bytes() for f in files}


def _write_disc(folder: Path) -> None:
    for name, data in _disc().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


# the store


def _toy_store(folder: Path) -> None:
    toy_stores.write(folder / "s.zarr", toy_stores.toys(20))


@cache
def _toy_root() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        _toy_store(Path(name))
        return Path(name, "s.zarr", "zarr.json").read_bytes()


def _everything(path: Path, verify: bool = False) -> None:
    """Ask a store for all it shows."""
    store = Store.open(path, verify)
    for name in store.column_names:
        store.column(name)
    store.table()
    for key, spec in store.specs.items():
        store.vectors(key)
        store.read(key)
        store.texts(key)
        store.notes(key)
        kept = store.kept(spec.recipe)
        kept.read(kept.rows.tolist()[:3])
    store.failures()
    check(path)


def _root(data: bytes, folder: Path) -> None:
    _put(folder / "s.zarr", "zarr.json", data)
    # each for itself: the one may refuse what the other lets through
    errors = []
    for read in (_everything, check):
        try:
            read(folder / "s.zarr")
        except EmbedstoreError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _own_metadata(data: bytes, folder: Path) -> None:
    _put(folder / "s.zarr" / "samples" / "id", "zarr.json", data)
    check(folder / "s.zarr")


def _own_seeds() -> list[bytes]:
    root = json.loads(_toy_root())["consolidated_metadata"]["metadata"]
    return [json.dumps(root["samples/id"]).encode()]


def few_rows_a_chunk() -> None:
    """Make stores small and quick, for this process: few rows a chunk, nothing flushed."""
    chunks.CHUNK_BYTES, chunks.TEXT_ROWS = 512, 16
    os.fsync = lambda handle: None


_CHUNKED = ("samples/id", "samples/labels/density", "failures/reason")
_CHUNKED_NUMBERS = ("rows", "vectors", "digests", "cut")


def _chunk(data: bytes, folder: Path) -> None:
    """Take the first byte for the array's number, and make the checksum fit the rest."""
    root = json.loads(_toy_root())["consolidated_metadata"]["metadata"]
    every = [*_CHUNKED, *(f"embeddings/{toy_stores.ONE.key}/{n}" for n in _CHUNKED_NUMBERS)]
    name = every[data[0] % len(every)] if data else every[0]
    file = layout_of(name, root[name]).chunk_file(folder / "s.zarr", 0)
    before, body = file.read_bytes(), data[1:]
    try:
        file.write_bytes(body + google_crc32c.value(body).to_bytes(4, "little"))
        _everything(folder / "s.zarr", verify=True)
    finally:
        file.write_bytes(before)


def _chunk_seeds() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        _toy_store(Path(name))
        files = [Path(name, "s.zarr", n, "c/0").read_bytes()[:-4] for n in _CHUNKED]
    return [bytes([n]) + body for n, body in enumerate(files)]


# what is saved of probes, indices and splits


def _probe(folder: Path) -> None:
    from test_saved import saved  # scikit-learn, which other harnesses do not need

    from embedstore.heads import load_heads

    if not (folder / "probe").exists():
        saved(_cohort(), load_heads(["logistic"])[0]).save(folder / "probe")


@cache
def _cohort() -> Any:
    from test_evaluate import cohort

    return cohort(seed=2)


def _probe_file(name: str) -> Read:
    def read(data: bytes, folder: Path) -> None:
        _put(folder / "probe", name, data)
        load_probe(folder / "probe").predict(_cohort())

    return read


def _probe_seeds(name: str) -> list[bytes]:
    return [_probe_files()[name]]


@cache
def _probe_files() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        _probe(Path(folder))
        return {f.name: f.read_bytes() for f in Path(folder, "probe").iterdir()}


def _indexed(folder: Path) -> None:
    store = vector_stores.write(folder / "s.zarr", vector_stores.clustered(0, 60, 8))
    make_index(store, store.find("texture"), "HNSW8")


def _index(data: bytes, folder: Path) -> None:
    store = Store.open(folder / "s.zarr")
    spec = store.find("texture")
    _put(folder_of(store, spec), "index.json", data)
    load_index(store, spec)
    check(folder / "s.zarr")


def _index_seeds() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        _indexed(Path(name))
        (file,) = Path(name, "s.zarr", "index").rglob("index.json")
        return [file.read_bytes()]


def _split(data: bytes, folder: Path) -> None:
    split_files.load_split(_put(folder, "split.json", data))


def _split_seeds() -> list[bytes]:
    import tempfile

    cohort = _cohort()
    labels = cohort.columns["y"]
    saved = split_files.SavedSplit("kfold", "patient", "y", (kfold(cohort, labels, 3, 0),))
    with tempfile.TemporaryDirectory() as name:
        saved.save(Path(name, "s.json"), labels)
        return [Path(name, "s.json").read_bytes()]


# what is written by hand


def _prompts(suffix: str) -> Read:
    def read(data: bytes, folder: Path) -> None:
        count(load(_put(folder, f"mine{suffix}", data)))

    return read


def _yaml_seeds() -> list[bytes]:
    return [path_of(name).read_bytes() for name in built_in()]


def _sentences(data: bytes, folder: Path) -> None:
    from embedstore.texts import read_prompts

    read_prompts(_put(folder, "prompts.txt", data))


def _study(data: bytes, folder: Path) -> None:
    read_study(_put(folder, "study.toml", data))


def _study_seeds() -> list[bytes]:
    return [
        b'label = "y"\nstore = "s.zarr"\nfolds = 3\norder = ["A", "B"]\nby = ["age:40,60"]\n'
        b'heads = ["logistic", {head = "knn", set = {n_neighbors = 3}, grid = {weights = ["x"]}}]\n'
        b'[[prompts]]\nbackbone = "b"\nset = "birads-density"\n'
        b'[[finetune]]\nbackbone = "b"\nsettings = {epochs = 3}\nsentences = {A = ["x"]}\n',
        b'label = "y"\nmanifest = "m.csv"\nbackbones = ["b@w"]\ntest_share = 0.2\n'
        b'grouping = [["C", "D"]]\nlabel_fractions = [0.1, 1.0]\ncolumns = {patient = "MRN"}\n',
    ]


_COLUMNS = MappingProxyType(
    {
        "view": ["MLO", "CC", None],
        "group": ["p", "q", "p"],
        "age": [50, None, 3],
        "score": [0.5, 1e9, None],
        "BI-RADS": ["4", None, ""],
    }
)


def _where(data: bytes, folder: Path) -> None:
    kept = parse(data.decode(errors="surrogateescape")).keep(pl.DataFrame(dict(_COLUMNS)))
    assert kept.shape == (3,)


def _where_seeds() -> list[bytes]:
    return [
        b"view == 'MLO' and age >= 50",
        b"50 <= age < 70 or not score > 1e3",
        b"`BI-RADS` in ['4', '5'] and patient != 'q'",
        b"view is None or view not in ('CC',)",
    ]


# models


def _note(data: bytes, folder: Path) -> None:
    from embedstore.backbones.bundle import NOTE, read_note  # torch, which the others do not need

    _put(folder, NOTE, data)
    read_note(folder)


def _config(data: bytes, folder: Path) -> None:
    from embedstore.backbones.folder import CONFIG, read_config

    _put(folder, CONFIG, data)
    read_config(folder)


def _named(**harnesses: Harness) -> dict[str, Harness]:
    return {name.replace("_", "-"): harness for name, harness in harnesses.items()}


HARNESSES = _named(
    csv_manifest=Harness(_csv_table, _csv_seeds),
    parquet_manifest=Harness(_parquet_table, _parquet_seeds),
    update_table=Harness(_update, _update_seeds, _toy_store),
    linkage=Harness(_linkage, _linkage_seeds),
    key=Harness(_key, lambda: [b"0f" * 32 + b"\n"]),
    picture=Harness(_image, lambda: _image_seeds(False), memory=2048, limited=True),
    dicom=Harness(_image, lambda: _image_seeds(True), memory=2048, limited=True),
    dicom_tags=Harness(_tags, lambda: _image_seeds(True), memory=2048, limited=True),
    dicomdir=Harness(_dicomdir, lambda: [_disc()["DICOMDIR"]], _write_disc),
    store_root=Harness(_root, lambda: [_toy_root()], _toy_store, json=True),
    store_metadata=Harness(_own_metadata, _own_seeds, _toy_store, json=True),
    store_chunk=Harness(_chunk, _chunk_seeds, _toy_store),
    probe_json=Harness(
        _probe_file("probe.json"), lambda: _probe_seeds("probe.json"), _probe, json=True
    ),
    probe_arrays=Harness(
        _probe_file("probe.safetensors"), lambda: _probe_seeds("probe.safetensors"), _probe
    ),
    index=Harness(_index, _index_seeds, _indexed, json=True),
    split=Harness(_split, _split_seeds, json=True),
    prompts_yaml=Harness(_prompts(".yaml"), _yaml_seeds),
    prompts_csv=Harness(
        _prompts(".csv"), lambda: [b"class,description\nA,fatty\nA,very fatty\nB,x"]
    ),
    sentences=Harness(_sentences, lambda: [b"# classes\nA=fatty\n\nB=dense=so\n"]),
    study=Harness(_study, _study_seeds),
    where=Harness(_where, _where_seeds),
    bundle_note=Harness(
        _note, lambda: [b'{"format": 1, "name": "x", "files": {}, "golden": {}}'], json=True
    ),
    model_config=Harness(
        _config, lambda: [b'{"model_cfg": {"vision_cfg": {}, "text_cfg": {}}}'], json=True
    ),
)


def mutated(name: str, times: int, seed: int = 0) -> Iterator[bytes]:
    """Yield inputs near the seeds, without a fuzzer: values changed, or bytes, or the end cut."""
    import random

    from mutation import changed

    chance = random.Random(seed)
    harness = HARNESSES[name]
    seeds = harness.seeds()
    for _ in range(times):
        data = chance.choice(seeds)
        if harness.json:
            data = changed(data, chance) or data
        else:
            some = bytearray(data)
            for _ in range(chance.randint(1, 4)):
                some[chance.randrange(len(some))] = chance.randrange(256)
            data = bytes(some[: chance.choice([len(some), chance.randrange(len(some))])])
        yield data

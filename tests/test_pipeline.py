"""The way from pictures to vectors: devices, batch sizes, memory that runs out, changed files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from test_extract import PLAN, Sums, plain, run

from embedstore.backbones import load_backbone
from embedstore.cli import _run
from embedstore.encode import find_batch_size, normalised
from embedstore.errors import EmbedstoreError
from embedstore.extract import extract
from embedstore.feed import stacked
from embedstore.images.recipe import RECIPES, tensors
from embedstore.manifest import read_manifest
from embedstore.store import Store
from embedstore.types import Pixels

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA")


def test_levels_on_a_device_become_what_numpy_makes_of_each_picture() -> None:
    recipe = replace(plain(24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    rng = np.random.default_rng(0)
    pictures: list[Pixels] = [
        rng.integers(0, 256, (24, 24)).astype(np.uint8),
        rng.integers(0, 65536, (24, 24, 3)).astype(np.uint16),
        rng.integers(0, 65536, (24, 24)).astype(np.uint16),
        rng.integers(0, 256, (24, 24, 3)).astype(np.uint8),
        rng.integers(0, 256, (24, 24)).astype(np.uint8),
    ]
    made = normalised(recipe, stacked(pictures, "cpu"), 5, "cpu")
    np.testing.assert_array_equal(made.numpy(), tensors(recipe, pictures))
    alone = normalised(recipe, stacked(pictures[1:2], "cpu"), 1, "cpu")
    np.testing.assert_array_equal(alone.numpy(), tensors(recipe, pictures[1:2]))


@pytest.mark.parametrize("device", ["cpu,cpu", "cpu,cpu,cpu"])
def test_several_devices_give_the_vectors_of_one_in_the_same_order(
    films: Path, tmp_path: Path, device: str
) -> None:
    for name, chosen in (("one", "cpu"), ("several", device)):
        arguments = ["extract", str(films), "--store", str(tmp_path / f"{name}.zarr")]
        arguments += ["--backbone", "timm:test_convnext@random", "--backbone", "statistics"]
        assert _run([*arguments, "--batch-size", "2", "--device", chosen], False) == 0
    one, several = Store.open(tmp_path / "one.zarr"), Store.open(tmp_path / "several.zarr")
    for spec in one.specs.values():
        np.testing.assert_array_equal(several.vectors(spec), one.vectors(spec))
        np.testing.assert_array_equal(several.embedded(spec), one.embedded(spec))


def test_devices_of_two_kinds_or_unknown_ones_are_one_line(
    films: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    begin = ["extract", str(films), "--store", str(tmp_path / "s.zarr"), "--backbone", "statistics"]
    assert _run([*begin, "--device", "cpu,abacus"], False) == 2
    assert "abacus" in capfd.readouterr().err
    if not torch.cuda.is_available():
        assert _run([*begin, "--device", "cpu,cuda:0"], False) == 2
        assert "--device cuda:0 cannot be used here" in capfd.readouterr().err


class Timed(Sums):
    """A backbone that takes a known time for a batch, by a clock of its own."""

    def __init__(self, seconds: Callable[[int], float], most: int = 10**9) -> None:
        super().__init__(plain(8))
        self.seconds, self.most, self.tried = seconds, most, list[int]()
        self.now = 0.0

    def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
        self.tried.append(len(batch))
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.now += self.seconds(len(batch))
        return super().encode_image(batch)


@pytest.mark.parametrize(
    ("seconds", "most", "images", "expected"),
    [
        (lambda n: 0.004 * n, 10**9, 10**6, 8),  # a larger one is no faster
        (lambda _: 0.01, 10**9, 20 * 2 * (8 + 16 + 32 + 64), 64),  # more would cost too much
        (lambda n: 0.25 + 0.01 * n, 10**9, 10**9, 32),  # faster, but soon too long to wait for
        (lambda _: 0.02, 32, 10**6, 32),  # memory
        (lambda _: 0.02, 10**9, 900, 8),  # few images are not worth more trying
        (lambda _: 0.02, 10**9, 5, 5),
    ],
)
def test_the_batch_size_found(
    seconds: Callable[[int], float],
    most: int,
    images: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = Timed(seconds, most)
    monkeypatch.setattr("embedstore.encode.time.perf_counter", lambda: backbone.now)
    assert find_batch_size([[backbone]], replace(PLAN, batch_size=0), images) == expected
    assert sum(backbone.tried) * 20 <= images or most == 32


def test_going_on_takes_the_batch_size_the_store_was_begun_with(
    films: Path, tmp_path: Path
) -> None:
    backbone, table = Sums(plain()), pl.read_csv(films)
    first = read_manifest(table[:6], root=films.parent).samples
    every = read_manifest(table, root=films.parent).samples
    extract(first, tmp_path / "s.zarr", [backbone], replace(PLAN, batch_size=3))
    again = extract(every, tmp_path / "s.zarr", [backbone], replace(PLAN, batch_size=0))
    assert again.batch_size == 3


class Greedy(Sums):
    """A backbone that runs out of memory above a number of images, as a GPU does."""

    def __init__(self, most: int) -> None:
        super().__init__(plain())
        self.most, self.seen = most, list[int]()

    def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(batch))
        if len(batch) > self.most:
            torch.empty(2**60)  # torch's own complaint
        return super().encode_image(batch)


def test_where_memory_runs_out_batches_are_halved_and_nothing_is_lost(
    films: Path, tmp_path: Path
) -> None:
    whole, greedy = Sums(plain()), Greedy(3)
    run(films, tmp_path / "a.zarr", whole)
    summary = run(films, tmp_path / "b.zarr", greedy, plan=replace(PLAN, batch_size=12))
    a, b = (Store.open(tmp_path / f"{n}.zarr").read(whole.spec) for n in "ab")
    np.testing.assert_allclose(b.vectors, a.vectors, rtol=1e-6)
    assert b.ids.tolist() == a.ids.tolist()
    assert greedy.seen == [12, 6, 3, 3, 3, 3]
    assert "batches of 12: went on with 3" in " ".join(summary.notes)
    made = Store.open(tmp_path / "b.zarr").provenance[whole.spec.key]
    assert made["runs"][0]["batch_size"] == 3


def test_where_one_image_is_too_much_it_is_said(films: Path, tmp_path: Path) -> None:
    with pytest.raises(EmbedstoreError, match="not enough memory for one image"):
        run(films, tmp_path / "s.zarr", Greedy(0))
    assert len(Store.open(tmp_path / "s.zarr")) == 12


LIMITED = """
import resource, sys, torch
from embedstore.backbones import load_backbone
from embedstore.manifest import read_manifest
from embedstore.extract import extract
from embedstore.images.recipe import RECIPES
from embedstore.plan import Plan
from embedstore.types import Sample
from pathlib import Path
backbone = load_backbone("timm:test_convnext@random", RECIPES["plain"])
samples = read_manifest(Path({films!r})).samples
many = [Sample(f"{{s.id}}-{{n}}", s.path) for n in range(20) for s in samples]
backbone.encode_image(torch.zeros(8, 3, 160, 160))
used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + 250 * 2**20, -1))
plan = Plan("cpu", "float32", 240, 0)
summary = extract(many, Path({store!r}), [backbone], plan)
print(summary.batch_size, len(summary.failures))
"""


@linux_only
def test_a_process_that_may_not_have_more_memory_goes_on_with_less(
    films: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    code = LIMITED.format(films=str(films), store=str(store))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    size, failures = map(int, done.stdout.split())
    assert 1 <= size < 240
    assert failures == 0
    backbone = load_backbone("timm:test_convnext@random", RECIPES["plain"])
    run(films, tmp_path / "free.zarr", backbone)
    free = Store.open(tmp_path / "free.zarr").read(backbone.spec).vectors
    made = Store.open(store).read(backbone.spec).vectors
    np.testing.assert_allclose(made, np.tile(free, (20, 1)), atol=1e-5)


def test_compiled_backbones_give_the_same_vectors(films: Path, tmp_path: Path) -> None:
    backbone = Sums(plain())
    run(films, tmp_path / "a.zarr", backbone)
    run(films, tmp_path / "b.zarr", backbone, plan=replace(PLAN, compile=True))
    a, b = (Store.open(tmp_path / f"{n}.zarr") for n in "ab")
    np.testing.assert_allclose(b.vectors(backbone.spec), a.vectors(backbone.spec), rtol=1e-5)
    assert b.provenance[backbone.spec.key]["compiled"] is True


def test_every_run_notes_its_throughput(
    films: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    backbone, table = Sums(plain()), pl.read_csv(films)
    for end in (5, 12, 12):
        samples = read_manifest(table[:end], root=films.parent).samples
        extract(samples, tmp_path / "s.zarr", [backbone], PLAN)
    assert _run(["info", str(tmp_path / "s.zarr"), "--json"], False) == 0
    shown = json.loads(capfd.readouterr().out)["embeddings"][backbone.spec.key]["provenance"]
    assert [r["images"] for r in shown["runs"]] == [5, 7]
    for noted in shown["runs"]:
        assert noted["images_per_second"] == pytest.approx(
            noted["images"] / noted["seconds"], rel=0.2
        )
        assert {"versions", "device", "precision", "command", "started"} <= set(noted)


def vectors(store: Path, backbone: Sums) -> dict[str, list[float]]:
    read = Store.open(store).read(backbone.spec)
    return dict(zip(read.ids.tolist(), read.vectors.tolist(), strict=True))


@pytest.mark.parametrize("keep_pixels", [False, True])
def test_a_file_whose_bytes_changed_is_embedded_anew(
    films: Path, tmp_path: Path, keep_pixels: bool
) -> None:
    one, two, store = Sums(plain(32)), Sums(plain(16)), tmp_path / "s.zarr"
    run(films, store, one, two, keep_pixels=keep_pixels)
    before = vectors(store, one)
    (films.parent / "film03.png").write_bytes((films.parent / "film08.png").read_bytes())
    summary = run(films, store, one, keep_pixels=keep_pixels)
    assert (summary.written[one.spec.key], summary.changed) == (1, 1)
    after = vectors(store, one)
    assert after["film03"] == before["film08"] != before["film03"]
    assert {i: v for i, v in after.items() if i != "film03"} == {
        i: v for i, v in before.items() if i != "film03"
    }
    assert "film03" not in vectors(store, two)
    assert run(films, store, one, two).written == {one.spec.key: 0, two.spec.key: 1}
    assert vectors(store, two)["film03"] == vectors(store, two)["film08"]
    assert run(films, store, one, two).changed == 0


@pytest.mark.parametrize("keep_pixels", [False, True])
def test_a_backbone_that_comes_later_never_sees_another_image_than_the_first(
    films: Path, tmp_path: Path, keep_pixels: bool
) -> None:
    one, two, store = Sums(plain(32)), Sums(plain(16)), tmp_path / "s.zarr"
    run(films, store, one, keep_pixels=keep_pixels)
    (films.parent / "film03.png").write_bytes((films.parent / "film08.png").read_bytes())
    run(films, store, two, keep_pixels=keep_pixels)
    assert "film03" not in vectors(store, one)
    run(films, store, one)
    opened = Store.open(store)
    for backbone in (one, two):
        assert vectors(store, backbone)["film03"] == vectors(store, backbone)["film08"]
    a, b = opened.read(one.spec), opened.read(two.spec)
    np.testing.assert_array_equal(a.digests, b.digests)
    assert a.ids.tolist() == b.ids.tolist()


def test_a_file_that_was_only_touched_is_read_once_and_left(films: Path, tmp_path: Path) -> None:
    backbone, store = Sums(plain()), tmp_path / "s.zarr"
    run(films, store, backbone)
    os.utime(films.parent / "film03.png", ns=(1, 10**18))
    summary = run(films, store, backbone)
    assert (summary.changed, summary.written[backbone.spec.key]) == (0, 0)
    stat = Store.open(store).array(f"embeddings/{backbone.spec.key}/stat")
    assert stat[3].tolist() == [(films.parent / "film03.png").stat().st_size, 10**18]


def test_where_the_changed_file_cannot_be_used_the_earlier_vector_stays(
    films: Path, tmp_path: Path
) -> None:
    backbone, store = Sums(plain()), tmp_path / "s.zarr"
    run(films, store, backbone)
    before = vectors(store, backbone)
    (films.parent / "film03.png").write_bytes(b"no image")
    (films.parent / "film05.png").unlink()
    samples = [*Store.open(store).column("id").tolist()]
    table = pl.read_csv(films).filter(pl.col("image") != "film05.png")
    summary = extract(read_manifest(table, root=films.parent).samples, store, [backbone], PLAN)
    assert [f.id for f in summary.failures] == ["film03"]
    assert "cannot be used now; their earlier vectors stay" in " ".join(summary.notes)
    assert vectors(store, backbone) == before
    assert Store.open(store).column("id").tolist() == samples

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import timm
import torch
import zarr
from PIL import Image
from safetensors.torch import save_file
from sums_backbone import Sums, plain

from embedstore.backbones import load_backbone
from embedstore.cli import _run
from embedstore.errors import ImageError, ManifestError, UsageError
from embedstore.extract import Summary, extract
from embedstore.images.recipe import RECIPES
from embedstore.manifest import read_manifest
from embedstore.plan import Plan, choose
from embedstore.store import Store
from embedstore.types import Backbone, Sample

PLAN = Plan("cpu", "float32", 4, 0)


def run(
    manifest: Path, store: Path, *backbones: Backbone, plan: Plan = PLAN, **how: bool
) -> Summary:
    return extract(read_manifest(manifest).samples, store, backbones, plan, **how)


@pytest.mark.parametrize("workers", [0, 2])
def test_vectors_equal_timms_own_on_the_same_files(
    films: Path, tmp_path: Path, workers: int
) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_convnext", num_classes=5).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    backbone = load_backbone(f"timm:test_convnext@{tmp_path / 'w.safetensors'}", RECIPES["plain"])
    run(films, tmp_path / "s.zarr", backbone, plan=Plan("cpu", "float32", 5, workers))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    table = pl.read_csv(films)
    images = [Image.open(films.parent / n).convert("RGB") for n in table["image"]]
    with torch.inference_mode():
        batch = torch.stack([transform(i) for i in images])
        expected = model.forward_head(model.forward_features(batch), pre_logits=True).numpy()
    read = Store.open(tmp_path / "s.zarr").read(backbone.spec)
    np.testing.assert_allclose(read.vectors, expected, atol=1e-5, rtol=0)
    assert read.ids.tolist() == [Path(n).stem for n in table["image"]]
    assert read.columns["tissue"].tolist() == table["tissue"].to_list()
    for name, digest in zip(table["image"], read.digests, strict=True):
        data = (films.parent / name).read_bytes()
        assert digest.tobytes() == hashlib.sha256(data).digest()[:16]


def test_a_second_run_writes_nothing(films: Path, tmp_path: Path) -> None:
    backbone = Sums(plain())
    run(films, tmp_path / "s.zarr", backbone)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "s.zarr").rglob("c/*")}
    summary = run(films, tmp_path / "s.zarr", backbone)
    assert summary.written == {backbone.spec.key: 0}
    assert summary.already == {backbone.spec.key: 12}
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "s.zarr").rglob("c/*")} == files


def test_only_new_images_are_embedded(films: Path, tmp_path: Path) -> None:
    table = pl.read_csv(films)
    backbone, root = Sums(plain()), films.parent
    first = read_manifest(table[:5], root=root).samples
    extract(first, tmp_path / "s.zarr", [backbone], PLAN)
    summary = extract(
        read_manifest(table, root=root).samples, tmp_path / "s.zarr", [backbone], PLAN
    )
    assert summary.written == {backbone.spec.key: 7}
    assert len(Store.open(tmp_path / "s.zarr").read(backbone.spec)) == 12


def test_a_second_backbone_joins_the_same_table(films: Path, tmp_path: Path) -> None:
    one, two = Sums(plain(32)), Sums(plain(16))
    run(films, tmp_path / "s.zarr", one)
    summary = run(films, tmp_path / "s.zarr", one, two)
    assert summary.written == {one.spec.key: 0, two.spec.key: 12}
    assert len(Store.open(tmp_path / "s.zarr")) == 12


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_recorded_and_the_rest_goes_on(
    films: Path, tmp_path: Path, workers: int
) -> None:
    whole = (films.parent / "film03.png").read_bytes()
    (films.parent / "film03.png").write_bytes(whole[: len(whole) // 2])
    (films.parent / "film05.png").write_text("not an image")
    (films.parent / "film07.png").write_bytes(b"")
    backbone = Sums(plain())
    summary = run(films, tmp_path / "s.zarr", backbone, plan=Plan("cpu", "float32", 4, workers))
    store = Store.open(tmp_path / "s.zarr")
    assert [(f.id, f.stage) for f in store.failures()] == [
        ("film03", "decode"),
        ("film05", "decode"),
        ("film07", "read"),
    ]
    assert len(summary.failures) == 3
    kept = [i for i in store.column("id").tolist() if i not in {"film03", "film05", "film07"}]
    assert store.read(backbone.spec).ids.tolist() == kept


def test_a_reader_that_is_killed_takes_one_file_down(films: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "waits.png")  # a reader that opens it waits, until it is shot
    samples = list(read_manifest(films).samples)
    samples.insert(5, Sample("waits", tmp_path / "waits.png"))
    shot = threading.Thread(target=shoot_the_waiting_reader)
    shot.start()
    backbone = Sums(plain())
    summary = extract(samples, tmp_path / "s.zarr", [backbone], Plan("cpu", "float32", 4, 2))
    shot.join()
    assert [(f.id, f.reason) for f in summary.failures] == [
        ("waits", "the decoder crashed (SIGSEGV)")
    ]
    ids = Store.open(tmp_path / "s.zarr").read(backbone.spec).ids.tolist()
    assert ids == [s.id for s in samples if s.id != "waits"]


def shoot_the_waiting_reader() -> None:
    """End the reader of ours that waits for a pipe to open, as a crashing codec would."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in filter(is_our_reader, Path("/proc").glob("[0-9]*")):
            with suppress(OSError):
                if (process / "wchan").read_text() in {"wait_for_partner", "fifo_open"}:
                    os.kill(int(process.name), signal.SIGSEGV)
                    return
        time.sleep(0.05)


def is_our_reader(process: Path) -> bool:
    """Tell a grandchild, by way of the fork server."""
    return parent(parent(process)).name == str(os.getpid())


def parent(process: Path) -> Path:
    with suppress(OSError):
        found = re.search(r"PPid:\s(\d+)", (process / "status").read_text())
        return process.with_name(found[1] if found else "0")
    return process.with_name("0")


def test_a_file_that_takes_too_long_is_given_up(films: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "waits.png")
    samples = [*read_manifest(films).samples, Sample("waits", tmp_path / "waits.png")]
    plan = Plan("cpu", "float32", 4, 2, seconds=2)
    summary = extract(samples, tmp_path / "s.zarr", [Sums(plain())], plan)
    assert [(f.id, f.reason) for f in summary.failures] == [("waits", "not decoded within 2 s")]


def test_private_paths_are_read_and_not_stored(films: Path, tmp_path: Path) -> None:
    samples = [replace(s, private=True) for s in read_manifest(films).samples]
    (films.parent / "film03.png").write_text("not an image")
    backbone = Sums(plain())
    extract(samples, tmp_path / "s.zarr", [backbone], PLAN)
    store = Store.open(tmp_path / "s.zarr")
    assert set(store.column("path").tolist()) == {""}
    assert [(f.id, f.path) for f in store.failures()] == [("film03", "")]
    assert len(store.read(backbone.spec)) == 11


def test_a_failure_is_tried_again_only_on_wish(films: Path, tmp_path: Path) -> None:
    whole = (films.parent / "film03.png").read_bytes()
    (films.parent / "film03.png").write_bytes(whole[:50])
    backbone = Sums(plain())
    run(films, tmp_path / "s.zarr", backbone)
    (films.parent / "film03.png").write_bytes(whole)
    assert run(films, tmp_path / "s.zarr", backbone).written[backbone.spec.key] == 0
    assert run(films, tmp_path / "s.zarr", backbone, retry=True).written[backbone.spec.key] == 1
    store = Store.open(tmp_path / "s.zarr")
    assert store.failures() == []
    assert store.read(backbone.spec).ids.tolist() == store.column("id").tolist()


def test_strict_stops_and_keeps_what_came_before(films: Path, tmp_path: Path) -> None:
    (films.parent / "film09.png").write_text("not an image")
    backbone = Sums(plain())
    with pytest.raises(ImageError, match=r"film09\.png"):
        run(films, tmp_path / "s.zarr", backbone, strict=True)
    assert len(Store.open(tmp_path / "s.zarr").read(backbone.spec)) == 8


def test_a_vector_that_is_not_finite_becomes_a_failure(films: Path, tmp_path: Path) -> None:
    backbone = Sums(plain(), poison=0.7)
    run(films, tmp_path / "s.zarr", backbone)
    store = Store.open(tmp_path / "s.zarr")
    read = store.read(backbone.spec)
    assert {f.stage for f in store.failures()} == {"encode"}
    assert 0 < len(read) < 12
    assert len(read) + len(store.failures()) == 12
    assert np.isfinite(read.vectors).all()


def test_an_image_wide_as_a_wall_is_embedded(tmp_path: Path) -> None:
    wide = np.tile(np.arange(256, dtype=np.uint8), (500, 80))[:, :20_000]
    Image.fromarray(wide).save(tmp_path / "wide.png")
    backbone = load_backbone("statistics")
    sample = Sample("wide", tmp_path / "wide.png")
    extract([sample], tmp_path / "s.zarr", [backbone], PLAN)
    assert len(Store.open(tmp_path / "s.zarr").read(backbone.spec)) == 1


@pytest.mark.parametrize("column", ["tissue", "patient", "view", "laterality"])
def test_a_manifest_that_contradicts_the_store_is_refused(
    films: Path, tmp_path: Path, column: str
) -> None:
    first = pl.read_csv(films).with_columns(pl.lit("MLO").alias("view"), laterality=pl.lit("R"))
    extract(
        read_manifest(first, root=films.parent).samples, tmp_path / "s.zarr", [Sums(plain())], PLAN
    )
    other = {"view": "CC", "laterality": "L"}.get(column, "other")
    table = first.with_columns(pl.lit(other).alias(column))
    with pytest.raises(ManifestError, match=f"'{other}' in the manifest"):
        extract(read_manifest(table, root=films.parent).samples, tmp_path / "s.zarr", [], PLAN)


def test_columns_that_come_later_are_filled_in(films: Path, tmp_path: Path) -> None:
    run(films, tmp_path / "s.zarr", Sums(plain()))
    sides = ["train", "test"] * 6
    table = pl.read_csv(films).with_columns(pl.Series("split", sides), view=pl.lit("MLO"))
    extract(
        read_manifest(table, root=films.parent).samples, tmp_path / "s.zarr", [Sums(plain())], PLAN
    )
    store = Store.open(tmp_path / "s.zarr")
    assert store.column("split").tolist() == sides
    assert set(store.column("view").tolist()) == {"MLO"}


def test_bfloat16_stays_close_to_float32(films: Path, tmp_path: Path) -> None:
    backbone = load_backbone("timm:test_convnext@random")
    vectors = []
    for precision in ("float32", "bfloat16"):
        path = tmp_path / f"{precision}.zarr"
        run(films, path, backbone, plan=Plan("cpu", precision, 4, 0))  # type: ignore[arg-type]
        vectors.append(Store.open(path).read(backbone.spec).unit())
    assert ((vectors[0] * vectors[1]).sum(1) > 0.999).all()


def test_a_label_column_that_comes_later_is_added(films: Path, tmp_path: Path) -> None:
    run(films, tmp_path / "s.zarr", Sums(plain()))
    vendors = ["V1", "V2"] * 6
    table = pl.read_csv(films).with_columns(pl.Series("vendor", vendors))
    later = read_manifest(table[::-1], root=films.parent).samples
    summary = extract(later, tmp_path / "s.zarr", [Sums(plain())], PLAN)
    store = Store.open(tmp_path / "s.zarr")
    assert store.column("vendor").tolist() == vendors
    assert set(summary.written.values()) == {0}


def test_labels_that_come_later_are_filled_in_and_none_is_lost(films: Path, tmp_path: Path) -> None:
    store, table = tmp_path / "s.zarr", pl.read_csv(films)
    whole = table["tissue"].to_list()
    some = table.with_columns(
        pl.Series("tissue", [v if n % 3 else "" for n, v in enumerate(whole)])
    )
    none = table.with_columns(pl.lit("").alias("tissue"))
    for given, expected in ((some, some["tissue"].to_list()), (table, whole), (none, whole)):
        samples = read_manifest(given, labels=["tissue"], root=films.parent).samples
        extract(samples, store, [Sums(plain())], PLAN)
        assert Store.open(store).column("tissue").tolist() == expected
    group = zarr.open_group(store, mode="r")["samples/labels/tissue"]
    assert group[:].tolist() == whole
    fresh = table.head(1).with_columns(
        pl.lit("film00.png").alias("image"), pl.lit("new").alias("id")
    )
    extract(read_manifest(fresh, root=films.parent).samples, store, [Sums(plain())], PLAN)
    assert Store.open(store).column("tissue").tolist() == [*whole, whole[0]]


def test_two_precisions_do_not_meet_under_one_key(films: Path, tmp_path: Path) -> None:
    run(films, tmp_path / "s.zarr", Sums(plain()))
    with pytest.raises(UsageError, match="made in float32, not bfloat16"):
        run(films, tmp_path / "s.zarr", Sums(plain()), plan=Plan("cpu", "bfloat16", 4, 0))


def test_a_refused_precision_leaves_nothing_of_its_own(films: Path, tmp_path: Path) -> None:
    one, two = Sums(plain(32)), Sums(plain(16))
    run(films, tmp_path / "s.zarr", one)
    with pytest.raises(UsageError, match="give --precision float32"):
        run(films, tmp_path / "s.zarr", one, two, plan=Plan("cpu", "bfloat16", 4, 0))
    assert run(films, tmp_path / "s.zarr", one, two).written[two.spec.key] == 12


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_going_on_keeps_the_precision_the_store_was_begun_in(
    films: Path, tmp_path: Path, precision: str
) -> None:
    store = tmp_path / "s.zarr"
    begin = ["extract", str(films), "--store", str(store), "--backbone", "statistics"]
    assert _run([*begin, "--precision", precision], False) == 0
    assert _run(begin, False) == 0
    assert _run([*begin, "--backbone", "timm:test_vit@random"], False) == 0
    made = {p["precision"] for p in Store.open(store).provenance.values()}
    assert made == {precision}


def test_provenance_names_what_made_the_vectors(films: Path, tmp_path: Path) -> None:
    backbone = Sums(plain())
    run(films, tmp_path / "s.zarr", backbone)
    made = Store.open(tmp_path / "s.zarr").provenance[backbone.spec.key]
    assert made["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert (made["device"], made["precision"]) == ("cpu", "float32")


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
import sums_backbone as t
from embedstore.cli import _run
import embedstore.backbones
class Slow(t.Sums):
    def encode_image(self, batch):
        time.sleep(0.3)
        print("batch", flush=True)
        return super().encode_image(batch)
embedstore.backbones.load_backbone = lambda *a: Slow(t.plain())
sys.exit(_run({arguments!r}, False))
"""


def slow_command(films: Path, store: Path) -> list[str]:
    """Type an extraction of two images at a time."""
    arguments = ["extract", str(films), "--store", str(store), "--backbone", "statistics"]
    return [*arguments, "--batch-size", "2", "--workers", "2"]


def slow_extraction(films: Path, store: Path) -> subprocess.Popen[str]:
    """Start it in a process of its own, and return when some images are through."""
    tests, arguments = str(Path(__file__).parent), slow_command(films, store)
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(tests=tests, arguments=arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    for _ in range(2):
        child.stdout.readline()
    return child


def go_on(films: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the same command again, here and with nothing to wait for."""
    monkeypatch.setattr("embedstore.backbones.load_backbone", lambda *a: Sums(plain()))
    assert _run(slow_command(films, store), False) == 0
    assert len(Store.open(store).read(Sums(plain()).spec)) == 12


def test_ctrl_c_commits_and_says_how_to_go_on(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.zarr"
    child = slow_extraction(films, store)
    began = time.monotonic()
    os.killpg(child.pid, signal.SIGINT)
    _, complaint = child.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert child.returncode == 130
    assert "run the same command again" in complaint
    assert "Traceback" not in complaint
    assert 2 <= len(Store.open(store).read(Sums(plain()).spec)) <= 8
    go_on(films, store, monkeypatch)


INTERRUPTED = """
import json, os, signal, sys, time
from pathlib import Path
import embedstore.backbones.statistics, embedstore.extract, embedstore.manifest
from embedstore.cli import main
folder, ended = Path(sys.argv[1]), []
for after in {moments}:
    there, here = os.pipe()
    if not (child := os.fork()):
        os.setsid()
        os.dup2(here, 2)
        os.close(there)
        sys.argv[1:] = ["extract", str(folder / "many.csv"), "--backbone", "statistics"]
        sys.argv += ["--store", str(folder / f"{{after}}.zarr"), "--batch-size", "1"]
        main()  # exits, and ends as the command does
    os.close(here)
    said = os.fdopen(there)
    assert any("running on" in line for line in said)
    time.sleep(after)
    os.killpg(child, signal.SIGINT)
    text = said.read()
    ended.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text])
print(json.dumps(ended))
"""


def test_ctrl_c_while_readers_start_is_no_crash(films: Path) -> None:
    table = pl.concat([pl.read_csv(films)] * 60).with_row_index("id")
    table.write_csv(films.parent / "many.csv")
    moments = (0.05, 0.3, 0.6, 0.9)
    done = subprocess.run(
        # one process imports everything, and each extraction is a fork of it, which has no threads
        [sys.executable, "-c", INTERRUPTED.format(moments=moments), str(films.parent)],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for after, (code, said) in zip(moments, json.loads(done.stdout), strict=True):
        assert code == 130, (after, said)
        assert "Traceback" not in said, after
        assert "Error" not in said, after


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_when_only_the_main_process_is_killed_no_reader_keeps_the_lock(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    store = tmp_path / "s.zarr"
    child = slow_extraction(films, store)
    child.send_signal(how)
    # the readers hold the pipe too: it ends when the last of them is gone
    child.communicate(timeout=10)
    go_on(films, store, monkeypatch)


def test_a_plan_left_to_the_machine_names_a_device_there_is() -> None:
    plan = choose("auto", "auto", 0, -1, images=10)
    assert torch.empty(0, device=plan.device).device.type == plan.device

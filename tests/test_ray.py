"""Extraction on a cluster of several nodes, against the same extraction in one process."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cluster_backbones
import numpy as np
import pytest
import ray
import typer
import zarr
from cluster_backbones import DARK, Told, processes
from PIL import Image
from ray.cluster_utils import Cluster

from embedstore import cli, cli_extract
from embedstore.check import check
from embedstore.cli import _run
from embedstore.cluster import fleet
from embedstore.cluster.connect import joined
from embedstore.cluster.fleet import AT_WORK, Fleet
from embedstore.cluster.worker import Setting, Worker
from embedstore.errors import EmbedstoreError, SpecMismatch, StoreError, UsageError
from embedstore.extract import Summary, extract
from embedstore.plan import Plan
from embedstore.store import Store
from embedstore.types import Sample

# Ray's cluster for tests leaves the files open that its processes write to
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

IMAGES = 60
UNUSABLE = {17, 18, 40}
PLAN = Plan("cpu", "float32", 2, 0)
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@dataclass
class Nodes:
    """A cluster of two nodes, a worker on each, and two backbones that differ in their mean."""

    cluster: Cluster
    told: Path
    backbones: list[Told]
    workers: Fleet

    def tell(self, log: Path, **what: Any) -> None:
        self.told.write_text(json.dumps({"log": str(log), **what}))

    def extract(
        self, samples: list[Sample], store: Path, which: int = 0, plan: Plan = PLAN, **how: Any
    ) -> Summary:
        some = [self.backbones[which]]
        return extract(samples, store, some, plan, cluster=self.workers, **how)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.cloudpickle.register_pickle_by_value(cluster_backbones)  # the nodes cannot import it
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    cluster.add_node(**NODE)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line has it
    told = tmp_path_factory.mktemp("told") / "told.json"
    backbones = [Told(told), Told(told, mean=0.25)]
    with (
        joined(cluster.address),
        Fleet(lambda device: backbones, [b.spec for b in backbones], "cpu", 0) as workers,
    ):
        yield Nodes(cluster, told, backbones, workers)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cluster.shutdown()
    del cluster, workers
    gc.collect()


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Write films of 8 and 16 bits, a few unusable; their brightest pixel tells them apart."""
    found = []
    for n in range(IMAGES):
        path = tmp_path / f"film{n:02d}.png"
        ramp = np.tile(DARK + n - np.maximum(np.arange(40) - 10, 0), (40, 1))
        pixels = ramp.astype(np.uint16) * 257 if n % 7 == 2 else ramp.astype(np.uint8)
        Image.fromarray(pixels).save(path)
        if n in UNUSABLE:
            path.write_text("not an image")
        found.append(Sample(f"i{n:02d}", path, f"p{n // 4}", labels={"density": "AB"[n % 2]}))
    return found


def assert_same(store: Path, expected: Path) -> None:
    """Compare all arrays, as another reader of Zarr sees them."""
    found, wanted = (dict(zarr.open_group(p, mode="r").members(None)) for p in (store, expected))
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        if isinstance(array, zarr.Array):
            np.testing.assert_array_equal(found[name][:], array[:], err_msg=name)
    assert not check(store).findings


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("films.csv --ray", "local"),
        ("--ray films.csv", "local"),
        ("--ray --device cpu films.csv", "local"),
        ("--ray auto films.csv", "auto"),
        ("films.csv --ray head:6379", "head:6379"),
        ("films.csv --ray=ray://head:10001", "ray://head:10001"),
        ("films.csv", ""),
    ],
)
def test_ray_may_stand_without_an_address(given: str, address: str) -> None:
    command = typer.main.get_command(cli.app).commands["extract"]  # type: ignore[attr-defined]
    parameters = command.make_context("extract", given.split()).params
    assert parameters["ray"] == address
    assert str(parameters["manifest"]) == "films.csv"


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("127.0.0.1:1", "127.0.0.1:1: nothing answers there"),
        ("ray://127.0.0.1:1", "ray://127.0.0.1:1: nothing answers there"),
        ("nonsense", "nonsense: an address is HOST:PORT"),
    ],
)
def test_an_address_where_nothing_is_is_one_line(address: str, complaint: str) -> None:
    assert not ray.is_initialized()  # before there is a cluster below
    with pytest.raises(UsageError, match=f"^--ray {complaint}"), joined(address):
        raise AssertionError


def test_rays_own_signals_do_not_stay(nodes: Nodes) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_the_store_is_that_of_a_single_process(
    nodes: Nodes, samples: list[Sample], tmp_path: Path
) -> None:
    one, other, log = tmp_path / "one.zarr", tmp_path / "ray.zarr", tmp_path / "log"
    nodes.tell(tmp_path / "alone", poison=50)
    alone = extract(samples, one, nodes.backbones[:1], PLAN, keep_pixels=True)
    nodes.tell(log, poison=50, gates=[[30, 2]])
    summary = nodes.extract(samples, other, keep_pixels=True)
    assert len(alone.failures) == len(UNUSABLE) + 10
    assert summary.failures == alone.failures
    assert_same(other, one)
    kinds = {Path(n).parent.name for n in Store.open(one).arrays if n.endswith("/values")}
    assert kinds == {"uint8", "uint16"}
    assert len(set(processes(log)) - {os.getpid()}) == 2
    run = Store.open(other).provenance[nodes.backbones[0].spec.key]["runs"][-1]
    assert run["ray"] == {"version": ray.__version__, "nodes": 2, "workers": 2, "died": 0}


def test_workers_take_kept_pictures_out_of_the_store(
    nodes: Nodes, samples: list[Sample], tmp_path: Path
) -> None:
    one, other = tmp_path / "one.zarr", tmp_path / "ray.zarr"
    nodes.tell(tmp_path / "log")
    for store in (one, other):
        extract(samples, store, nodes.backbones[:1], PLAN, keep_pixels=True)
    for sample in samples:
        if sample.path.stem[4:] not in map(str, UNUSABLE):
            sample.path.unlink()
    extract(samples, one, nodes.backbones[1:], PLAN)
    summary = nodes.extract(samples, other, which=1)
    assert summary.written == {nodes.backbones[1].spec.key: IMAGES - len(UNUSABLE)}
    assert_same(other, one)


def test_nothing_runs_far_ahead_of_a_slow_batch(
    nodes: Nodes, samples: list[Sample], tmp_path: Path
) -> None:
    nodes.tell(tmp_path / "log", slow=0)
    nodes.extract(samples, tmp_path / "s.zarr", plan=replace(PLAN, batch_size=1))
    lines = (tmp_path / "log").read_text().splitlines()
    before = next(n for n, line in enumerate(lines) if "slow" in line)
    assert AT_WORK <= before < 2 * AT_WORK * 2 < len(lines) / 2


def test_an_image_that_a_node_cannot_see_is_no_failure_of_the_image(
    nodes: Nodes, samples: list[Sample], tmp_path: Path
) -> None:
    nodes.tell(tmp_path / "log")
    here = os.open(tmp_path, os.O_RDONLY)  # a path that means something to this process alone
    hidden = [replace(s, path=Path(f"/proc/self/fd/{here}", s.path.name)) for s in samples]
    try:
        with pytest.raises(UsageError, match=r"cannot see .*film00\.png: images must lie on"):
            nodes.extract(hidden, tmp_path / "s.zarr")
    finally:
        os.close(here)
    assert Store.open(tmp_path / "s.zarr").failures() == []


def test_a_store_that_a_node_cannot_see_is_one_line(
    nodes: Nodes, samples: list[Sample], tmp_path: Path
) -> None:
    nodes.tell(tmp_path / "log")
    extract(samples, tmp_path / "s.zarr", nodes.backbones[:1], PLAN, keep_pixels=True)
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(StoreError, match="every node must see the store$"):
            nodes.extract(samples, Path(f"/proc/self/fd/{here}/s.zarr"), which=1)
    finally:
        os.close(here)


def test_a_batch_that_ends_its_workers_is_named(
    nodes: Nodes, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.tell(tmp_path / "log", deadly=33)
    monkeypatch.setattr(fleet, "DEATHS", 2)
    with pytest.raises(EmbedstoreError, match=r"^2 workers died of a batch, images i32 to i33 \("):
        nodes.extract(samples[28:36], tmp_path / "s.zarr")
    monkeypatch.undo()
    nodes.tell(tmp_path / "log")
    nodes.extract(samples[28:36], tmp_path / "s.zarr")
    nodes.extract(samples[28:36], tmp_path / "one.zarr")
    assert_same(tmp_path / "s.zarr", tmp_path / "one.zarr")


def test_what_dies_and_joins_meanwhile_changes_nothing(
    nodes: Nodes, samples: list[Sample], tmp_path: Path
) -> None:
    one, other, log = tmp_path / "one.zarr", tmp_path / "ray.zarr", tmp_path / "log"
    nodes.tell(tmp_path / "alone")
    extract(samples, one, nodes.backbones[:1], PLAN, keep_pixels=True)
    nodes.tell(log, seconds=0.1, gates=[[20, 3], [40, 4]])
    dead: list[int] = []

    def disturb(done: int, total: int) -> None:
        """End a worker; once another is in its place a node, and let one join."""
        if not dead and done >= 6:
            dead.append(processes(log)[-1])
            os.kill(dead[0], signal.SIGKILL)
        elif len(set(processes(log))) == 3 and len(dead) == 1:
            dead.append(0)
            (node,) = nodes.cluster.worker_nodes
            nodes.cluster.remove_node(node, allow_graceful=False)
            nodes.cluster.add_node(**NODE, num_gpus=2)

    summary = nodes.extract(samples, other, keep_pixels=True, on_progress=disturb)
    assert summary.written == {nodes.backbones[0].spec.key: IMAGES - len(UNUSABLE)}
    assert_same(other, one)
    assert len(dead) == 2
    # both of the beginning, the one in place of the killed, the one of the node that joined
    assert len(set(processes(log))) == 4
    assert len(processes(log)) > IMAGES / PLAN.batch_size
    # that node says it has two GPUs
    gpus = Fleet(lambda device: [], [])
    assert gpus.device == "cuda"
    assert str(gpus) == f"Ray {ray.__version__}, 1 node, 2 workers"


def test_other_weights_on_a_node_are_refused(tmp_path: Path) -> None:
    expected, there = Told(tmp_path), Told(tmp_path, weights="1")
    setting = Setting(lambda device: [there], (expected.spec,), "cpu", 1, 1, Path.cwd())
    with pytest.raises(SpecMismatch, match=r"weights_sha256 is '0' in one and '1' in the other"):
        Worker().load(setting)


CODE = """
import pathlib, sys
sys.path.insert(0, {tests!r})
import cluster_backbones, ray
from embedstore import cli, cli_extract
ray.cloudpickle.register_pickle_by_value(cluster_backbones)
made = [cluster_backbones.Told(pathlib.Path({told!r}))]
cli_extract._load = lambda names, recipe, pooling, device: made
sys.argv = ["embedstore", *{arguments!r}]
cli.main()
"""


def test_ctrl_c_commits_and_a_plain_run_goes_on(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, store, undisturbed = tmp_path / "log", tmp_path / "s.zarr", tmp_path / "one.zarr"
    told = tmp_path / "told.json"
    told.write_text(json.dumps({"log": str(log), "seconds": 0.3}))
    arguments = ["extract", str(films), "--backbone", "statistics", "--patient-ids", "keep"]
    arguments += ["--precision", "float32", "--batch-size", "1", "--store"]
    more = [*arguments, str(store), "--ray"]
    code = CODE.format(tests=str(Path(__file__).parent), told=str(told), arguments=more)
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(processes(log)) < 8 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches Ray's processes too
    _, said = child.communicate(timeout=30)
    lines = said.splitlines()
    ours = f"Ray {ray.__version__}, 1 node, 1 worker"
    assert lines[2:4] == [f"{ours}: starting", f"running on {ours}, each {plan_of_all()}"], said
    assert child.returncode == 130
    assert len(lines) == 5, said
    assert "run the same command again" in lines[4]
    assert 1 <= Store.open(store).rows(f"embeddings/{Told(told).spec.key}/rows") < 12
    monkeypatch.setattr(cli_extract, "_load", lambda *request: [Told(told)])
    for path in (store, undisturbed):
        assert _run([*arguments, str(path), "--workers", "0"], False) == 0
    assert_same(store, undisturbed)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        left = of_session(child.pid)
        at_work = [name for name in left.values() if "Agent" not in name]
        if not at_work:
            break
        time.sleep(0.1)
    for process in left:  # of Ray's own, which take a minute to notice
        os.kill(process, signal.SIGKILL)
    assert not at_work


def plan_of_all() -> str:
    """Return what is said of the plan, where a worker has all processors."""
    readers = min(os.cpu_count() or 1, 8)
    return f"cpu, float32, batches of 1, {readers} reader process{'es' * (readers > 1)}"


def of_session(leader: int) -> dict[int, str]:
    """Return the processes, by their commands, of a session whose leader has ended."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(process.name)) == leader:
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
    return found

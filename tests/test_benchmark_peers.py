"""The benchmark against peers: pins that hold, and differences of answers that are noticed."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import environments, peers

AREAS = {
    name: importlib.import_module(f"benchmarks.contenders.{name}").AREA for name in peers.AREAS
}


def test_every_environment_is_pinned_to_the_digit() -> None:
    pins = environments.pins()
    wanted = {c.environment for area in AREAS.values() for c in area.contenders.values()} - {""}
    assert wanted == set(pins)
    for line in pins.values():
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in line)


def test_ratios_are_of_the_times_of_one_round() -> None:
    area = AREAS["prompts"]
    theirs = peers.Series([2.0, 9.0, 40.0], 0.0)
    ours = peers.Series([1.0, 3.0, 10.0], 0.0)
    found = peers.row(area, "", "variants", "open_clip", theirs, ours)
    assert (found.least, found.ratio, found.most) == (2, 3, 4)


@pytest.mark.parametrize("name", ["extract", "prompts", "probes"])
def test_another_answer_is_noticed(name: str, tmp_path: Path) -> None:
    area = AREAS[name]
    ((task, bound),) = area.tasks.items()
    ours = np.random.default_rng(0).uniform(0.4, 0.6, (10, 4))
    other = ours.copy()
    other[3, 2] += 0.01
    assert (
        area.apart(task, tmp_path, ours, ours)
        <= bound.limit
        < area.apart(task, tmp_path, other, ours)
    )


def test_a_vector_that_is_not_what_was_written_is_noticed(tmp_path: Path) -> None:
    area = AREAS["store"]
    vectors = np.random.default_rng(0).standard_normal((2000, 8), dtype=np.float32)
    rows = np.array([5, 1, 5, 1999])
    np.save(tmp_path / "vectors.npy", vectors)
    np.save(tmp_path / "rows.npy", rows)
    expected = dict(
        zip(area.tasks, (vectors[-1:], vectors, vectors[rows], vectors[:1000]), strict=True)
    )
    for task, right in expected.items():
        assert area.apart(task, tmp_path, right, right) == 0
        wrong = right.copy()
        wrong[-1, -1] = np.nextafter(wrong[-1, -1], np.float32(np.inf))
        assert area.apart(task, tmp_path, wrong, right) > 0
        assert area.apart(task, tmp_path, right[1:], right) > 0


def test_neighbours_that_are_missed_are_counted(tmp_path: Path) -> None:
    area = AREAS["search"]
    truth = np.arange(40).reshape(4, 10)
    np.save(tmp_path / "truth.npy", truth)
    np.save(tmp_path / "passing.npy", truth + 100)
    exact, filtered = list(area.tasks)[1], list(area.tasks)[-1]
    found = truth[:2, ::-1].copy()
    assert area.apart(exact, tmp_path, found, found) == 0
    found[0, :3] = -1
    assert area.apart(exact, tmp_path, found, found) == pytest.approx(3 / 20)
    assert area.apart(filtered, tmp_path, found, found) == 1


def test_the_documents_show_what_was_measured() -> None:
    kept = json.loads(peers.RESULT.read_text())
    table = peers.markdown([peers.Row(**row) for row in kept["rows"]])
    assert table in (environments.ROOT / "docs" / "benchmarks.md").read_text()

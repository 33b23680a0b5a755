from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from PIL import Image
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import StratifiedGroupKFold

from embedstore.cli import _run, _tell_error
from embedstore.report import progress as progress_module
from embedstore.report.progress import progress

SCRIPT = Path(sys.executable).with_name("embedstore")
PATIENTS = 12


def cli(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a user would, off any terminal."""
    clean = {k: v for k, v in os.environ.items() if k not in {"FORCE_COLOR", "PYTHONWARNINGS"}}
    return subprocess.run(
        [SCRIPT, *map(str, arguments)], cwd=cwd, env=clean, capture_output=True, text=True
    )


def here(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which has imported everything; else as `cli` does."""
    words = [str(a) for a in arguments]
    said = [
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace")
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [str(SCRIPT), *words])
        with redirect_stdout(said[0]), redirect_stderr(said[1]):
            code = _run(words, False)
    for file in said:
        file.flush()
    texts = [file.buffer.getvalue().decode() for file in said]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(words, code, *texts)


def nodes(store: Path | str) -> zarr.Group:
    return zarr.open_group(store, mode="r", use_consolidated=False)


def draw(bright: float, seed: int, size: int = 96) -> Image.Image:
    """Draw a breast with its chest wall at the left on black, with texture."""
    y, x = np.mgrid[:size, :size]
    inside = (x / (0.6 * size)) ** 2 + ((y - size / 2) / (0.42 * size)) ** 2 < 1
    noise = np.random.default_rng(seed).normal(0, 12, (size, size))
    return Image.fromarray(np.where(inside, bright + noise, 0).clip(0, 255).astype(np.uint8))


def write_films(folder: Path) -> list[dict[str, str]]:
    """Write two films a patient, classes that overlap, one film that is none, and the table."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for i in range(2 * PATIENTS):
        dense = i // 2 % 2
        name = "broken.png" if i == 5 else f"film{i:02d}.png"
        if i == 5:
            (folder / name).write_text("this is no image")
        else:
            draw(120 + 20 * dense + rng.normal(0, 20), i).save(folder / name)
        rows.append(
            {
                "file": name,
                "image_id": f"{i:03d}",
                "patient": f"PID-Anna-{i // 2:02d}",
                "study": f"ACC-77{i // 2:02d}",
                "view": ("CC", "MLO")[i % 2],
                "tissue": "" if i == 8 else ("fatty", "dense")[dense],
                "rare": "one" if i == 0 else "other",
            }
        )
    write_table(folder / "films.csv", rows)
    return rows


def write_table(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@dataclass(frozen=True)
class World:
    root: Path
    rows: list[dict[str, str]]
    first: subprocess.CompletedProcess[str]

    @property
    def store(self) -> Path:
        return self.root / "s.zarr"

    @property
    def manifest(self) -> Path:
        return self.root / "films" / "films.csv"

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and ids in the table's order, by zarr's own reader."""
        group = nodes(self.store)
        (key,) = group["embeddings"].group_keys()
        rows = group[f"embeddings/{key}/rows"][:]
        vectors = group[f"embeddings/{key}/vectors"][:]
        order = np.argsort(rows)
        ids = np.array(group["samples/id"][:].tolist())
        return vectors[order], ids[rows[order]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("cli")
    rows = write_films(root / "films")
    first = cli(
        "extract", "films/films.csv", "--backbone", "statistics", "--store", "s.zarr", cwd=root
    )
    return World(root, rows, first)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run in this process; nothing but one line of error may come out."""
    code = _run([str(a) for a in arguments], False)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1, output.err
    assert output.err.startswith("error: ")
    assert "Traceback" not in output.err
    assert "--debug" not in output.err  # that is said of errors nobody thought of
    return code, output.err


def as_json(output: str) -> Any:
    """Parse strictly: NaN and Infinity are no JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(output, parse_constant=refuse)


def test_extract_embeds_all_but_the_unreadable_image(world: World) -> None:
    assert world.first.returncode == 0
    told = r"statistics \([0-9a-f]{12}\): 23 new, 0 already there, 1 failed"
    assert re.fullmatch(told, world.first.stdout.splitlines()[0])
    assert "s.zarr: 24 samples" in world.first.stdout
    failed = [line for line in world.first.stderr.splitlines() if line.startswith("failed:")]
    assert failed == [
        f"failed: {Path('films/broken.png')}: decode: not an image in a format known here "
        "(PNG, JPEG, TIFF, PGM, DICOM)"
    ]
    assert "24 images; columns image=file, id=image_id, patient=patient" in world.first.stderr
    assert "labels tissue, rare" in world.first.stderr
    assert "note: label 'tissue' is empty in 1 of 24 rows" in world.first.stderr
    assert "extracting: 24 of 24" in world.first.stderr
    vectors, ids = world.vectors()
    assert ids.tolist() == [f"{i:03d}" for i in range(24) if i != 5]
    assert np.isfinite(vectors).all()


def test_extracting_again_adds_only_what_is_new(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world.root, tmp_path / "w")
    films, store = tmp_path / "w" / "films", tmp_path / "w" / "s.zarr"
    again = here(
        "extract", "films/films.csv", "--backbone", "statistics", "--store", "s.zarr",
        cwd=tmp_path / "w",
    )  # fmt: skip
    assert again.returncode == 0
    assert ": 0 new, 23 already there, 0 failed" in again.stdout

    def extract(*options: str) -> str:
        arguments = ["extract", str(films / "films.csv"), "--store", str(store), *options]
        assert _run([*arguments, "--backbone", "statistics"], False) == 0
        return capsys.readouterr().out

    draw(100, 99).save(films / "new.png")
    new = world.rows[0] | {"file": "new.png", "image_id": "new"}
    write_table(films / "films.csv", [*world.rows, new])
    assert ": 1 new, 23 already there, 0 failed" in extract()
    hashed = nodes(store)["samples/group"][:]
    assert hashed[24] == hashed[0]  # the same patient, by the key that was kept
    # mended, and tried again only when so asked
    draw(100, 98).save(films / "broken.png")
    assert ": 0 new, 24 already there, 0 failed" in extract()
    assert ": 1 new, 24 already there, 0 failed" in extract("--retry-failures")


def test_no_patient_or_exam_id_is_in_the_store(world: World) -> None:
    searched = 0
    for file in world.store.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            searched += len(content)
            assert b"PID-Anna" not in content, file
            assert b"ACC-77" not in content, file
    assert searched > 10_000
    group = nodes(world.store)
    # chunks may be compressed, so read them too
    for name, array in group.members(max_depth=None):
        if isinstance(array, zarr.Array):
            values = " ".join(map(str, array[:].ravel().tolist()))
            assert "PID-Anna" not in values, name
            assert "ACC-77" not in values, name
    assert len(set(group["samples/group"][:])) == PATIENTS


def test_patient_ids_are_kept_when_so_asked(world: World, tmp_path: Path) -> None:
    arguments = ["extract", world.manifest, "--backbone", "statistics", "--patient-ids", "keep"]
    assert _run([*map(str, arguments), "--store", str(tmp_path / "k.zarr")], False) == 0
    group = nodes(tmp_path / "k.zarr")
    assert group["samples/group"][:].tolist() == [r["patient"] for r in world.rows]
    assert group["samples/exam"][:].tolist() == [r["study"] for r in world.rows]
    assert not (tmp_path / "k.zarr.key").exists()


def cross_validated(world: World) -> tuple[float, int]:
    """Accuracy of the documented protocol, from scikit-learn's parts alone."""
    vectors, ids = world.vectors()
    by_id = {row["image_id"]: row for row in world.rows}
    keep = np.array([by_id[i]["tissue"] != "" for i in ids])
    X, labels = vectors[keep].astype(np.float64), [by_id[i]["tissue"] for i in ids[keep]]
    patients = [by_id[i]["patient"] for i in ids[keep]]
    answers = np.empty(len(labels), dtype=object)
    folds = StratifiedGroupKFold(4, shuffle=True, random_state=3)
    for train, test in folds.split(X, labels, patients):
        mean, scale = X[train].mean(axis=0), X[train].std(axis=0)
        scale[scale < 1e-6 * np.abs(mean)] = 1
        scale[scale == 0] = 1
        head = LogisticRegression(C=0.01, max_iter=1000)
        head.fit((X[train] - mean) / scale, np.array(labels)[train])
        answers[test] = head.predict((X[test] - mean) / scale)
    return accuracy_score(labels, answers.astype(str)), len(labels)


def test_probe_gives_scikit_learns_number(world: World) -> None:
    options = ["--label", "tissue", "--folds", 4, "--seed", 3, "--json"]
    done = here("probe", "s.zarr", *options, cwd=world.root)
    assert done.returncode == 0
    assert done.stderr.startswith("probing: 1 of 1")
    (report,) = as_json(done.stdout)
    accuracy, n = cross_validated(world)
    assert 0.5 < accuracy < 1
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert report["n_test"] == n == 22
    assert report["n_patients"] == PATIENTS
    assert report["classes"] == ["dense", "fatty"]
    assert report["probe"] == "logistic"
    assert report["parameters"]["C"] == 0.01
    assert report["spec"]["backbone"] == "statistics"
    assert sum(map(sum, report["confusion"])) == 22
    right = sum(report["confusion"][k][k] for k in range(2))
    assert right / 22 == pytest.approx(accuracy)
    left_out, few, without = report["notes"]
    assert without == "1 of 24 images have no vector of statistics (yet)"
    assert left_out == "1 images without tissue left out"
    assert few.startswith("12 patients: of fewer than 20, ")


def test_probe_prints_a_table_of_every_head(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["probe", str(world.store), "--label", "tissue", "--head", "logistic"]
    arguments += ["--head", "knn", "--folds", "4", "--seed", "3"]
    assert _run([*arguments, "--json"], False) == 0
    reports = as_json(capsys.readouterr().out)
    assert [r["probe"] for r in reports] == ["logistic", "knn"]
    assert _run(arguments, False) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 110
    for report in reports:
        (line,) = [x for x in printed.splitlines() if f" {report['probe']} " in x]
        for metric in ("accuracy", "balanced_accuracy", "macro_f1", "auroc"):
            assert f"{report['metrics'][metric]['value']:.3f}" in line
    (floor,) = [x for x in printed.splitlines() if "│ floor" in x]
    assert f"{reports[0]['metrics']['accuracy']['floor']:.3f}" in floor
    assert "22 images of 12 patients" in printed
    assert "note: 1 images without tissue left out" in printed


def test_info_tells_what_the_store_holds(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["info", str(world.store), "--json"], False) == 0
    found = as_json(capsys.readouterr().out)
    assert (found["samples"], found["patients"]) == (24, PATIENTS)
    assert found["labels"] == {
        "tissue": {"fatty": 12 - 1, "dense": 12, "": 1},
        "rare": {"one": 1, "other": 23},
    }
    (embedding,) = found["embeddings"].values()
    assert embedding["vectors"] == 23
    assert embedding["provenance"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    (failure,) = found["failures"]
    assert (failure["id"], failure["stage"]) == ("005", "decode")
    assert _run(["info", str(world.store)], False) == 0
    output = capsys.readouterr()
    assert "12 patients, 1 failures" in output.out
    assert "(empty) 1" in output.out
    assert "broken.png: decode: not an image" in output.err


def test_search_finds_the_nearest_of_other_patients(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, ids = world.vectors()
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    at = ids.tolist().index("010")
    cosine = dict(zip(ids.tolist(), unit @ unit[at], strict=True))
    patient = {r["image_id"]: r["patient"] for r in world.rows}
    others = [i for i in cosine if patient[i] != patient["010"]]
    # every candidate is asked for: who is left out shows whatever the cosines are
    for options, candidates in [
        ([], others),
        (["--include-same-patient"], [i for i in cosine if i != "010"]),
    ]:
        count = str(len(candidates))
        arguments = ["search", str(world.store), "--id", "010", "-k", count, *options]
        assert _run([*arguments, "--json"], False) == 0
        (query,) = as_json(capsys.readouterr().out)["queries"]
        found = query["cases"]
        assert {n["id"] for n in found} == set(candidates)
        assert [n["rank"] for n in found] == list(range(1, len(candidates) + 1))
        # by value, for in float32 two neighbours may change places
        wanted = sorted((cosine[i] for i in candidates), reverse=True)
        assert [n["cosine"] for n in found] == pytest.approx(wanted, abs=1e-6)
        for n in found:
            assert n["cosine"] == pytest.approx(cosine[n["id"]], abs=1e-6)
        assert _run(arguments, False) == 0
        printed = capsys.readouterr().out
        assert re.findall(r"│ (\d{3}) +│", printed) == [n["id"] for n in found]
    assert max(cosine[i] for i in others) - min(cosine[i] for i in others) > 1e-4


def test_strict_stops_at_the_first_unreadable_image(world: World) -> None:
    stopped = here(
        "extract",
        "films/films.csv",
        "--backbone",
        "statistics",
        "--store",
        "strict.zarr",
        "--strict",
        "--batch-size",
        2,
        cwd=world.root,
    )
    assert stopped.returncode == 1
    errors = [x for x in stopped.stderr.splitlines() if x.startswith("error:")]
    assert errors == [
        f"error: decode: {Path('films/broken.png')}: not an image in a format known here "
        "(PNG, JPEG, TIFF, PGM, DICOM)"
    ]
    assert stopped.stderr.splitlines()[-1] == errors[0]
    assert "Traceback" not in stopped.stderr
    # what came before is kept
    group = nodes(world.root / "strict.zarr")
    (key,) = group["embeddings"].group_keys()
    assert group[f"embeddings/{key}/rows"][:].tolist() == [0, 1, 2, 3]


def test_errors_of_the_installed_command_are_one_line(world: World) -> None:
    for run, arguments, code, says in [
        (cli, ["probe", "s.zarr", "--label", "nope"], 2, "there are rare, tissue, id, path"),
        (here, ["probe", "s.zarr", "--label", "rare"], 1, "class 'one' has 1 patient (1 images)"),
        (cli, ["info", "nowhere.zarr"], 1, "nowhere.zarr: no such store"),
    ]:
        done = run(*arguments, cwd=world.root)
        assert done.returncode == code
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ")
        assert says in done.stderr


def test_debug_shows_where_it_went_wrong(world: World) -> None:
    for arguments in (
        ["--debug", "info", "nowhere.zarr"],
        ["info", "nowhere.zarr", "--debug"],
    ):
        done = cli(*arguments, cwd=world.root)
        assert done.returncode == 1
        assert "Traceback (most recent call last)" in done.stderr
        assert "StoreError: nowhere.zarr: no such store" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--nope"], "No such option: --nope"),
        (
            ["--backbone", "statistic"],
            "statistics, timm; did you mean 'statistics'?",
        ),
        (["--backbone", "statistics@random"], "statistics has no weights"),
        (["--recipe", "nope"], "no recipe called 'nope'; known: mammography, plain, molina2025"),
        (["--resize", "nope"], "--resize is pad, squash, centre-crop; not 'nope'"),
        (["--precision", "nope"], "--precision is auto, float32, bfloat16; not 'nope'"),
        (["--patient-ids", "nope"], "--patient-ids is hash, keep; not 'nope'"),
        (["--column", "nonsense"], "--column takes ROLE=NAME, not 'nonsense'"),
        (["--column", "doctor=view"], "no role called 'doctor'; known: image, id, patient"),
        (["--column", "view=nope"], "no column 'nope' for view; there are file, image_id, patient"),
        (["--label", "nope"], "no label column 'nope'; there are file, image_id"),
        (["--label", "patient"], "label column 'patient' names the patient or exam"),
        (["--device", "nope"], "--device is auto, cpu, cuda, mps; not 'nope'"),
        (["--device", "cuda:9"], "--device cuda:9 cannot be used here"),
        (["--device", "cpu:x"], "--device cpu:x cannot be used here"),
        (["--batch-size", "-3"], "--batch-size"),
        (["--batch-size", "two"], "--batch-size"),
        (["--workers", "-2"], "--workers"),
        (["--root", "nowhere"], "nowhere: no such folder"),
        (["--pooling", "mean"], "statistics has no weights and no pooling to choose"),
        (["--store", "."], "--store is the path of a store, such as embeddings.zarr; not '.'"),
        (["--store", ".."], "--store is the path of a store, such as embeddings.zarr; not '..'"),
        (["--store", "/"], "--store is the path of a store, such as embeddings.zarr; not '/'"),
    ],
)
def test_a_wrong_option_of_extract_is_told_in_one_line(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    says: str,
) -> None:
    if says.startswith("--device cuda:9") and torch.cuda.device_count() > 9:
        pytest.skip("ten GPUs")
    monkeypatch.chdir(tmp_path)
    chosen = [] if "--backbone" in options else ["--backbone", "statistics"]
    code, error = refused(capsys, "extract", world.manifest, *chosen, *options)
    assert code == 2
    assert says in error
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["--version"], False) == 0
    assert capsys.readouterr().out == f"embedstore {importlib.metadata.version('embedstore')}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nope"], 2, "No such command 'nope'"),
        (["extract"], 2, "issing argument 'MANIFEST'"),
        (["extract", "nowhere.csv"], 2, "give at least one --backbone: statistics"),
        (["extract", "nowhere.csv", "--backbone", "statistics"], 2, "nowhere.csv: no such file"),
        (["info"], 2, "issing argument"),
        (["probe", "STORE"], 2, "'--label'"),
        (
            ["probe", "STORE", "--label", "tissue", "--head", "logistics"],
            2,
            "prototype, text, zeroshot; did you mean 'logistic'?",
        ),
        (
            ["probe", "STORE", "--label", "tissue", "--head", ""],
            2,
            "no head ''; there are knn, logistic",
        ),
        (
            ["probe", "STORE", "--label", "tissue", "--backbone", "nope"],
            2,
            "no embeddings of 'nope'; there are: statistics (",
        ),
        (["probe", "STORE", "--label", "id"], 2, "--label id says who an image is of"),
        (["probe", "STORE", "--label", "group"], 2, "--label group says who an image is of"),
        (["probe", "STORE", "--label", "tissue", "--folds", "1"], 2, "'--folds'"),
        (["probe", "STORE", "--label", "tissue", "--folds", "13"], 2, "13 folds of 12 patients"),
        (["probe", "STORE", "--label", "tissue", "--few-shot", "99"], 2, "fewer than 99"),
        (["probe", "STORE", "--label", "tissue", "--split", "column"], 2, "column split: is empty"),
        (["probe", "STORE", "--label", "tissue", "--set", "C=a"], 2, "C is 'a'; give a number"),
        (
            ["probe", "STORE", "--label", "tissue", "--sweep", "--grid", "C=a,b"],
            2,
            "C is 'a'; give a number above 0",
        ),
        (["probe", "STORE", "--label", "tissue", "--test-share", "2"], 2, "'--test-share'"),
        (["probe", "STORE", "--label", "tissue", "--test-share", "-1"], 2, "'--test-share'"),
        (["probe", "STORE", "--label", "tissue", "--repeats", "0"], 2, "'--repeats'"),
        (["probe", "STORE", "--label", "tissue", "--seed", "-1"], 2, "'--seed'"),
        (
            ["probe", "STORE", "--label", "tissue", "--order", "dense"],
            2,
            "the class order leaves out fatty",
        ),
        (["probe", "STORE", "--label", "rare"], 1, "class 'one' has 1 patient"),
        (["search", "STORE"], 2, "give one of --id, --exam, --image, --text, --vectors"),
        (["search", "STORE", "--id", "010", "-k", "0"], 2, "'-k'"),
        (["search", "STORE", "--id", "010", "-k", "100"], 2, "k is 100; there are 21 images"),
        (["search", "STORE", "--id", "nope"], 2, "no image 'nope' among the 23"),
        (["export", "STORE", "--format", "parquet", "--out", "d.CSV"], 2, "is of --format csv"),
        (["export", "STORE", "--format", "csv", "--out", "d.parquet"], 2, "of --format parquet"),
        (["audit", "STORE", "--label", "tissue", "--html", "a.txt"], 2, "ends in .html"),
        (["delete", "STORE", "--from", "no.txt"], 2, "no.txt: cannot be read: No such file or"),
        (["phantoms", "x", "--patients", "0"], 2, "'--patients'"),
        (["phantoms", "x", "--seed", "-1"], 2, "'--seed'"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, error = refused(capsys, *[world.store if a == "STORE" else a for a in arguments])
    assert found == code
    assert says in error


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["--help"], False) == 0
    assert "extract" in capsys.readouterr().out
    assert _run([], False) == 2
    output = capsys.readouterr()
    assert "extract" in output.out + output.err
    assert "error" not in output.err


@pytest.mark.parametrize(
    "command", [["phantoms", "PLACE", "--size", "64"], ["study", "STORE", "--label", "tissue"]]
)
def test_what_the_disk_refuses_is_told_with_its_path(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "below"
    given = {"PLACE": place, "STORE": world.store}
    words = [given.get(word, word) for word in command]
    words += ["--out", place] if command[0] == "study" else []
    code, error = refused(capsys, *words)
    assert code == 1
    assert re.match(rf"error: {re.escape(str(tmp_path / 'file'))}\S*: Not a directory\n$", error)


def test_what_the_disk_refuses_without_a_path_is_its_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(OSError, match="Errno 28") as caught, open("/dev/full", "wb", 0) as full:
        full.write(b"x")
    assert _tell_error(caught.value) == 1
    assert capsys.readouterr().err == "error: No space left on device\n"


def test_an_error_nobody_thought_of_is_one_line_too(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from sklearn.dummy import DummyClassifier\n"
        "class Broken(DummyClassifier):\n"
        "    def fit(self, X, y):\n"
        "        raise RuntimeError('no such luck')\n"
    )
    head = f"{tmp_path / 'mine.py'}:Broken"
    code = _run(["probe", str(world.store), "--label", "tissue", "--head", head], False)
    output = capsys.readouterr()
    assert code == 1
    assert output.err.count("\n") == 1
    assert "RuntimeError: no such luck" in output.err
    assert re.match(r"error: \w+Error: .*; run again with --debug to see where\n", output.err)


def test_several_problems_of_a_manifest_stand_under_one_error(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image": "gone.png", "id": "1"}, {"image": "", "id": "1"}]
    write_table(tmp_path / "m.csv", rows)
    arguments = ["extract", str(tmp_path / "m.csv"), "--backbone", "statistics"]
    assert _run([*arguments, "--store", str(tmp_path / "s.zarr")], False) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: the manifest has 3 problems:",
        "  1 rows name no image: row 2 (empty)",
        "  2 rows repeat an id: row 1 (1), row 2 (1)",
        "  1 files are missing: row 1 (gone.png)",
    ]
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("command", ["extract", "probe", "info", "search"])
@pytest.mark.parametrize("kind", ["file", "folder", "other zarr"])
def test_what_is_no_store_is_refused_and_left_untouched(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    path = tmp_path / "thing"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    else:
        zarr.create_array(path, shape=(3,), dtype="int64")
    files = [path, *path.rglob("*")]
    before = {p: p.read_bytes() if p.is_file() else None for p in files}
    arguments = {
        "extract": [world.manifest, "--backbone", "statistics", "--patient-ids", "keep", "--store"],
        "probe": ["--label", "tissue"],
        "info": [],
        "search": ["--id", "010"],
    }[command]
    assert _run([command, *map(str, arguments), str(path)], False) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {path}: ")
    assert "store" in error or "embedstore did not make" in error
    assert [path, *path.rglob("*")] == files
    assert {p: p.read_bytes() if p.is_file() else None for p in files} == before


def test_names_are_printed_as_they_are(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Square brackets are markup to rich, ``:x:`` is an emoji, and long lines are wrapped."""
    deep = tmp_path / "[red]:x: a folder" / ("long-" * 30)
    (deep / "[bold]").mkdir(parents=True)
    (deep / "[bold]" / "no image.png").write_text("no image")
    rows = [r | {"[b]label": r["view"]} for r in world.rows[:2]]
    for row in rows:
        shutil.copy(world.root / "films" / row["file"], deep)
    write_table(deep / "m.csv", [*rows, rows[0] | {"file": "[bold]/no image.png", "image_id": "x"}])
    store = deep / "s[1].zarr"
    arguments = ["extract", str(deep / "m.csv"), "--backbone", "statistics", "--store", str(store)]
    assert _run(arguments, False) == 0
    output = capsys.readouterr()
    assert f"\n{store}: 3 samples, " in output.out
    assert f"failed: {deep / '[bold]' / 'no image.png'}: decode: " in output.err
    assert "labels tissue, rare, [b]label\n" in output.err
    assert _run(["info", str(store)], False) == 0
    assert "[b]label" in capsys.readouterr().out
    include = ["--id", "000", "-k", "1", "--include-same-patient"]
    assert _run(["search", str(store), *include], False) == 0
    assert "[b]label" in capsys.readouterr().out


def test_phantoms_print_the_manifest_they_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / ("long-" * 30)
    assert _run(["phantoms", str(folder), "--patients", "1", "--size", "64"], False) == 0
    manifest = Path(capsys.readouterr().out.removesuffix("\n"))
    assert manifest.parent == folder
    with manifest.open(newline="") as handle:
        assert len(list(csv.DictReader(handle))) == 4


def test_search_asks_which_of_several_backbones(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "two.zarr")
    for recipe in ("mammography", "plain"):
        arguments = ["extract", str(world.manifest), "--backbone", "statistics"]
        assert _run([*arguments, "--recipe", recipe, "--store", store], False) == 0
    capsys.readouterr()
    code, error = refused(capsys, "search", store, "--id", "010")
    assert code == 2
    assert "choose one with --backbone" in error
    code, error = refused(capsys, "search", store, "--id", "010", "--backbone", "statistics")
    assert code == 2
    assert "2 sets of embeddings of 'statistics'" in error
    keys = list(nodes(store)["embeddings"].group_keys())
    for key in keys:
        assert _run(["search", store, "--id", "010", "--backbone", key[:6]], False) == 0


def test_a_store_of_failures_only_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.png").write_text("no image")
    store = str(tmp_path / "s.zarr")
    arguments = ["extract", str(tmp_path / "films"), "--backbone", "statistics", "--store", store]
    assert _run(arguments, False) == 1
    said = capsys.readouterr()
    assert "0 new, 0 already there, 1 failed" in said.out
    assert "error: none of the 1 images could be used" in said.err
    for options in ([], ["--backbone", "statistics"]):
        for command in (["search", store, "--id", "a"], ["probe", store, "--label", "class"]):
            code, error = refused(capsys, *command, *options)
            assert code == 1
            assert "holds no vectors" in error


def test_progress_off_a_terminal_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 104.0, 112.0, 115.0, 120.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    file = io.StringIO()
    with progress(Console(file=file, force_terminal=False), "extracting") as show:
        show(8, 100)  # after 4 s: too soon
        show(24, 100)  # after 12 s
        show(30, 100)  # 3 s later: too soon
        show(100, 100)  # the last is always told
    assert file.getvalue().splitlines() == [
        "extracting: 24 of 100, 2.0 images/s, 38 s left",
        "extracting: 100 of 100, 5.0 images/s, 0 s left",
    ]


def test_progress_on_a_terminal_is_a_bar() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system=None)
    with progress(console, "extracting") as show:
        show(0, 40)
        show(10, 40)
        show(40, 40)
    last = file.getvalue()
    assert "extracting" in last
    assert "━" * 20 in last
    assert "40/40" in last
    assert "images/s" in last

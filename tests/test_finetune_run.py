"""``embedstore finetune`` as it is typed: what it scores, leaves, survives and refuses."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.numpy import load_file
from scipy.special import expit, softmax
from sklearn.metrics import accuracy_score, cohen_kappa_score

from embedstore.backbones import load_backbone
from embedstore.cli import _run
from embedstore.finetune import Hardware, Job, Settings, finetune, keeping
from embedstore.finetune.tuner import Tuner
from embedstore.protocol import Protocol
from embedstore.store import Store
from embedstore.types import Spec

SCRIPT = Path(sys.executable).with_name("embedstore")
VIT = "timm:test_vit@random"  # neither batch norm nor dropout
CLASSES = ("A", "B", "C", "D")
LABEL = ("--label", "density", "--order", ",".join(CLASSES))
QUIET = ("--device", "cpu", "--precision", "float32", "--logger", "none")
RANDOM = ("--set", "start=random")  # to fit a probe takes longer than to learn
ALONE = (*RANDOM, "--against", "none")
# so steep that the last epoch is not the best
STEEP = ("--epochs", 3, "--batch", 8, "--rate", 3e-3, "--set", "schedule=constant", *RANDOM)
AVERAGED = ("--epochs", 2, "--batch", 8, "--set", "ema=0.6", "--set", "mixup=0.4", *ALONE)
BRIEF = ("--epochs", 1, "--batch", 16, *ALONE)
BESIDE = ("--against", "knn", "--against", "statistics/knn")
STEPS = 6  # of an epoch by 8
KILLED = ("killed-1", "killed-2")  # after so many epochs
SENTENCES = {
    "A": ("the breasts are almost entirely fatty", "BI-RADS density a"),
    "B": ("scattered fibroglandular density",),
    "C": ("heterogeneously dense breasts", "BI-RADS density c", "density category c"),
    "D": ("the breasts are extremely dense",),
}


def told(*words: object) -> tuple[int, str, str]:
    """Run a command here; return its exit code and what it said."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = _run([str(w) for w in words], False)
    return code, out.getvalue(), err.getvalue()


def done(*words: object) -> str:
    """Run a command that ends well; return what it answered."""
    code, out, err = told(*words)
    assert code == 0, err
    return out


def refused(code: int, *words: object) -> str:
    """Run a command that is refused in one line, which is returned."""
    found, out, err = told(*words)
    assert (found, out) == (code, ""), out + err
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert "--debug" not in line  # an error that nobody thought of
    return line


class Films:
    """Phantoms of 20 patients, five a class, in a store with pictures, and a split of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.split = folder, folder / "s.zarr", folder / "split.json"
        self.manifest = folder / "films" / "manifest.csv"
        done("phantoms", folder / "films", "--patients", 20, "--size", 96)
        table = read_table(self.manifest)
        write_table(self.manifest, [row | {"site": "one"} for row in table])
        three = [w for n in (VIT, "phantom-clip", "statistics") for w in ("--backbone", n)]
        keep = ("--keep-pixels", "--patient-ids", "keep")
        done("extract", self.manifest, "--store", self.path, *three, *keep)
        parts = ("--test-share", 0.2, "--validation-share", 0.25)
        holdout = ("--label", "density", "--kind", "holdout", "--out", self.split)
        done("split", self.path, *holdout, *parts)
        self.store = Store.open(self.path)
        self.told = json.loads(self.split.read_text())
        self.fold = dict(zip(self.told["ids"], self.told["repeats"][0]["fold"], strict=True))

    def words(self, out: Path, *more: object, backbone: str = VIT) -> tuple[object, ...]:
        """Type the command; later options take the place of earlier ones."""
        return ("finetune", self.path, "--backbone", backbone, *LABEL, *QUIET, "--out", out, *more)

    def by_split(self, out: Path, *more: object, backbone: str = VIT) -> tuple[object, ...]:
        return self.words(out, "--split", self.split, *more, backbone=backbone)

    def spec(self, name: str) -> Spec:
        return self.store.find(name)

    def answered(self) -> list[str]:
        """Ids of what a fine-tune by the split answers for: the tested, then the validation's."""
        ids = self.store.read(self.spec("test_vit@random")).ids.tolist()
        return [i for side in (0, -2) for i in ids if self.fold[i] == side]

    def pictures(self, name: str, ids: Sequence[str]) -> torch.Tensor:
        """Normalised tensors, (n, 3, H, W)."""
        data = self.store.dataset(self.spec(name), pixels=True)
        places = {name: n for n, name in enumerate(data.ids.tolist())}
        return data.batch(np.array([places[i] for i in ids]))

    def column(self, name: str, ids: Sequence[str]) -> list[str]:
        of = dict(zip(self.store.column("id").tolist(), self.store.column(name), strict=True))
        return [str(of[i]) for i in ids]


def read_table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def write_table(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", newline="") as handle:
        table = csv.DictWriter(handle, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Let nothing depend on how many cores are free."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films(tmp_path_factory.mktemp("finetune"))


@pytest.fixture(scope="module")
def whole(films: Films) -> tuple[Path, str]:
    """A run that nobody disturbed, and what it printed."""
    run = films.folder / "whole run"
    return run, done(*films.by_split(run, *STEEP, *BESIDE))


def test_the_command_to_go_on_with_can_be_pasted(whole: tuple[Path, str]) -> None:
    run, printed = whole
    (command,) = re.findall(r"saved: .*; `(.*?)`", printed)
    assert shlex.split(command)[-2:] == ["--backbone", str(run)]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the steps that are learnt, as they are."""
    seen: list[int] = []
    real = Tuner.training_step

    def training_step(self: Tuner, batch: Any, number: int) -> None:
        seen.append(self.global_step)
        real(self, batch, number)

    monkeypatch.setattr(Tuner, "training_step", training_step)
    return seen


def fold_of(run: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return json.loads((run / "fold.json").read_text()), load_file(run / "fold.safetensors")


def by_timm(run: Path, pictures: torch.Tensor) -> np.ndarray:
    """(n, d) by timm's own loader."""
    model = timm.create_model(f"local-dir:{run}", pretrained=True, num_classes=0).eval()
    with torch.inference_mode():
        return model(pictures).double().numpy()


def linear(run: Path, vectors: np.ndarray) -> np.ndarray:
    """(n, k) by the last layer that the run kept."""
    kept = fold_of(run)[1]
    return softmax(vectors @ kept["layer.linear.weight"].T + kept["layer.linear.bias"], axis=1)


def check_same(run: Path, other: Path) -> None:
    """Two runs came to the same curve, the same best epoch and the same answers."""
    (a, mine), (b, theirs) = fold_of(run), fold_of(other)
    assert [set(row) for row in a["curve"]] == [set(row) for row in b["curve"]]
    for key in ("epoch", "loss", "validation_loss"):
        np.testing.assert_allclose(
            [row[key] for row in a["curve"]], [row[key] for row in b["curve"]], atol=1e-5
        )
    for key in ("best", "steps", "planned", "cut"):
        assert a[key] == b[key]
    np.testing.assert_allclose(mine["answers"], theirs["answers"], atol=1e-5)


# what is scored


def test_the_report_is_of_the_splits_tested_images_and_scikit_learn_agrees(
    films: Films, whole: tuple[Path, str]
) -> None:
    run, _ = whole
    report = json.loads((run / "report.json").read_text())
    ids = [i for i in films.answered() if films.fold[i] == 0]
    assert report["n_test"] == len(ids) == 16
    assert report["n_patients"] == len(set(films.column("group", ids))) == 4
    truth = [CLASSES.index(c) for c in films.column("density", ids)]
    answers = fold_of(run)[1]["answers"]
    assert len(answers) == len(films.answered())
    said = answers[: len(ids)].argmax(axis=1)
    metrics = report["metrics"]
    assert metrics["accuracy"]["value"] == pytest.approx(accuracy_score(truth, said))
    kappa = cohen_kappa_score(truth, said, weights="quadratic")
    assert metrics["quadratic_kappa"]["value"] == pytest.approx(kappa)
    for score in metrics.values():
        assert score["low"] <= score["value"] <= score["high"]
        assert set(score["floors"]) == {"majority", "prior", "random"}
    assert metrics["accuracy"]["floors"]["majority"] == pytest.approx(4 / 16)


def test_it_learns_from_the_splits_training_side_and_chooses_by_its_validation_side(
    films: Films, whole: tuple[Path, str]
) -> None:
    told, _ = fold_of(whole[0])
    sides = list(films.fold.values())
    assert told["learnt_from"] == sides.count(-1) == 8 * STEPS
    assert told["chosen_by"] == sides.count(-2) == 16
    losses = [row["validation_loss"] for row in told["curve"]]
    assert told["best"] == int(np.argmin(losses))
    # the weights kept are those of that epoch
    ids = films.answered()[16:]
    truth = [CLASSES.index(c) for c in films.column("density", ids)]
    answers = fold_of(whole[0])[1]["answers"][16:]
    loss = -np.log(answers[np.arange(len(ids)), truth]).mean()
    assert loss == pytest.approx(min(losses), abs=1e-4)


def test_probe_by_the_same_split_tests_the_same_and_the_difference_is_printed(
    films: Films, whole: tuple[Path, str], steps: list[int]
) -> None:
    run, printed = whole
    by = ("--label", "density", "--split", films.split, "--head", "knn")
    (probe,) = json.loads(done("probe", films.path, "--backbone", "test_vit@random", *by, "--json"))
    found = json.loads(done(*films.by_split(run, *STEEP, *BESIDE, "--json")))
    assert not steps  # nothing is learnt twice
    names = [(r["spec"]["backbone"], r["probe"]) for r in found]
    vit = "test_vit@random"
    assert names == [(vit, "finetune"), (vit, "knn"), ("statistics", "knn")]
    for key in ("split_fingerprint", "n_test", "n_train", "n_patients", "n_train_patients"):
        assert {r[key] for r in found} == {probe[key]}, key
    assert probe["split_fingerprint"] == films.told["fingerprint"]
    assert found[0] == json.loads((run / "report.json").read_text())
    assert [len(r["chosen"]) for r in found] == [0, 1, 1]  # on the training side of the one fold
    _, _, below = printed.partition("difference to test_vit@random/knn")
    for metric in ("accuracy", "balanced_accuracy", "auroc", "quadratic_kappa"):
        more = [found[n]["metrics"][metric]["value"] for n in (0, 2)]
        less = found[1]["metrics"][metric]["value"]
        for value in more:
            assert f"{value - less:+.3f}" in below, metric


# what it leaves is a backbone


def test_the_run_is_a_backbone_whose_saved_probe_gives_its_answers(
    films: Films, whole: tuple[Path, str], tmp_path: Path
) -> None:
    run, store = whole[0], tmp_path / "copy.zarr"
    shutil.copytree(films.path, store)
    again = ("--store", store, "--backbone", run, "--patient-ids", "keep")
    assert "80 new" in done("extract", films.manifest, *again, "--precision", "float32")
    (said,) = (n for n in Store.open(store).notes(run.name) if "fine-tuned for density" in n)
    assert "only patients it has not learnt from" in said
    rows = json.loads(done("predict", run / "probe", store, "--json"))
    fresh = json.loads(done("predict", run / "probe", films.manifest, "--json"))
    assert [row["answer"] for row in fresh] == [row["answer"] for row in rows]
    found = {row["id"]: [row["probabilities"][c] for c in CLASSES] for row in rows}
    temperature = json.loads((run / "probe" / "probe.json").read_text())["temperature"]
    answers = fold_of(run)[1]["answers"]
    tempered = softmax(np.log(answers) / temperature, axis=1)
    np.testing.assert_allclose([found[i] for i in films.answered()], tempered, atol=1e-4)
    # the vectors are timm's own, by timm's own loader
    there = Store.open(store).read(run.name)
    wanted = by_timm(run, films.pictures("test_vit@random", there.ids.tolist()))
    np.testing.assert_allclose(there.vectors, wanted, atol=1e-4)
    before = films.store.read(films.spec("test_vit@random")).vectors
    assert np.abs(there.vectors - before).max() > 1e-2


def test_the_answers_are_those_of_the_exported_weights(
    films: Films, whole: tuple[Path, str]
) -> None:
    run = whole[0]
    vectors = by_timm(run, films.pictures("test_vit@random", films.answered()))
    np.testing.assert_allclose(fold_of(run)[1]["answers"], linear(run, vectors), atol=1e-4)


def test_so_are_those_of_an_ordinal_run_with_adapters(films: Films, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done(*films.by_split(run, *BRIEF, "--objective", "ordinal", "--lora", 4, "--rate", 1e-2))
    vectors = by_timm(run, films.pictures("test_vit@random", films.answered()))
    (probe,) = run.glob("probe/*.safetensors")
    head = load_file(probe)
    rising = np.sort(head["thresholds_"])
    np.testing.assert_array_equal(head["thresholds_"], rising)
    below = expit(rising - (vectors @ head["coef_"])[:, None])
    wanted = np.diff(below, axis=1, prepend=0, append=1)
    np.testing.assert_allclose(fold_of(run)[1]["answers"], wanted, atol=1e-4)
    plain = timm.create_model("test_vit", num_classes=0)
    assert set(load_file(run / "model.safetensors")) == set(plain.state_dict())


def test_a_contrastive_run_is_an_image_text_model_whose_sentences_give_its_answers(
    films: Films, tmp_path: Path
) -> None:
    run, clip = tmp_path / "run", "phantom-clip"
    said = [w for c, texts in SENTENCES.items() for t in texts for w in ("--prompt", f"{c}={t}")]
    how = ("--objective", "contrastive", "--set", "tune_text=true", "--rate", 1e-3)
    done(*films.by_split(run, *BRIEF, *how, *said, backbone=clip))
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": str(copy), "hf_tokenizer_name": str(copy)}
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.create_model(f"local-dir:{copy}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{copy}")
    pictures = films.pictures(clip, films.answered())
    with torch.inference_mode():
        seen = model.encode_image(pictures, normalize=True).double().numpy()
        texts = [
            model.encode_text(tokenizer(list(SENTENCES[c])), normalize=True).mean(0).double()
            for c in CLASSES
        ]
    classes = np.stack([t / np.linalg.norm(t) for t in texts])
    answers = fold_of(run)[1]["answers"]
    scale = float(model.logit_scale.detach().exp())
    np.testing.assert_allclose(answers, softmax(scale * seen @ classes.T, axis=1), atol=1e-4)
    untuned = load_backbone(clip)
    with torch.inference_mode():
        before = untuned.encode_text(["BI-RADS density a"])
        now = model.encode_text(tokenizer(["BI-RADS density a"]))
    assert (before - now).abs().max() > 1e-3
    # and by ours: the run's own text side through probe's zero-shot head
    store = tmp_path / "copy.zarr"
    shutil.copytree(films.path, store)
    again = ("--store", store, "--backbone", run, "--patient-ids", "keep")
    done("extract", films.manifest, *again, "--precision", "float32")
    rows = json.loads(done("predict", run / "probe", store, "--json"))
    temperature = json.loads((run / "probe" / "probe.json").read_text())["temperature"]
    tempered = softmax(np.log(answers) / temperature, axis=1)
    found = {row["id"]: [row["probabilities"][c] for c in CLASSES] for row in rows}
    np.testing.assert_allclose([found[i] for i in films.answered()], tempered, atol=1e-4)


def test_each_image_of_two_folds_is_answered_for_by_the_model_that_did_not_see_it(
    films: Films, tmp_path: Path
) -> None:
    spec = films.spec("test_vit@random")
    load = partial(load_backbone, VIT, spec.recipe)
    settings = Settings(epochs=1, batch=16, rate=5e-3, validation=0, start="random")
    hardware = Hardware("cpu", precision="float32", logger="none")
    job = Job(films.store, load, spec, "density", settings, hardware)
    trial = finetune(job, Protocol(folds=2, order=CLASSES), tmp_path / "run")
    (fold,), (run,) = trial.answered.fold, trial.answered.runs
    assert sorted(trial.answered.ids.tolist()) == sorted(films.fold)
    assert set(fold.tolist()) == {0, 1}
    assert trial.report.n_test == 80
    for patient in set(trial.answered.columns["patient"].tolist()):
        assert len(set(fold[trial.answered.columns["patient"] == patient].tolist())) == 1
    assert not list(tmp_path.rglob("*.ckpt"))
    pictures = films.pictures("test_vit@random", trial.answered.ids.tolist())
    answers = []
    for k in (0, 1):
        own = tmp_path / "run" / f"fold-{k}"
        assert (own / "probe" / "probe.json").is_file()
        answers.append(linear(own, by_timm(own, pictures)))
    np.testing.assert_allclose(run, np.where(fold[:, None] == 0, *answers), atol=1e-4)
    assert np.abs(answers[0] - answers[1]).max() > 1e-2
    truth = np.array([CLASSES.index(c) for c in films.column("density", trial.answered.ids)])
    accuracy = trial.report.metrics["accuracy"].value
    assert accuracy == pytest.approx(accuracy_score(truth, run.argmax(axis=1)))


# what breaks it off


def child(words: Sequence[str], log: Path, **how: Any) -> int:
    """Run the command in a child of this process; return its exit code, -9 where it was killed."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 99
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        disturb(**how)
        code = _run(list(words), False)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)


def disturb(save: int = 0, die: int = 0, largest: int = 0) -> None:
    """Save after a step, be killed in another, and write no larger file."""
    real = Tuner.training_step

    def training_step(self: Tuner, batch: Any, number: int) -> None:
        real(self, batch, number)
        if save:
            keeping._SECONDS = -1.0 if self.global_step == save else 1e9
        if self.global_step == die:
            os.kill(os.getpid(), signal.SIGKILL)

    Tuner.training_step = training_step  # type: ignore[method-assign]
    if largest:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def broken_off(folder: str, jobs: dict[str, list[str]]) -> dict[str, int]:
    """Break runs off, each in a process of its own."""
    here = Path(folder)
    # two steps after the checkpoint of an epoch
    codes = {
        name: child(jobs[name], here / f"{name}.log", die=STEPS * epoch + 2)
        for epoch, name in enumerate(KILLED, start=1)
    }
    # the last checkpoint is of the third step of the second epoch
    codes["middle"] = child(jobs["middle"], here / "middle.log", save=STEPS + 3, die=STEPS + 5)
    for name in ("full", "spare"):
        shutil.copytree(here / KILLED[0], here / name)
    size = (here / "spare" / "last.ckpt").stat().st_size
    codes["full"] = child(jobs["full"], here / "full.log", largest=size - 1000)
    return codes


@pytest.fixture(scope="module")
def broken(films: Films) -> dict[str, int]:
    """Runs that were broken off, by their exit codes: children of a process without threads."""
    names = dict.fromkeys((*KILLED, "full"), STEEP) | {"middle": AVERAGED}
    jobs = {n: [str(w) for w in films.by_split(films.folder / n, *s)] for n, s in names.items()}
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import json, test_finetune_run as t, embedstore.finetune.run\n"
        "print(json.dumps(t.broken_off(sys.argv[1], json.loads(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", code, str(films.folder), json.dumps(jobs)]
    alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **alone})
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def said_by(films: Films, name: str) -> str:
    return (films.folder / f"{name}.log").read_text()


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_killed_run_goes_on_at_its_last_epoch_and_ends_as_one_never_killed(
    films: Films,
    broken: dict[str, int],
    whole: tuple[Path, str],
    steps: list[int],
    epochs: int,
) -> None:
    name = KILLED[epochs - 1]
    assert broken[name] == -signal.SIGKILL, said_by(films, name)
    run = films.folder / name
    assert (run / "last.ckpt").exists()
    assert not (run / "fold.json").exists()
    done(*films.by_split(run, *STEEP, "--against", "none"))
    assert steps == list(range(epochs * STEPS, 3 * STEPS))
    check_same(run, whole[0])
    # one at least is killed after its best epoch, which must be remembered
    assert fold_of(run)[0]["best"] < 2
    assert not list(run.glob("*.ckpt"))


def test_so_does_one_whose_folder_was_moved(
    films: Films, broken: dict[str, int], whole: tuple[Path, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(films.folder / "spare", run)
    done(*films.by_split(run, *STEEP, "--against", "none"))
    check_same(run, whole[0])


def test_a_run_broken_within_an_epoch_goes_on_there_with_averages_and_mixing(
    films: Films, broken: dict[str, int], steps: list[int], tmp_path: Path
) -> None:
    assert broken["middle"] == -signal.SIGKILL, said_by(films, "middle")
    run = films.folder / "middle"
    done(*films.by_split(run, *AVERAGED))
    assert steps == list(range(STEPS + 3, 2 * STEPS))
    done(*films.by_split(tmp_path / "never", *AVERAGED))
    check_same(run, tmp_path / "never")


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(
    films: Films,
    broken: dict[str, int],
    whole: tuple[Path, str],
    steps: list[int],
) -> None:
    said = said_by(films, "full")
    assert broken["full"] == 1, said
    assert "Traceback" not in said
    (line,) = said.splitlines()
    assert line.startswith("error: ")
    assert "last.ckpt" in line
    assert "make room and run the same command again" in line
    run = films.folder / "full"
    # of plain tensors, so nothing is unpickled
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == STEPS
    torch.load(run / "best.ckpt", weights_only=True)
    assert not [p for p in run.rglob(".writing-*") if p.is_dir()]
    done(*films.by_split(run, *STEEP, "--against", "none"))
    assert steps == list(range(STEPS, 3 * STEPS))
    check_same(run, whole[0])


def test_a_damaged_checkpoint_and_one_of_another_model_are_one_line_each(
    films: Films, broken: dict[str, int], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(films.folder / "spare", run)
    good = (run / "last.ckpt").read_bytes()
    for size in (0, len(good) // 2, len(good) - 10):
        (run / "last.ckpt").write_bytes(good[:size])
        line = refused(1, *films.by_split(run, *STEEP))
        assert "a checkpoint is damaged; give another --out, or remove" in line, size
    (run / "last.ckpt").write_bytes(good)
    other = torch.load(run / "last.ckpt", weights_only=True)
    strange = timm.create_model("test_convnext", num_classes=0).state_dict()
    other["state_dict"] = {f"learner.side.{k}": v for k, v in strange.items()}
    torch.save(other, run / "last.ckpt")
    line = refused(1, *films.by_split(run, *STEEP))
    assert "a checkpoint is of another model; give another --out, or remove" in line
    assert str(run) in line


def test_time_that_is_up_within_the_first_epoch_leaves_a_run_that_says_so(
    films: Films, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    much = ("--epochs", 500, "--batch", 8, *ALONE)
    done(*films.by_split(run, *much, "--max-minutes", 1e-5))
    report, (told, kept) = json.loads((run / "report.json").read_text()), fold_of(run)
    assert "1 of 1 runs ended by --max-minutes before their last epoch" in report["notes"]
    assert told["cut"] is True
    assert 1 <= told["steps"] < STEPS
    np.testing.assert_allclose(kept["answers"].sum(axis=1), 1, atol=1e-6)


def test_a_cut_epoch_does_not_take_the_validation_loss_of_the_one_before(
    films: Films, tmp_path: Path
) -> None:
    much = ("--epochs", 500, "--batch", 8, *ALONE, "--set", "patience=0")
    done(*films.by_split(tmp_path / "run", *much, "--max-minutes", 0.02))
    told, kept = fold_of(tmp_path / "run")
    assert told["cut"] is True
    losses = [row["validation_loss"] for row in told["curve"] if "validation_loss" in row]
    assert len(set(losses)) == len(losses) == math.ceil(told["steps"] / STEPS)
    ids = films.answered()[16:]
    truth = [CLASSES.index(c) for c in films.column("density", ids)]
    loss = -np.log(kept["answers"][16:][np.arange(16), truth]).mean()
    assert loss == pytest.approx(min(losses), abs=1e-4)


def test_two_processes_learn_what_one_does_and_one_of_them_reports(
    films: Films, tmp_path: Path
) -> None:
    # batches of 10 and 9: the parts of a batch are of unequal size, too
    how = ("--epochs", 2, "--batch", 10, "--set", "augment=none", *ALONE, "--json")
    one, two = tmp_path / "one", tmp_path / "two"
    done(*films.by_split(one, *how))
    words = films.by_split(two, *how, "--devices", 2, "--strategy", "ddp")
    clean = {k: v for k, v in os.environ.items() if k not in {"FORCE_COLOR", "PYTHONWARNINGS"}}
    run = subprocess.run(
        [SCRIPT, *map(str, words)],
        env=clean | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    (report,) = json.loads(run.stdout)
    assert report["n_test"] == 16
    for key in ("loss", "validation_loss"):
        curves = [[row[key] for row in fold_of(r)[0]["curve"]] for r in (one, two)]
        np.testing.assert_allclose(*curves, atol=1e-4, err_msg=key)
    np.testing.assert_allclose(fold_of(one)[1]["answers"], fold_of(two)[1]["answers"], atol=1e-3)


# what is refused


def test_a_folder_of_another_run_is_refused_by_the_name_of_what_differs(
    films: Films, whole: tuple[Path, str]
) -> None:
    run = whole[0]
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    for more, name, there, now in (
        (("--epochs", 5), "epochs", "3", "5"),
        (("--set", "layer_decay=0.5"), "layer_decay", "0.75", "0.5"),
        (("--label", "laterality", "--order", "L,R"), "label", "'density'", "'laterality'"),
    ):
        line = refused(2, *films.by_split(run, *STEEP, *more))
        assert f"holds another run, whose {name} is {there}, not {now}" in line
    line = refused(2, *films.by_split(run, *STEEP, backbone="phantom-clip"))
    assert "whose backbone is 'test_vit@random', not 'phantom-clip'" in line
    line = refused(2, *films.words(run, *STEEP))  # without --split
    assert "whose split is" in line
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p in before} == before


def test_a_folder_with_strange_files_is_refused_and_left_as_it_is(
    films: Films, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for source in (films.path, films.manifest):
        words = ("finetune", source, "--backbone", VIT, *LABEL, *QUIET, "--out", tmp_path)
        assert "holds 'thesis.tex'; give a folder of its own" in refused(2, *words, *BRIEF)
        assert [p.name for p in tmp_path.iterdir() if p.name[0] != "."] == ["thesis.tex"]
    file = tmp_path / "thesis.tex"
    assert "thesis.tex" in refused(2, *films.by_split(file, *BRIEF))
    assert file.read_text() == "mine"


def test_a_split_that_leaks_is_refused_and_with_leave_the_report_says_so(
    films: Films, tmp_path: Path
) -> None:
    leaky, run = tmp_path / "leaky.json", tmp_path / "run"
    by = ("--label", "density", "--kind", "holdout", "--by", "image")
    done("split", films.path, *by, "--out", leaky)
    # by the key of the vectors, whose model is then named apart
    key = films.spec("test_vit@random").key[:8]
    words = films.words(run, "--split", leaky, *BRIEF, "--weights", VIT, backbone=key)
    line = refused(2, *words)
    assert "the split leaks" in line
    assert "--allow-leak" in line
    assert not (run / "run.json").exists()
    assert "LEAK" in done(*words, "--allow-leak")
    patients = re.match(r"(\d+) patients?", json.loads((run / "report.json").read_text())["leak"])
    assert patients is not None
    told = json.loads(leaky.read_text())
    groups = np.array(films.column("group", told["ids"]))
    fold = np.array(told["repeats"][0]["fold"])
    both = set(groups[fold == 0]) & set(groups[fold == -1])
    assert int(patients[1]) == len(both)


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--label", "nonsense", "--order", ""), 2, ("nonsense", "density")),
        (("--label", "site", "--order", ""), 1, ("two classes", "'one'")),
        (("--objective", "contrastive"), 1, ("has no text side", "biomedclip")),
        (("--recipe", "molina2025"), 2, ("--recipe molina2025 needs", "--keep-pixels")),
        (("--recipe", "nonsense"), 2, ("nonsense", "default, molina2025")),
        (("--set", "rate=fast"), 2, ("rate=fast", "a number")),
        (("--freeze", 1000), 2, ("freeze is 1000",)),
        (("--split", "nowhere.json"), 2, ("nowhere.json: no such split",)),
        (("--folds", 2, "--split", "nowhere.json"), 2, ("--folds",)),
        (("--metric", "nonsense"), 2, ("nonsense",)),
        (("--against", "nonsense"), 2, ("nonsense",)),
        (("--logger", "nonsense"), 2, ("--logger nonsense", "tensorboard")),
        pytest.param(
            ("--logger", "wandb"),
            2,
            ("embedstore[wandb]",),
            marks=pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is here"),
        ),
        (("--precision", "float8"), 2, ("--precision", "float8")),
        (("--backbone", "convnext_tiny"), 2, ("no vectors of convnext_tiny", "--keep-pixels")),
        (("--backbone", VIT[:-1]), 2, ("there are ", "; did you mean 'test_vit@random'?")),
        (("--backbone", "statistics"), 2, ("statistics has no weights to fine-tune",)),
        (("--backbone", "phantom-clip", "--objective", "contrastive"), 2, ("--prompt A=TEXT",)),
        (("--weights", "timm:test_convnext@random"), 1, ("cannot be mixed",)),
    ],
)
def test_what_cannot_be_is_one_line(
    films: Films, tmp_path: Path, more: tuple[object, ...], code: int, words: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    line = refused(code, *films.words(run, *BRIEF[:4], *RANDOM, *more))
    for word in words:
        assert word in line
    # a right command may follow in the same place
    assert not (run / "run.json").exists()


def test_a_store_without_pictures_is_refused_by_the_option_that_keeps_them(
    films: Films, tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    done("extract", films.manifest, "--store", store, "--backbone", VIT)
    words = ("finetune", store, "--backbone", VIT, *LABEL, *QUIET, "--out", tmp_path / "run")
    assert "--keep-pixels" in refused(1, *words, *BRIEF)


def test_a_table_is_extracted_into_the_run_once_and_what_cannot_be_read_is_named(
    films: Films, steps: list[int], tmp_path: Path
) -> None:
    """By the study's recipe, whose pictures and schedule are its own."""
    rows = read_table(films.manifest)
    shutil.copytree(films.manifest.parent, tmp_path / "films")
    broken = tmp_path / "films" / rows[5]["image"]
    broken.write_bytes(broken.read_bytes()[:200])
    run = tmp_path / "run"
    where = ("finetune", tmp_path / "films" / "manifest.csv", "--backbone", VIT, "--out", run)
    words = (*where, *LABEL, "--device", "cpu", "--recipe", "molina2025", "--epochs", 2)
    # beside the logistic probe, as by default
    code, out, err = told(*words)
    assert code == 0, err
    (line,) = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert broken.name in line
    assert "79 new" in out + err
    assert "difference to test_vit@random/logistic" in out
    store = Store.open(run / "images.zarr")
    (spec,) = store.specs.values()
    assert spec.recipe.name == "molina2025"
    assert (spec.recipe.resize, set(spec.recipe.mean), set(spec.recipe.std)) == ("squash", {0}, {1})
    told_of, _ = fold_of(run)
    report = json.loads((run / "report.json").read_text())
    assert told_of["learnt_from"] + told_of["chosen_by"] + report["n_test"] == 79
    assert report["parameters"]["schedule"] == "plateau"
    assert list((run / "tensorboard").glob("events.*"))
    # nothing twice
    learnt, before = len(steps), (run / "fold.json").stat().st_mtime_ns
    code, out, err = told(*words, "--against", "none", "--json")
    assert code == 0, err
    assert len(steps) == learnt
    assert (run / "fold.json").stat().st_mtime_ns == before
    assert json.loads(out) == [report]
    assert "0 new, 79 already there" in err

"""A backbone fine-tuned on each training side of a split, judged as any head is.

::

    RUN/
      run.json              what makes it this run and no other
      report.json           the scores
      config.json, …        the model in its library's own format: a backbone again
      probe/                its last layer, as `probe --save` saves a head on those vectors
      fold.json             losses by epoch
      fold.safetensors      its answers, and its last layer
      last.ckpt, best.ckpt  until it has ended
      tensorboard/

Of several folds each has such a folder of its own, ``fold-0``, ``fold-1`` …, beside the first two.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from embedstore.backbones import load_backbone
from embedstore.calibration import fit_temperature
from embedstore.choose import Chosen, chosen
from embedstore.dataset import StoreDataset
from embedstore.errors import BackboneError, DataError, EmbedstoreError, StoreError, UsageError
from embedstore.evaluate import Posed, Protocol, Trial, judged, pose
from embedstore.finetune.batches import Films, in_order
from embedstore.finetune.fit import Hardware, fit
from embedstore.finetune.network import Classifier, image_side
from embedstore.finetune.objectives import Contrastive, CrossEntropy, Objective, Ordinal
from embedstore.finetune.settings import Settings
from embedstore.fitted import Answers, Fitted
from embedstore.fitted import fit as fit_head
from embedstore.heads import grids, load_heads
from embedstore.lock import write_lock
from embedstore.output import put
from embedstore.saved import SavedProbe
from embedstore.split_files import fingerprint_of
from embedstore.splits import inner_folds
from embedstore.store import Store
from embedstore.types import VALIDATION, Backbone, Spec, fingerprint

__all__ = ["Job", "finetune"]

FORMAT = 1
_RUN, _FOLD, _ARRAYS = "run.json", "fold.json", "fold.safetensors"
_OURS = (".", "images.zarr")

Sentences = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Job:
    """What is fine-tuned on what.

    Attributes
    ----------
    load
        Loads the backbone afresh.
    spec
        Its Spec; the store has vectors and kept pictures of it.
    sentences
        Class to sentences that say what is seen, for the objective contrastive.
    first
        Whether this process is the one that writes, of several that share the work.
    """

    store: Store
    load: Callable[[], Backbone]
    spec: Spec
    label: str
    settings: Settings
    hardware: Hardware
    sentences: Sentences | None = None
    first: bool = True


@dataclass(frozen=True, slots=True)
class _Fold:
    """What one fold came to: answers for its tested side, its last layer, and how it went."""

    answers: Answers
    layer: Mapping[str, torch.Tensor]
    told: Mapping[str, Any]


def finetune(
    job: Job,
    how: Protocol,
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Trial:
    """Fine-tune on each training side, answer for each tested side, and score it.

    The same call goes on with what was broken off in `folder`, and only reads what had ended.

    Raises
    ------
    UsageError
        The folder holds another run, or the options do not go together.
    DataError
        There are no kept pictures, the labels allow no honest score, or the loss was not finite.
    StoreError
        A checkpoint cannot be written or read.
    """
    if how.level != "image" and how.fuse != "probabilities":
        raise UsageError("a fine-tune answers of images: fuse probabilities")
    if how.few is not None or how.grid:
        raise UsageError("a fine-tune takes neither a grid nor a part of the labels")
    posed, films, notes = _posed(job, how)
    began = time.monotonic()
    with _held(folder, job.first):
        _claim(folder, job, posed)
        folds, total = [], len(posed.sides) * job.settings.epochs
        for number, (train, test) in enumerate(posed.sides):
            own = folder if len(posed.sides) == 1 else folder / f"fold-{number}"
            before = number * job.settings.epochs

            def show(done: int, steps: int, before: int = before) -> None:
                on_progress(before + done * job.settings.epochs // max(steps, 1), total)

            try:
                folds.append(_fold(job, posed, films, train, test, own, show))
            except EmbedstoreError:
                if job.first and not _strange(folder, _RUN):
                    (folder / _RUN).unlink()  # nothing was begun
                raise
        trial = _judged(job, posed, folds, how, began, notes)
        if job.first:
            _save(job, posed, folds, trial, folder)
    return trial


@contextmanager
def _held(folder: Path, first: bool) -> Iterator[None]:
    """Keep other runs out of the folder."""
    if not first:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with write_lock(folder / ".lock"):
        yield


def _claim(folder: Path, job: Job, posed: Posed) -> None:
    """Write down what this run is, or refuse a folder that holds another."""
    told = {
        "format": FORMAT,
        "label": job.label,
        "classes": list(posed.classes),
        "spec": job.spec.to_dict() | {"key": job.spec.key},
        "split": fingerprint_of(posed.splits),
        "images": fingerprint(sorted(posed.images.ids.tolist())),
        "settings": job.settings.to_dict(),
        "sentences": {k: list(v) for k, v in (job.sentences or {}).items()},
    }
    file = folder / _RUN
    if not file.exists():
        refuse_strange(folder)
        if job.first:
            with put(file) as fresh:
                fresh.write_text(json.dumps(told, indent=1) + "\n")
        return
    try:
        there = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: damaged; give another --out") from error
    for name, now, before in _pairs(told, there):
        if now != before:
            raise UsageError(
                f"{folder}: holds another run, whose {name} is {before!r}, not {now!r}; give the "
                f"same, or another --out"
            )


def _strange(folder: Path, *more: str) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith((*_OURS, *more)))


def refuse_strange(folder: Path) -> None:
    """Raise `UsageError` where a folder holds what no run has put there."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give the name of a folder")
    if folder.exists() and not (folder / _RUN).exists() and (strange := _strange(folder)):
        raise UsageError(f"{folder}: holds {strange[0]!r}; give a folder of its own")


def _pairs(told: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Every value of two runs by its name, those of the settings by theirs."""
    for name, now in told.items():
        before = there.get(name)
        if name in {"settings", "spec"} and isinstance(before, Mapping):
            yield from ((k, v, before.get(k)) for k, v in now.items())
        else:
            yield name, now, before


def _posed(job: Job, how: Protocol) -> tuple[Posed, StoreDataset, tuple[str, ...]]:
    films = job.store.dataset(job.spec, pixels=True).unnormalised()
    embeddings = job.store.read(job.spec)
    seen = np.isin(embeddings.ids, films.ids)
    notes: tuple[str, ...] = ()
    if without := int((~seen).sum()):
        notes = (f"{without} images without a kept picture left out",)
    return pose(embeddings.take(seen), job.label, how), films, notes


def _fold(
    job: Job,
    posed: Posed,
    films: StoreDataset,
    train: NDArray[np.intp],
    test: NDArray[np.intp],
    folder: Path,
    show: Callable[[int, int], None],
) -> _Fold:
    """Fine-tune on one training side, unless that was done before."""
    if (folder / _FOLD).exists():
        return _read(folder, len(test))
    learn, check = _parted(posed, train, job.settings)
    items = np.searchsorted(films.ids[order := np.argsort(films.ids)], posed.images.ids)
    at = order[items]
    backbone = job.load()
    job.spec.require(backbone.spec)
    learner = _learner(job, posed, learn, backbone)
    source = Films(films, at[learn], posed.truth[learn])
    checked = Films(films, at[check], posed.truth[check]) if len(check) else None
    learnt = fit(learner, source, checked, job.settings, job.hardware, folder, show)
    answers = _answers(learner, Films(films, at[test], posed.truth[test]), job)
    trained = learner.trained
    learner.settle()
    layer = {
        k: v.detach().contiguous().clone()
        for k, v in learner.objective.state_dict().items()
        if not k.startswith("text.")
    }
    told = {
        "format": FORMAT,
        "curve": [dict(row) for row in learnt.curve],
        "best": learnt.best,
        "steps": learnt.steps,
        "planned": learnt.planned,
        "micro_batch": learnt.micro_batch,
        "seconds": round(learnt.seconds, 3),
        "cut": learnt.cut,
        "trained": trained,
        "learnt_from": len(learn),
        "chosen_by": len(check),
    }
    found = _Fold(answers, layer, told)
    if job.first:
        _export(backbone, learner, folder)
        _write(found, folder)
    return found


def _parted(
    posed: Posed, train: NDArray[np.intp], settings: Settings
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Set aside what says which epoch was best: the split's own side, else some patients."""
    nobody = np.empty(0, dtype=np.intp)
    if not settings.validation:
        return train, nobody
    if len(posed.splits) == 1 and len(posed.sides) == 1:
        own = np.flatnonzero(posed.splits[0].fold == VALIDATION)
        if len(own):
            return train, own
    folds = round(1 / settings.validation)
    a, b = inner_folds(posed.truth[train], posed.groups[train], settings.seed, folds)[0]
    return train[a], train[b]


def _learner(job: Job, posed: Posed, learn: NDArray[np.intp], backbone: Backbone) -> Classifier:
    settings, k = job.settings, len(posed.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        objective = _objective(job, posed, backbone)
        if settings.start == "probe":
            _start(objective, posed, learn, settings)
        weights = np.ones(k)
        if settings.class_weight:
            counts = np.bincount(posed.truth[learn], minlength=k)
            weights = len(learn) / (k * np.maximum(counts, 1))
        side = image_side(backbone)
        return Classifier(side, objective, backbone.spec.recipe, settings, weights)


def _objective(job: Job, posed: Posed, backbone: Backbone) -> Objective:
    """Make the last layer, unlearnt; a contrastive one with the text side that goes with it."""
    dim, classes = backbone.spec.dim, posed.classes
    if job.settings.objective == "cross-entropy":
        return CrossEntropy(dim, len(classes))
    if job.settings.objective == "ordinal":
        return Ordinal(dim, len(classes))
    sentences = job.sentences or {}
    if not backbone.spec.text:
        raise BackboneError(
            f"{backbone.spec.backbone} has no text side; the objective contrastive needs an "
            f"image-text model, such as biomedclip"
        )
    if missing := [c for c in classes if c not in sentences]:
        raise UsageError(
            f"the objective contrastive needs sentences of each class: --prompt {missing[0]}=TEXT"
        )
    texts = [s for c in classes for s in sentences[c]]
    of = [i for i, c in enumerate(classes) for _ in sentences[c]]
    with torch.no_grad():
        vectors = backbone.encode_text(texts)
    scale = float(getattr(backbone, "logit_scale", None) or 100.0)
    if not job.settings.tune_text:
        return Contrastive(vectors, of, scale)
    text = getattr(getattr(backbone, "model", None), "text", None)
    tokenizer: Any = getattr(backbone, "tokenizer", None)
    if not isinstance(text, torch.nn.Module) or tokenizer is None:
        raise UsageError(f"{backbone.spec.backbone} has no text side of its own that could learn")
    return Contrastive(vectors, of, scale, text.requires_grad_(True), tokenizer(texts))


def _start(objective: Objective, posed: Posed, learn: NDArray[np.intp], settings: Settings) -> None:
    """Give the last layer the weights of the frozen probe, chosen on the training side."""
    if isinstance(objective, Contrastive):
        return
    (head,) = load_heads([objective.head])
    vectors = np.asarray(posed.images.vectors, dtype=np.float32)
    truth, groups = posed.truth, posed.groups
    more = {"class_weight": "balanced"} if settings.class_weight else {}

    def make(**point: Any) -> Any:
        return head(**more, **point)

    sides = [(learn, learn[:1])]
    point: Mapping[str, Any] = {}
    with suppress(DataError):  # too few patients to choose a penalty by: the usual one then
        grid = grids([head])[head.name]
        point = chosen(make, grid, vectors, truth, groups, sides, settings.seed)[0].parameters
    fitted = fit_head(make(**point), vectors[learn], truth[learn], groups[learn])
    objective.start_from(fitted.head, fitted.mean, fitted.scale)


@torch.inference_mode()
def _answers(learner: Classifier, films: Films, job: Job) -> Answers:
    """(n, k) probabilities, in float32."""
    device = torch.device(job.hardware.device)
    learner.to(device).eval()
    found = []
    for items in in_order(len(films), job.settings.micro_batch or job.settings.batch):
        batch = {"pictures": films[items]["pictures"].to(device)}
        found.append(learner.log_probabilities(batch).double().exp().cpu().numpy())
    learner.to("cpu")
    return np.concatenate(found)


def _export(backbone: Any, learner: Classifier, folder: Path) -> None:
    """Write the tuned model in its library's own format."""
    model = backbone.model
    if isinstance(learner.objective, Contrastive) and hasattr(model, "logit_scale"):
        with torch.no_grad():
            model.logit_scale.copy_(learner.objective.log_scale)
    try:
        backbone.export(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise StoreError(f"{folder}: the model cannot be written: {error}") from error


def _write(found: _Fold, folder: Path) -> None:
    """Write what a fold came to; its checkpoints go, since the model is there."""
    arrays = {f"layer.{k}": v for k, v in found.layer.items()}
    arrays["answers"] = torch.from_numpy(found.answers)
    with put(folder / _ARRAYS, replace=True) as fresh:
        save_file(arrays, fresh)
    with put(folder / _FOLD, replace=True) as fresh:
        fresh.write_text(json.dumps(found.told, indent=1) + "\n")
    for checkpoint in folder.glob("*.ckpt"):
        checkpoint.unlink()


def _read(folder: Path, tested: int) -> _Fold:
    try:
        told = json.loads((folder / _FOLD).read_text())
        arrays = load_file(folder / _ARRAYS)
        answers = arrays.pop("answers").numpy()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StoreError(f"{folder}: what this fold came to is damaged: {error}") from error
    if len(answers) != tested:
        raise StoreError(f"{folder}: answers for {len(answers)} images, not {tested}")
    return _Fold(answers, {k.removeprefix("layer."): v for k, v in arrays.items()}, told)


def _judged(
    job: Job,
    posed: Posed,
    folds: Sequence[_Fold],
    how: Protocol,
    began: float,
    notes: tuple[str, ...],
) -> Trial:
    parameters = job.settings.to_dict() | {
        "trained_parameters": folds[0].told["trained"],
        "epochs_done": [len(f.told["curve"]) for f in folds],
        "best_epoch": [f.told["best"] for f in folds],
    }
    found = [Chosen({}, f.answers) for f in folds]
    trial = judged(posed, found, "finetune", parameters, how, began)
    if cut := sum(f.told["cut"] for f in folds):
        notes += (f"{cut} of {len(folds)} runs ended by --max-minutes before their last epoch",)
    seconds = float(sum(f.told["seconds"] for f in folds))
    report = replace(trial.report, seconds=seconds, notes=(*trial.report.notes, *notes))
    return replace(trial, report=report)


def _save(job: Job, posed: Posed, folds: Sequence[_Fold], trial: Trial, folder: Path) -> None:
    """Write the report, and each fold's last layer as a head on the vectors of its backbone."""
    with put(folder / "report.json", replace=True) as fresh:
        fresh.write_text(json.dumps(trial.report.to_dict(), indent=1, default=str) + "\n")
    seen = trial.answered.tested
    temperature = fit_temperature(trial.answered.runs[0][seen], posed.truth[seen])
    precision = str(job.store.provenance[job.spec.key]["precision"])
    for number, found in enumerate(folds):
        own = folder if len(folds) == 1 else folder / f"fold-{number}"
        if (own / "probe").exists():
            continue
        objective = _layer(found.layer, posed, job)
        spec = load_backbone(str(own), job.spec.recipe).spec
        d = spec.dim
        fitted = Fitted(objective.as_head(), np.zeros(d, np.float32), np.ones(d, np.float32))
        SavedProbe(
            objective.head,
            fitted,
            spec,
            precision,
            job.label,
            posed.classes,
            temperature,
            trial.report,
        ).save(own / "probe")


def _layer(state: Mapping[str, torch.Tensor], posed: Posed, job: Job) -> Objective:
    """Make a last layer of what was kept of it."""
    made: Objective
    if job.settings.objective == "contrastive":
        of = state["of"].tolist()
        made = Contrastive(state["sentences"], of, 1.0, None, state.get("tokens"))
    else:
        kind = CrossEntropy if job.settings.objective == "cross-entropy" else Ordinal
        made = kind(job.spec.dim, len(posed.classes))
    made.load_state_dict(dict(state))
    return made

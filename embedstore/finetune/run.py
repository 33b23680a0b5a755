"""A backbone fine-tuned on each training side of a split, judged as any head is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from embedstore.backbones import load_backbone
from embedstore.calibration import fit_temperature
from embedstore.choose import Chosen
from embedstore.dataset import StoreDataset
from embedstore.errors import EmbedstoreError, StoreError, UsageError
from embedstore.evaluate import Trial, judged
from embedstore.finetune.batches import Films, in_order
from embedstore.finetune.fit import fit
from embedstore.finetune.folder import FORMAT, Fold, claim, give_up, held, read, write
from embedstore.finetune.job import Job
from embedstore.finetune.layer import layer_of, learner_of
from embedstore.finetune.network import Classifier
from embedstore.finetune.objectives import Contrastive
from embedstore.finetune.settings import Settings
from embedstore.fitted import Answers, Fitted
from embedstore.output import put
from embedstore.protocol import Posed, Protocol, pose
from embedstore.saved import SavedProbe
from embedstore.splits import inner_folds
from embedstore.types import VALIDATION

__all__ = ["finetune"]


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
    with held(folder, job.first):
        claim(folder, job, posed)
        folds, total = [], len(posed.sides) * job.settings.epochs
        for number, (train, test) in enumerate(posed.sides):
            own = folder if len(posed.sides) == 1 else folder / f"fold-{number}"
            before = number * job.settings.epochs

            def show(done: int, steps: int, before: int = before) -> None:
                on_progress(before + done * job.settings.epochs // max(steps, 1), total)

            try:
                folds.append(_fold(job, posed, films, train, test, own, show))
            except EmbedstoreError:
                if job.first:
                    give_up(folder)
                raise
        trial = _judged(job, posed, folds, how, began, notes)
        if job.first:
            _save(job, posed, folds, trial, folder)
    return trial


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
) -> Fold:
    """Fine-tune on one training side, unless that was done before."""
    if (done := read(folder, len(test))) is not None:
        return done
    learn, check = _parted(posed, train, job.settings)
    items = np.searchsorted(films.ids[order := np.argsort(films.ids)], posed.images.ids)
    at = order[items]
    backbone = job.load()
    learner = learner_of(job, posed, learn, backbone)
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
    found = Fold(answers, layer, told)
    if job.first:
        _export(backbone, learner, folder)
        write(found, folder)
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


def _judged(
    job: Job,
    posed: Posed,
    folds: Sequence[Fold],
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
    if job.settings.objective == "cross-entropy":
        guessed = sum(guesses(f.told["curve"], len(posed.classes)) for f in folds)
        if guessed:
            notes += (
                f"{guessed} of {len(folds)} runs never did better than guessing evenly on the "
                f"patients that chose the epoch: nothing was learnt; try another --rate",
            )
    seconds = float(sum(f.told["seconds"] for f in folds))
    report = replace(trial.report, seconds=seconds, notes=(*trial.report.notes, *notes))
    return replace(trial, report=report)


def guesses(curve: Sequence[Mapping[str, float]], classes: int) -> bool:
    """Say whether the validation's cross-entropy never fell below that of even chances."""
    losses = [row["validation_loss"] for row in curve if "validation_loss" in row]
    return bool(losses) and min(losses) >= log(classes)


def _save(job: Job, posed: Posed, folds: Sequence[Fold], trial: Trial, folder: Path) -> None:
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
        objective = layer_of(found.layer, posed, job)
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

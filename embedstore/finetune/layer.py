"""The learner of a fold: its image side, and a last layer that starts from what the probe knows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedstore.choose import chosen
from embedstore.errors import BackboneError, DataError, UsageError
from embedstore.finetune.job import Job
from embedstore.finetune.network import Classifier, image_side
from embedstore.finetune.objectives import Contrastive, CrossEntropy, Objective, Ordinal
from embedstore.finetune.settings import Settings
from embedstore.fitted import fit as fit_head
from embedstore.heads import grids, load_heads
from embedstore.protocol import Posed
from embedstore.types import Backbone

__all__ = ["layer_of", "learner_of"]


def learner_of(job: Job, posed: Posed, learn: NDArray[np.intp], backbone: Backbone) -> Classifier:
    """Open a backbone to learning from the rows `learn`, (n,), with the last layer it starts by."""
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


def layer_of(state: Mapping[str, torch.Tensor], posed: Posed, job: Job) -> Objective:
    """Make a last layer of what was kept of it."""
    made: Objective
    if job.settings.objective == "contrastive":
        of = state["of"].tolist()
        made = Contrastive(state["sentences"], of, 1.0)
    else:
        kind = CrossEntropy if job.settings.objective == "cross-entropy" else Ordinal
        made = kind(job.spec.dim, len(posed.classes))
    made.load_state_dict(dict(state))
    return made

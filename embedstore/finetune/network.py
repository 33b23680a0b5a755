"""The image side of a backbone, open to learning, and a last layer on it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models import group_modules
from timm.models._manipulate import group_with_matcher
from torch import nn

from embedstore.errors import BackboneError, UsageError
from embedstore.finetune import augment
from embedstore.finetune.objectives import Objective
from embedstore.finetune.settings import Settings
from embedstore.types import Backbone, Recipe

__all__ = ["Batch", "Classifier", "image_side"]

Batch = Mapping[str, torch.Tensor]
"""``pictures`` (b, c, H, W) in 0..1, ``wanted`` (b, k) or ``truth`` (b,), ``row`` (b,)."""


def image_side(backbone: Backbone) -> nn.Module:
    """Return the network that takes (b, 3, H, W) to the backbone's (b, d) vectors.

    Raises
    ------
    UsageError
        It has none that could learn.
    """
    if backbone.spec.pooling == "pre-projection":
        raise UsageError(
            "a fine-tune goes through the projection, without which the model cannot be loaded "
            "again: leave out the pooling pre-projection"
        )
    model = getattr(backbone, "model", None)
    side = getattr(model, "visual", model)
    if not isinstance(side, nn.Module):
        raise UsageError(f"{backbone.spec.backbone} has no weights to fine-tune")
    return side


class Classifier(nn.Module):
    """Pictures to classes: the image side and an objective, and what their learning needs.

    Parameters
    ----------
    weights
        (k,) what an image of each class counts for; 1 in the mean over images.
    """

    mean: torch.Tensor
    std: torch.Tensor
    weights: torch.Tensor

    def __init__(
        self,
        side: nn.Module,
        objective: Objective,
        recipe: Recipe,
        settings: Settings,
        weights: NDArray[np.floating[Any]],
    ) -> None:
        super().__init__()
        self.settings = settings
        side.requires_grad_(True).to(memory_format=torch.channels_last)  # quicker for convolutions
        self.still = _frozen(side, settings.freeze)
        self.side = _adapted(side, settings) if settings.lora else side
        self.objective = objective
        channels = torch.tensor([recipe.mean, recipe.std])[:, :, None, None]
        self.register_buffer("mean", channels[0], persistent=False)
        self.register_buffer("std", channels[1], persistent=False)
        counts = torch.as_tensor(np.asarray(weights), dtype=torch.float32)
        self.register_buffer("weights", counts, persistent=False)

    def train(self, mode: bool = True) -> Classifier:
        """Learn, or not; what is frozen keeps its running statistics."""
        super().train(mode)
        for module in self.still:
            module.eval()
        return self

    def vectors(self, pictures: torch.Tensor) -> torch.Tensor:
        """(b, c, H, W) in 0..1 to (b, d)."""
        normal = (pictures - self.mean) / self.std
        found: torch.Tensor = self.side(normal.contiguous(memory_format=torch.channels_last))
        return found

    def prepare(self, batch: Batch, rng: torch.Generator) -> dict[str, torch.Tensor]:
        """Draw what a step draws for a batch: pictures are changed, labels smoothed and mixed."""
        s, k = self.settings, len(self.weights)
        pictures = batch["pictures"]
        if s.augment == "film":
            pictures = augment.film(pictures, rng)
        wanted = nn.functional.one_hot(batch["truth"], k).float()
        counts = self.weights[batch["truth"]][:, None]
        if s.objective != "contrastive":
            wanted = wanted * (1 - s.label_smoothing) + s.label_smoothing / k
        wanted = wanted * counts
        if s.mixup and len(pictures) > 1:
            share = float(np.random.default_rng(rng.initial_seed()).beta(s.mixup, s.mixup))
            other = torch.randperm(len(pictures), generator=rng, device=rng.device)
            pictures = share * pictures + (1 - share) * pictures[other]
            wanted = share * wanted + (1 - share) * wanted[other]
        return {"pictures": pictures, "wanted": wanted}

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean loss of what `prepare` gave, or of a part of it."""
        return self.objective.loss(self.vectors(batch["pictures"]), batch["wanted"])

    def log_probabilities(self, batch: Batch) -> torch.Tensor:
        """(b, k) of pictures as they are."""
        return self.objective.log_probabilities(self.vectors(batch["pictures"]))

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters that learn, each group with its own ``lr`` and ``weight_decay``.

        A layer learns at `layer_decay` of the rate of the one above it, by timm's layers of the
        model; gains and offsets, and what the model names, do not decay.
        """
        s = self.settings
        body = getattr(self.side, "trunk", self.side)
        names: Any = getattr(body, "no_weight_decay", tuple)
        spared = {id(p) for n, p in body.named_parameters() if n in names()}
        layer = {} if s.lora else _layers(body)
        shares = {
            id(p): s.layer_decay ** (layer[""] - layer[name])
            for name, p in body.named_parameters()
            if name in layer
        }
        found: dict[tuple[float, float], list[nn.Parameter]] = {}
        for p in self.parameters():
            if p.requires_grad:
                decay = 0.0 if p.ndim <= 1 or id(p) in spared else s.decay
                found.setdefault((s.rate * shares.get(id(p), 1.0), decay), []).append(p)
        return [{"params": ps, "lr": lr, "weight_decay": wd} for (lr, wd), ps in found.items()]

    @property
    def trained(self) -> int:
        """How many parameters learn."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def settle(self) -> None:
        """Leave the backbone as it was found: adapters in the weights, in the usual order."""
        self.objective.settle()
        if self.settings.lora:
            merged: Any = self.side
            self.side = merged.merge_and_unload()
        self.side.to(memory_format=torch.contiguous_format)  # as its library saves it


def _matcher(body: nn.Module, coarse: bool) -> Any:
    """Return what tells a model's layers, or stages, by the names of its parameters, as in timm."""
    own: Any = getattr(body, "group_matcher", None)
    if own is not None:
        return own(coarse=coarse)
    if not hasattr(body, "transformer"):
        return None
    # open_clip's own vision transformer
    stem = r"^(?:conv1|class_embedding|positional_embedding|ln_pre)"
    blocks = [(r"^transformer\.resblocks\.(\d+)", None), (r"^ln_post", (99999,))]
    return {"stem": stem, "blocks": blocks}


def _layers(body: nn.Module, coarse: bool = False) -> dict[str, int]:
    """Return the layer of each parameter by name, counted from the stem; "" comes on top."""
    matcher = _matcher(body, coarse)
    if matcher is None:
        return {}
    named: Any = [*body.named_parameters(), ("", None)]
    numbers: dict[str, int] = group_with_matcher(named, matcher, reverse=True)
    return numbers


def _frozen(side: nn.Module, stages: int) -> list[nn.Module]:
    """Freeze the first stages, the stem being the first; return the modules that stay."""
    if not stages:
        return []
    body = getattr(side, "trunk", side)
    layers = _layers(body, coarse=True)
    if not layers:
        raise UsageError(f"freeze: {type(body).__name__} does not say what its stages are")
    most = max(number for name, number in layers.items() if name)
    if stages > most:
        raise UsageError(f"freeze is {stages}; of {most + 1} stages one must learn")
    for name, parameter in body.named_parameters():
        if layers[name] < stages:
            parameter.requires_grad_(False)
    groups = group_modules(body, _matcher(body, coarse=True))
    names = [name for stage in range(stages) for name in groups[stage]]
    return [body.get_submodule(name) for name in names if name]


def _adapted(side: nn.Module, settings: Settings) -> nn.Module:
    """Put low-rank adapters beside every linear layer, which alone then learn."""
    try:
        peft = import_module("peft")
    except ImportError as error:
        raise UsageError("lora needs the package peft: pip install 'embedstore[lora]'") from error
    names = [n for n, m in side.named_modules() if isinstance(m, nn.Linear)]
    if not names:
        raise BackboneError(f"{type(side).__name__} has no linear layers to put adapters to")
    config = peft.LoraConfig(r=settings.lora, lora_alpha=2 * settings.lora, target_modules=names)
    adapted: nn.Module = peft.get_peft_model(side, config)
    return adapted

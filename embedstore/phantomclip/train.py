"""Train the model: ``python -m embedstore.phantomclip.train --out DIR``.

A configuration of `embedstore.finetune`, contrastive, from nothing: a sentence belongs to every
picture of the batch that it is true of, and pairs of which that cannot be seen (the side, on a
cropped breast) are left out.

The contrastive loss alone is slow to start from nothing, so both sides also have to name the facts
through one linear layer that they share and that is thrown away in the end.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from torch import nn
from torch.nn import functional

from embedstore.backbones import load_backbone
from embedstore.finetune import Hardware
from embedstore.finetune import Settings as Learning
from embedstore.finetune.fit import fit
from embedstore.finetune.objectives import contrastive_loss
from embedstore.phantomclip import zeroshot
from embedstore.phantomclip.folder import (
    CONTEXT,
    MEAN,
    SIDE,
    STD,
    build,
    write_frame,
    write_weights,
)
from embedstore.phantomclip.pictures import Pictures, prepare, roughen
from embedstore.phantomclip.sentences import SILENT, draw
from embedstore.phantoms import DENSITIES, films, render

__all__ = ["Settings", "compatible", "naming_loss", "train"]

_COLLECTION = 5_000_000  # added to the seed: a user's own phantoms, of small seeds, stay unseen
_CHECK_SEED = 90_001  # of the phantoms the result is checked on, never trained on
_VALUES = [4, 2, 2, 2]  # how many codes each fact has
_SHARPNESS = 10.0  # of unit vectors before they are named
_TEXT_SHARE = 0.3  # of the learning rate: a BERT from nothing does not bear the image side's
_MARGIN = 48  # px more than the model takes, so that moving a picture loses no sharpness
_LEAST_TEMPERATURE = 1 / 50


@dataclass(frozen=True, slots=True)
class Settings:
    """All that decides a run; `minutes` ends it early, 0 never. More threads need idle cores."""

    seed: int = 0
    patients: int = 800
    epochs: int = 18
    batch: int = 96
    minutes: float = 0.0
    workers: int = 2
    threads: int = 1
    check_patients: int = 50

    @property
    def learning(self) -> Learning:
        """The settings of the fine-tune that it is."""
        return Learning(
            objective="contrastive",
            start="random",
            tune_text=True,
            epochs=self.epochs,
            batch=self.batch,
            rate=3e-3,
            decay=0.05,
            layer_decay=1.0,
            warm_up=0.08,
            validation=0.0,
            label_smoothing=0.0,
            seed=self.seed,
        )


def train(out: Path, settings: Settings) -> dict[str, Any]:
    """Train from nothing, write the folder and return what is in its ``training.json``.

    A run that was broken off goes on where it was.
    """
    write_frame(out)
    pictures = prepare(
        settings.patients, _COLLECTION + settings.seed, SIDE + _MARGIN, settings.workers
    )
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    learner = Pairs(out, settings.learning)
    hardware = Hardware("cpu", minutes=settings.minutes, logger="none")
    runs = out / "run"
    learnt = fit(learner, Phantoms(pictures), None, settings.learning, hardware, runs)
    write_weights(out, learner.model)
    shutil.rmtree(runs)
    record = {
        "settings": asdict(settings),
        "learning": settings.learning.to_dict(),
        "steps_done": learnt.steps,
        "seconds": round(learnt.seconds),
        "loss": [round(row["loss"], 4) for row in learnt.curve],
        "check": _check(out, settings.check_patients),
        "versions": {"python": platform.python_version()}
        | {n: version(n) for n in ("torch", "open_clip_torch", "timm", "transformers", "numpy")},
        "images": "synthetic only (embedstore.phantoms)",
        "purpose": "for trying out and for tests; not for clinical use",
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


class Phantoms:
    """Prepared films with their facts, as a fine-tune reads what it learns from."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.pictures.grey)

    def __getitem__(self, items: list[int]) -> dict[str, torch.Tensor]:
        """Read a batch: (b, 1, S, S) in 0..1 and (b, 4) codes."""
        return {
            "pictures": torch.from_numpy(self.pictures.grey[items])[:, None].float() / 255,
            "facts": torch.from_numpy(self.pictures.facts[items]),
            "item": torch.as_tensor(items),
        }

    def name(self, item: int) -> str:
        """Say which one it is."""
        return f"picture {item}"


class Pairs(nn.Module):
    """Both sides of the network, and the layer by which they name the facts."""

    def __init__(self, folder: Path, settings: Learning) -> None:
        super().__init__()
        self.settings = settings
        self.model = build(folder)
        self.tokenize = open_clip.tokenizer.HFTokenizer(str(folder), context_length=CONTEXT)
        self.namer = nn.Linear(self.model.visual.head.proj.out_features, sum(_VALUES))

    def prepare(
        self, batch: Mapping[str, torch.Tensor], rng: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Roughen the pictures and draw as many sentences."""
        words = np.random.default_rng(rng.initial_seed())
        sentences = [draw(words) for _ in batch["facts"]]
        image = ((roughen(batch["pictures"], SIDE, rng) - MEAN) / STD).expand(-1, 3, -1, -1)
        return {
            "image": image.contiguous(memory_format=torch.channels_last),
            "tokens": self.tokenize([s.text for s in sentences]),
            "facts": batch["facts"],
            "said": torch.tensor([s.facts for s in sentences]),
        }

    def loss(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Mean contrastive loss, and the losses of naming the facts."""
        seen = self.model.encode_image(batch["image"], normalize=True).float()
        said = self.model.encode_text(batch["tokens"], normalize=True).float()
        scale = self.model.logit_scale.clamp(0, -math.log(_LEAST_TEMPERATURE)).exp()
        true, known = compatible(batch["facts"], batch["said"])
        named = sum(
            naming_loss(self.namer(_SHARPNESS * side), codes)
            for side, codes in ((seen, batch["facts"]), (said, batch["said"]))
        )
        return contrastive_loss(scale * seen @ said.T, true, known) + named

    def groups(self) -> list[dict[str, Any]]:
        """Spare gains, offsets and the temperature from decay, and the text side from haste."""
        groups = []
        for text in (False, True):
            own = [
                p
                for name, p in self.named_parameters()
                if p.requires_grad and name.startswith("model.text.") == text
            ]
            rate = self.settings.rate * (_TEXT_SHARE if text else 1.0)
            for wide in (False, True):
                some = [p for p in own if (p.ndim > 1) == wide]
                decay = self.settings.decay * wide
                groups.append({"params": some, "weight_decay": decay, "lr": rate})
        return groups


def compatible(
    pictures: torch.Tensor, sentences: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Say which sentence is true of which picture, and of which that can be seen.

    Takes (n, 4) and (m, 4) codes of facts; returns two (n, m) bool: true of it, and known.
    """
    seen, said = pictures[:, None], sentences[None]
    unknown = ((seen == SILENT) & (said != SILENT)).any(dim=2)
    agree = ((seen == said) | (said == SILENT)).all(dim=2)
    return agree & ~unknown, ~unknown


def naming_loss(scores: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
    """Sum over facts of the mean cross-entropy where the fact is known.

    Takes (n, 10) scores, a block of columns a fact, and (n, 4) codes.
    """
    loss = scores.new_zeros(())
    for k, block in enumerate(torch.split(scores, _VALUES, dim=1)):
        known = facts[:, k] != SILENT
        if known.any():
            loss = loss + functional.cross_entropy(block[known], facts[known, k])
    return loss


def _check(folder: Path, patients: int) -> dict[str, float]:
    """Score zero-shot density on phantoms of other patients, loaded as a user would."""
    backbone = load_backbone(str(folder))
    listed = films(patients, _CHECK_SEED)
    vectors = zeroshot.image_vectors(backbone, [render(film, 256) for film in listed])
    truth = np.array([DENSITIES.index(film.density) for film in listed])
    scores: dict[str, float] = {"films": len(listed)}
    for name, held_out in (("trained", False), ("held_out", True)):
        shares = zeroshot.probabilities(vectors, zeroshot.class_vectors(backbone, held_out))
        auroc = roc_auc_score(truth, shares, multi_class="ovr", labels=range(4))
        kappa = cohen_kappa_score(truth, shares.argmax(axis=1), weights="quadratic")
        scores[f"{name}_auroc"], scores[f"{name}_kappa"] = round(auroc, 4), round(kappa, 4)
    return scores


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    out = given.pop("out")
    print(json.dumps(train(out, Settings(**given))["check"], indent=1))


if __name__ == "__main__":
    main()

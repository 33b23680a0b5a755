"""Train the model: ``python -m embedstore.phantomclip.train --out DIR``.

CLIP's symmetric contrastive loss (Radford et al. 2021, arXiv 2103.00020) with several positives
(as in Khosla et al. 2020, arXiv 2004.11362): a sentence belongs to every picture of the batch that
it is true of, and pairs of which that cannot be seen (the side, on a cropped breast) are left out.

The contrastive loss alone is slow to start from nothing, so both sides also have to name the facts
through one linear layer that they share and that is thrown away in the end.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from torch.nn import functional

from embedstore.backbones import load_backbone
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

__all__ = ["Settings", "compatible", "contrastive_loss", "naming_loss", "train"]

_COLLECTION = 5_000_000  # added to the seed: a user's own phantoms, of small seeds, stay unseen
_CHECK_SEED = 90_001  # of the phantoms the result is checked on, never trained on
_VALUES = [4, 2, 2, 2]  # how many codes each fact has
_SHARPNESS = 10.0  # of unit vectors before they are named
_TEXT_SCALE = 0.3  # of the learning rate: a BERT from nothing does not bear the image side's
_MARGIN = 48  # px more than the model takes, so that moving a picture loses no sharpness


@dataclass(frozen=True, slots=True)
class Settings:
    """All that decides a run; `minutes` ends it early, 0 never. More threads need idle cores."""

    seed: int = 0
    patients: int = 800
    steps: int = 1200
    batch: int = 96
    rate: float = 3e-3
    decay: float = 0.05
    warm_up: float = 0.08
    minutes: float = 0.0
    workers: int = 2
    threads: int = 1
    check_patients: int = 50


def train(out: Path, settings: Settings) -> dict[str, Any]:
    """Train from nothing, write the folder and return what is in its ``training.json``."""
    write_frame(out)
    started = time.monotonic()
    pictures = prepare(
        settings.patients, _COLLECTION + settings.seed, SIDE + _MARGIN, settings.workers
    )
    rendered = time.monotonic() - started
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    model = build(out)
    losses = _fit(model, out, pictures, settings)
    write_weights(out, model)
    record = {
        "settings": asdict(settings),
        "steps_done": len(losses),
        "seconds_rendering": round(rendered),
        "seconds_in_all": round(time.monotonic() - started),
        "loss": [round(float(np.mean(losses[i : i + 25])), 4) for i in range(0, len(losses), 25)],
        "check": _check(out, settings.check_patients),
        "versions": {"python": platform.python_version()}
        | {n: version(n) for n in ("torch", "open_clip_torch", "timm", "transformers", "numpy")},
        "images": "synthetic only (embedstore.phantoms)",
        "purpose": "for trying out and for tests; not for clinical use",
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


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


def contrastive_loss(
    logits: torch.Tensor, positive: torch.Tensor, known: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy of rows and columns, (n, m), against all positives in equal shares."""
    sides = []
    for scores, wanted, valid in ((logits, positive, known), (logits.T, positive.T, known.T)):
        log_share = scores.masked_fill(~valid, -1e4).log_softmax(dim=1)
        some = wanted.any(dim=1)
        mean = (log_share * wanted).sum(dim=1)[some] / wanted.sum(dim=1)[some]
        # a small batch may hold no true sentence at all
        sides.append(-mean.mean() if some.any() else scores.sum() * 0)
    return (sides[0] + sides[1]) / 2


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


def _fit(model: Any, folder: Path, pictures: Pictures, settings: Settings) -> list[float]:
    """Run the optimiser; the losses step by step."""
    tokenize = open_clip.tokenizer.HFTokenizer(str(folder), context_length=CONTEXT)
    namer = torch.nn.Linear(model.visual.head.proj.out_features, sum(_VALUES))
    groups = [*_groups(model, settings.decay), {"params": namer.parameters(), "scale": 1.0}]
    optimiser = torch.optim.AdamW(groups, lr=settings.rate)
    words = np.random.default_rng([settings.seed, 1])
    noise = torch.Generator().manual_seed(settings.seed)
    losses: list[float] = []
    ends = time.monotonic() + 60 * settings.minutes if settings.minutes else math.inf
    model.train()
    while len(losses) < settings.steps and time.monotonic() < ends:
        for group in optimiser.param_groups:
            group["lr"] = group["scale"] * settings.rate * _schedule(len(losses), settings)
        loss = _loss(model, namer, tokenize, pictures, settings.batch, words, noise)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(50))
        losses.append(float(loss.detach()))
        if len(losses) % 25 == 0:
            print(f"step {len(losses)} loss {np.mean(losses[-25:]):.3f}", flush=True)
    model.eval()
    return losses


def _loss(
    model: Any,
    namer: torch.nn.Module,
    tokenize: Any,
    pictures: Pictures,
    batch: int,
    words: np.random.Generator,
    noise: torch.Generator,
) -> torch.Tensor:
    rows = words.integers(len(pictures.grey), size=batch)
    sentences = [draw(words) for _ in range(batch)]
    grey = torch.from_numpy(pictures.grey[rows])[:, None].float() / 255
    image = ((roughen(grey, SIDE, noise) - MEAN) / STD).expand(-1, 3, -1, -1)
    image = image.contiguous(memory_format=torch.channels_last)
    tokens = tokenize([s.text for s in sentences])
    with torch.autocast("cpu", torch.bfloat16, enabled=_fast_bf16()):
        seen = model.encode_image(image, normalize=True)
        said = model.encode_text(tokens, normalize=True)
    logits = model.logit_scale.exp() * seen.float() @ said.float().T
    facts = torch.from_numpy(pictures.facts[rows]), torch.tensor([s.facts for s in sentences])
    named = sum(
        naming_loss(namer(_SHARPNESS * side.float()), codes)
        for side, codes in zip((seen, said), facts, strict=True)
    )
    return contrastive_loss(logits, *compatible(*facts)) + named


def _fast_bf16() -> bool:
    """Tell whether this processor multiplies in bfloat16 (elsewhere it is slower than float32)."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def _schedule(step: int, settings: Settings) -> float:
    """Warm up linearly, then fall along a cosine to nothing: a factor in 0..1."""
    warm = max(1, round(settings.warm_up * settings.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, settings.steps - warm))


def _groups(model: Any, decay: float) -> list[dict[str, Any]]:
    """Spare gains, offsets and the temperature from weight decay, and the text side from haste."""
    groups = []
    for text in (False, True):
        own = [
            p
            for name, p in model.named_parameters()
            if p.requires_grad and name.startswith("text.") == text
        ]
        scale = _TEXT_SCALE if text else 1.0
        for wide in (False, True):
            some = [p for p in own if (p.ndim > 1) == wide]
            groups.append({"params": some, "weight_decay": decay * wide, "scale": scale})
    return groups


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

"""One step after the other, by Lightning: micro-batches, loss, step, and what may go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol

import pytorch_lightning as lightning
import torch
from torch import nn

from embedstore.encode import is_out_of_memory
from embedstore.errors import DataError, EmbedstoreError
from embedstore.finetune.network import Batch
from embedstore.finetune.settings import Settings

__all__ = ["Learner", "Tuner", "factor"]


class Learner(Protocol):
    """A network and what one step of its learning is."""

    def prepare(self, batch: Batch, rng: torch.Generator) -> dict[str, torch.Tensor]:
        """Draw what a step draws; tensors of equal length, to be cut into micro-batches."""

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean loss of what `prepare` gave, or of a part of it."""

    def log_probabilities(self, batch: Batch) -> torch.Tensor:
        """(b, k) of a batch with its ``truth``, (b,)."""

    def groups(self) -> list[dict[str, Any]]:
        """Parameters with their ``lr`` and ``weight_decay``."""


class Tuner(lightning.LightningModule):
    """Runs the steps of a learner.

    A step is of a whole batch, whatever fits the memory: it is cut into micro-batches whose
    gradients are summed, halved where memory does not suffice. All that is drawn in a step is drawn
    by seed and step, so that a run which goes on draws the same.

    Parameters
    ----------
    steps
        Of the whole run, for the schedule.
    name
        Says which image an item is.
    """

    def __init__(
        self, learner: nn.Module, settings: Settings, steps: int, name: Callable[[int], str]
    ) -> None:
        super().__init__()
        self.learner = learner
        self.settings, self.steps = settings, steps
        # a function of its own: copies of the module, for averages, leave the images where they are
        self.name: Callable[[int], str] = lambda item: name(item)
        self.micro = settings.micro_batch or settings.batch
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        """AdamW (Loshchilov and Hutter 2019) by the schedule."""
        s = self.settings
        optimizer = torch.optim.AdamW(self.learner.groups())  # type: ignore[operator]
        if s.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
            return {
                "optimizer": optimizer,
                "lr_scheduler": {
                    "scheduler": plateau(optimizer, factor=0.5, patience=50),
                    "monitor": "validation_loss",
                },
            }
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: factor(step, self.steps, s)
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def training_step(self, batch: Batch, _: int) -> None:
        """Learn from one batch."""
        step, s = self.global_step, self.settings
        seed = (s.seed * 1_000_003 + step) * 4_099 + self.global_rank
        torch.manual_seed(seed)  # dropout
        rng = torch.Generator(self.device).manual_seed(seed)
        with torch.no_grad():
            ready = self.learner.prepare(batch, rng)  # type: ignore[operator]
        optimizer: Any = self.optimizers()
        loss = self._mean(self._backward(ready, optimizer))
        if not math.isfinite(loss):
            raise DataError(self._not_finite(step, loss, batch))
        if s.clip:
            self.clip_gradients(optimizer, s.clip, "norm")
        optimizer.step()
        scheduler: Any = self.lr_schedulers()
        if s.schedule != "plateau":
            scheduler.step()
        self.log("loss", loss, on_step=True, batch_size=len(batch["item"]))
        self.log("rate", scheduler.get_last_lr()[-1], on_step=True)
        self.last_loss = loss

    def _backward(self, ready: dict[str, torch.Tensor], optimizer: Any) -> float:
        """Sum the gradients of a batch by micro-batches; return its loss."""
        n = len(next(iter(ready.values())))
        while True:
            optimizer.zero_grad()
            try:
                return self._parts(ready, n)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            # after the except block, which holds on to what the failed call had allocated
            optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if self.trainer.world_size > 1:
                raise EmbedstoreError(
                    f"not enough memory for {min(self.micro, n)} images at a time ({reason}); "
                    f"give a smaller micro_batch: several processes cannot change it in between"
                )
            if min(self.micro, n) == 1:
                raise EmbedstoreError(f"not enough memory for one image ({reason})")
            self.micro = math.ceil(min(self.micro, n) / 2)

    def _parts(self, ready: dict[str, torch.Tensor], n: int) -> float:
        total = 0.0
        pieces, mean = math.ceil(n / self.micro), self._mean(n)
        for number, part in enumerate(torch.arange(n).tensor_split(pieces)):
            low, high = int(part[0]), int(part[-1]) + 1
            last = number == pieces - 1
            with nullcontext() if last else self._apart():
                loss = self.learner.loss(  # type: ignore[operator]
                    {k: v[low:high] for k, v in ready.items()}
                )
                share = loss * ((high - low) / mean)
                self.manual_backward(share)
            total += share.detach()
        return float(total)

    def _mean(self, value: float) -> float:
        """Average over the processes: their parts of a batch may differ by one image."""
        if self.trainer.world_size == 1:
            return value
        own = torch.tensor(float(value), device=self.device)
        return float(self.trainer.strategy.reduce(own, reduce_op="mean"))

    def _apart(self) -> Any:
        """Do not yet sum over processes what the next micro-batch adds to."""
        strategy: Any = self.trainer.strategy
        inner = getattr(strategy, "_backward_sync_control", None)
        return inner.no_backward_sync(strategy.model, enabled=True) if inner else nullcontext()

    def _not_finite(self, step: int, loss: float, batch: Batch) -> str:
        names = [self.name(i) for i in batch["item"].tolist()]
        some = ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")
        return (
            f"step {step}: the loss is {loss}; a lower rate or precision float32 may help; the "
            f"batch was {some}"
        )

    def validation_step(self, batch: Batch, _: int) -> None:
        """Score what says which epoch was best: the log loss, unsmoothed."""
        found = self.learner.log_probabilities(batch)  # type: ignore[operator]
        loss = torch.nn.functional.nll_loss(found, batch["truth"])
        size = len(batch["truth"])
        self.log("validation_loss", loss, batch_size=size, on_epoch=True, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Tell the schedule."""
        if self.settings.schedule == "plateau" and not self.trainer.sanity_checking:
            scheduler: Any = self.lr_schedulers()
            scheduler.step(self.trainer.callback_metrics["validation_loss"])


def factor(step: int, steps: int, settings: Settings) -> float:
    """Return the share of the learning rate at a step: a linear rise, then a cosine to nothing."""
    warm = round(settings.warm_up * steps)
    if step < warm:
        return (step + 1) / warm
    if settings.schedule == "constant":
        return 1.0
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm)))

"""What a run keeps of itself while it goes: its best and its last state, its losses, its pace."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint
from pytorch_lightning.callbacks.weight_averaging import WeightAveraging

from embedstore.finetune.settings import Settings
from embedstore.output import put

__all__ = ["BEST", "LAST", "Curve", "Show", "Whole", "callbacks"]

LAST, BEST = "last.ckpt", "best.ckpt"
_SECONDS = 300.0  # between checkpoints within an epoch


def callbacks(folder: Path, settings: Settings, checked: bool) -> list[Callback]:
    """Return what keeps checkpoints, and what ends a run early."""
    found: list[Callback] = []
    if settings.ema:
        found.append(WeightAveraging(avg_fn=_average(settings.ema)))
    if checked:
        found.append(
            _Best(
                folder,
                Path(BEST).stem,
                monitor="validation_loss",
                # Lightning puts averages into whole checkpoints only
                save_weights_only=not settings.ema,
                enable_version_counter=False,
            )
        )
        if settings.patience:
            found.append(
                EarlyStopping("validation_loss", patience=settings.patience, check_finite=False)
            )
    # last, so that what it keeps of the others is of the same moment
    found.append(_Last(folder))
    return found


def _average(decay: float) -> Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]:
    """Average exponentially; of whole numbers, such as tokens, the latest are taken."""

    def average(kept: torch.Tensor, now: torch.Tensor, _: Any) -> torch.Tensor:
        return decay * kept + (1 - decay) * now if kept.is_floating_point() else now

    return average


class _Best(ModelCheckpoint):
    """Keeps the best epoch's weights, and knows their score wherever the folder is now."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the score; Lightning drops it where the folder was moved."""
        file = str(Path(str(self.dirpath)) / BEST)
        known = dict(zip([file], state["best_k_models"].values(), strict=False))
        here = {"best_model_path": file, "best_k_models": known, "kth_best_model_path": file}
        super().load_state_dict({**state, **here, "dirpath": self.dirpath})


class _Last(Checkpoint):
    """Keeps where a run is: after every epoch, and every few minutes within one."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / LAST
        self.at = time.monotonic()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Save where it is time."""
        late = time.monotonic() - self.at > _SECONDS
        if late and trainer.world_size == 1 and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        """Save."""
        self._save(trainer)

    def _save(self, trainer: Any) -> None:
        trainer.save_checkpoint(self.file)
        self.at = time.monotonic()


class Curve(Callback):
    """The mean loss of every epoch and the time it all took, through breaks."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.sum, self.steps, self.before = 0.0, 0, 0.0
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """What all of it took, s."""
        return self.before + time.monotonic() - self.began

    def on_train_batch_end(self, _: Any, tuner: Any, *__: Any) -> None:
        """Add a step."""
        self.sum, self.steps = self.sum + tuner.last_loss, self.steps + 1

    def on_train_epoch_end(self, trainer: Any, _: Any) -> None:
        """Close an epoch, whose validation is done."""
        row = {"epoch": float(trainer.current_epoch), "loss": self.sum / max(self.steps, 1)}
        checked = trainer.callback_metrics.get("validation_loss")
        if checked is not None:
            row["validation_loss"] = float(checked)
        self.rows.append(row)
        self.sum, self.steps = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"rows": self.rows, "sum": self.sum, "steps": self.steps, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.rows, self.sum, self.steps = list(state["rows"]), state["sum"], state["steps"]
        self.before = state["seconds"]


class Show(Callback):
    """Tells how many steps are done, and of how many."""

    def __init__(self, show: Callable[[int, int], None], total: int) -> None:
        self.show, self.total = show, total

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Say how far it is."""
        if trainer.is_global_zero:
            self.show(trainer.global_step, self.total)


class Whole(TorchCheckpointIO):
    """Puts a checkpoint in its place only once it is whole and on the disk."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write beside it and rename."""
        with put(Path(path), replace=True) as fresh:
            try:
                torch.save(checkpoint, fresh)
            except RuntimeError as error:  # what torch's writer makes of a full disk
                raise OSError(str(error).partition("\n")[0]) from error

"""A run of learning, by PyTorch Lightning's trainer: begun, gone on with, its best kept."""

from __future__ import annotations

import logging
import math
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import nn

from embedstore.errors import StoreError, UsageError
from embedstore.finetune.batches import Order, Source, in_order, loader
from embedstore.finetune.keeping import BEST, LAST, Curve, Show, Whole, callbacks
from embedstore.finetune.settings import Settings
from embedstore.finetune.tuner import Tuner
from embedstore.plan import choose_device, has_bfloat16

__all__ = ["Hardware", "Learnt", "fit", "load_best"]

LOGGERS = ("tensorboard", "wandb", "mlflow", "none")
_ANEW = "give another --out, or remove its *.ckpt to begin anew"


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a run runs on, as Lightning's trainer takes it; it changes speed, not what is learnt.

    Attributes
    ----------
    precision
        "auto": bfloat16 where the device computes in it; "float32", "bfloat16".
    devices, strategy
        How many, and how they share the work: "auto", "ddp", "fsdp", …
    workers
        Processes that read pictures; 0: this one does.
    minutes
        What each run may take; 0: as long as it takes.
    logger
        "tensorboard", "wandb", "mlflow" or "none".
    """

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    workers: int = 0
    minutes: float = 0.0
    logger: str = "tensorboard"

    @property
    def device(self) -> str:
        """The torch device that one process works on."""
        return choose_device({"gpu": "cuda"}.get(self.accelerator, self.accelerator))


@dataclass(frozen=True, slots=True)
class Learnt:
    """How a run went: losses by epoch, the best of them, steps done and planned, s in all.

    `cut` says that it ran out of time.
    """

    curve: tuple[Mapping[str, float], ...]
    best: int
    steps: int
    planned: int
    micro_batch: int
    seconds: float
    cut: bool


def fit(
    learner: nn.Module,
    source: Source,
    checked: Source | None,
    settings: Settings,
    hardware: Hardware,
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Learnt:
    """Let a learner learn, and leave it with the weights of its best epoch.

    A run that was broken off in this folder goes on where its last checkpoint was, and comes to
    the same result.

    Parameters
    ----------
    learner
        An ``nn.Module`` that is a `tuner.Learner`.
    checked
        What says which epoch was best; None: the last one is taken.

    Raises
    ------
    DataError
        The loss was not finite; step and images are named.
    StoreError
        A checkpoint cannot be written (the last good one stays), or not be read.
    """
    _hush()
    folder.mkdir(parents=True, exist_ok=True)
    batches = max(1, math.ceil(len(source) / settings.batch))
    planned = batches * settings.epochs
    tuner = Tuner(learner, settings, planned, source.name)
    curve, keeping = Curve(), callbacks(folder, settings, checked is not None)
    trainer = lightning.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        strategy=hardware.strategy,
        precision=_precision(hardware),  # type: ignore[arg-type]
        max_epochs=settings.epochs,
        max_time=timedelta(minutes=hardware.minutes) if hardware.minutes else None,
        logger=_logger(hardware.logger, folder),
        callbacks=[Show(on_progress, planned), curve, *keeping],
        plugins=[Whole()],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        benchmark=False,
    )
    order = Order(
        len(source),
        settings.batch,
        settings.seed,
        lambda: trainer.global_step,
        trainer.global_rank,
        trainer.world_size,
    )
    micro = settings.micro_batch or settings.batch
    validated = (
        [loader(checked, in_order(len(checked), micro), hardware.workers)] if checked else None
    )
    last = folder / LAST
    learner.train()  # backbones come as they are for answers, and Lightning leaves it at that
    with _explained(folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch)\b")
        trainer.fit(
            tuner,
            loader(source, order, hardware.workers),
            validated,
            ckpt_path=last if last.exists() else None,
            weights_only=True,
        )
    learner.to("cpu")
    load_best(learner, folder)
    trainer.strategy.barrier("best")  # before the first process removes what the others read
    rows = tuple(curve.rows)
    losses = [r.get("validation_loss", math.inf) for r in rows]
    best = min(range(len(rows)), key=losses.__getitem__) if checked and rows else len(rows) - 1
    stops = [c for c in keeping if isinstance(c, EarlyStopping)]
    steps = trainer.global_step
    cut = steps < planned and not any(c.stopped_epoch for c in stops)
    return Learnt(rows, best, steps, planned, tuner.micro, curve.seconds, cut)


def load_best(learner: nn.Module, folder: Path) -> None:
    """Give a learner the weights its best epoch had, else its last.

    Raises
    ------
    StoreError
        There are none, or they are of another model.
    """
    file = next((f for f in (folder / BEST, folder / LAST) if f.exists()), None)
    if file is None:
        raise StoreError(f"{folder}: no checkpoint; the run ended before its first")
    with _explained(folder):
        kept = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
        learner.load_state_dict({k.removeprefix("learner."): v for k, v in kept.items()})
    learner.eval()


def _precision(hardware: Hardware) -> str:
    chosen = hardware.precision
    if chosen == "auto":
        chosen = "bfloat16" if has_bfloat16(hardware.device) else "float32"
    if chosen not in {"float32", "bfloat16"}:
        raise UsageError(f"--precision {chosen}: give auto, float32 or bfloat16")
    return {"float32": "32-true", "bfloat16": "bf16-mixed"}[chosen]


def _logger(name: str, folder: Path) -> Any:
    """Return one of Lightning's loggers."""
    from pytorch_lightning import loggers

    if name not in LOGGERS:
        raise UsageError(f"--logger {name}: give {', '.join(LOGGERS)}")
    try:
        if name == "tensorboard":
            return loggers.TensorBoardLogger(folder, name="", version="tensorboard")
        if name == "wandb":
            return loggers.WandbLogger(folder.name, folder, project="embedstore")
        if name == "mlflow":
            return loggers.MLFlowLogger("embedstore", tracking_uri=f"file:{folder / 'mlflow'}")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--logger {name} needs a package: pip install 'embedstore[{name}]'"
        ) from error
    return False


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what torch and Lightning raise into one line."""
    try:
        yield
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    except StoreError as error:
        if LAST not in str(error) and BEST not in str(error):
            raise
        raise StoreError(
            f"{error}; the last good checkpoint stays: make room and run the same command again to "
            f"go on"
        ) from error
    except (pickle.UnpicklingError, EOFError) as error:
        raise StoreError(f"{folder}: a checkpoint is damaged; {_ANEW}") from error
    except (RuntimeError, KeyError) as error:
        text = " ".join(str(error).split())
        if "state_dict" in text or "size mismatch" in text or isinstance(error, KeyError):
            raise StoreError(f"{folder}: a checkpoint is of another model; {_ANEW}") from error
        if "PytorchStreamReader" in text or "zip archive" in text:
            raise StoreError(f"{folder}: a checkpoint is damaged; {_ANEW}") from error
        raise


def _hush() -> None:
    """Lightning tells of devices and tips; what matters is told by us."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)

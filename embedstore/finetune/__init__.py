"""The other path: a backbone fine-tuned end to end, on the footing of the probes.

Data goes one way: kept pictures of a store (`batches`), changed a little (`augment`), through the
image side of a backbone and a last layer (`network`, `objectives`), step by step (`tuner`) under
PyTorch Lightning's trainer (`fit`), for each training side of a split to a report (`run`) and a
`folder`. What needs PyTorch Lightning, seconds to import, loads on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from embedstore.finetune.settings import RECIPES, Settings, settings_of

if TYPE_CHECKING:
    from embedstore.finetune.fit import Hardware
    from embedstore.finetune.job import Job
    from embedstore.finetune.run import finetune

__all__ = ["RECIPES", "Hardware", "Job", "Settings", "finetune", "settings_of"]

_HOMES = {"Hardware": "fit", "Job": "job", "finetune": "run"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'embedstore.finetune' has no attribute {name!r}")
    return getattr(import_module(f"embedstore.finetune.{_HOMES[name]}"), name)

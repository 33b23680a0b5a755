"""What is fine-tuned on what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from embedstore.finetune.fit import Hardware
from embedstore.finetune.settings import Settings
from embedstore.store import Store
from embedstore.types import Backbone, Spec

__all__ = ["Job", "Sentences"]

Sentences = Mapping[str, Sequence[str]]
"""Class to what is said of it."""


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

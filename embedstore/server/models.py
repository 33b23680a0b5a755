"""The models behind the vectors: each loaded when it is first needed, used one call at a time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from embedstore.backbones import load_of
from embedstore.encode import autocast, normalised
from embedstore.errors import EmbedstoreError, ImageError, UsageError
from embedstore.feed import stacked
from embedstore.plan import choose_device
from embedstore.prompts.lengths import check_lengths
from embedstore.server.problems import Busy
from embedstore.types import Backbone, Floats, Pixels, Spec, unit_rows

WAITING = 64
"""Calls that may wait for the models."""

AGAIN = 60.0
"""Seconds after which a model that could not be loaded is tried again."""

_SENTENCES = 4096  # vectors kept

T = TypeVar("T")


class Models:
    """Backbones by their Spec, in one thread.

    Parameters
    ----------
    names
        ``NAME[@WEIGHTS]`` or folder of each backbone that is not to be found by its own name.
    """

    def __init__(self, names: Mapping[str, str], device: str) -> None:
        self._names, self._device = names, choose_device(device)
        self._thread = ThreadPoolExecutor(1, "models")
        self._waiting = 0
        self._loaded: dict[str, Backbone] = {}
        self._failed: dict[str, tuple[float, EmbedstoreError]] = {}
        self._sentences: OrderedDict[tuple[str, str], Floats] = OrderedDict()

    def text(self, spec: Spec, sentences: Sequence[str]) -> Future[Floats]:
        """(m, d) unit vectors of sentences.

        Raises
        ------
        BackboneError
            The model cannot be had.
        UsageError
            There is no text side, or a sentence is longer than the model reads.
        Busy
            Too many wait.
        """
        if not spec.text:
            raise UsageError(
                f"{spec.backbone} has no text side; choose an image-text model's vectors"
            )
        return self._submit(lambda: self._text(spec, sentences))

    def image(self, spec: Spec, precision: str, picture: Pixels) -> Future[Floats]:
        """(d,) vector of a picture that the Spec's recipe made, as extraction makes it."""
        return self._submit(lambda: self._image(spec, precision, picture))

    def close(self) -> None:
        """Give up what waits."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        if self._waiting >= WAITING:
            raise Busy(f"{WAITING} calls already wait for the model; try again in a moment")
        self._waiting += 1
        future = self._thread.submit(work)
        future.add_done_callback(lambda _: self._one_less())
        return future

    def _one_less(self) -> None:
        self._waiting -= 1

    def _model(self, spec: Spec) -> Backbone:
        when, error = self._failed.get(spec.key, (0.0, None))
        if error is not None and time.monotonic() - when < AGAIN:
            raise error
        if spec.key not in self._loaded:
            try:
                name = self._names.get(spec.backbone, "")
                self._loaded[spec.key] = load_of(spec, name, self._device)
            except EmbedstoreError as failed:
                self._failed[spec.key] = time.monotonic(), failed
                raise
        return self._loaded[spec.key]

    def _text(self, spec: Spec, sentences: Sequence[str]) -> Floats:
        fresh = [s for s in dict.fromkeys(sentences) if (spec.key, s) not in self._sentences]
        if fresh:
            backbone = self._model(spec)
            check_lengths(backbone, fresh)
            with torch.inference_mode():
                vectors = backbone.encode_text(fresh).float().cpu().numpy()
            for sentence, vector in zip(fresh, unit_rows(vectors), strict=True):
                self._sentences[spec.key, sentence] = vector
        found = np.stack([self._sentences[spec.key, s] for s in sentences])
        for sentence in sentences:
            self._sentences.move_to_end((spec.key, sentence))
        while len(self._sentences) > _SENTENCES:
            self._sentences.popitem(last=False)
        return found

    def _image(self, spec: Spec, precision: str, picture: Pixels) -> Floats:
        backbone = self._model(spec)
        with torch.inference_mode(), autocast(self._device, precision):
            levels = stacked([picture], self._device)
            batch = normalised(spec.recipe, levels, 1, self._device)
            vector: Floats = backbone.encode_image(batch).float().cpu().numpy()[0]
        if not np.isfinite(vector).all():
            raise ImageError("encode", "its vector is not finite")
        return vector

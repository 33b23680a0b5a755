"""Batches of pictures to vectors, on one device or several at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedstore.backlog import Job
from embedstore.errors import EmbedstoreError
from embedstore.feed import Batch, Feed, Levels
from embedstore.heap import stop_keeping
from embedstore.plan import Plan
from embedstore.types import Backbone, Floats, Recipe

Vectors = Mapping[str, Floats]
"""(b, d) of each Spec's key; rows that are not finite are the caller's to judge."""

LONGEST = 1.0
"""Seconds a batch may take when its size is found by trying: a stopped run waits for one batch."""

# of torch's allocators, and of oneDNN where it cannot have its workspace
_NO_MEMORY = (
    *("can't allocate memory", "not enough memory", "out of memory"),
    *("could not create a primitive", "could not create a memory"),
)
_GAIN = 1.05  # a size twice as large must be faster by this
_SHARE = 20  # of the images, what trying sizes may cost


class Encoders:
    """The backbones on each of the devices, every device in a thread of its own.

    Parameters
    ----------
    copies
        The same backbones for each device of the plan, in the plan's order.

    Attributes
    ----------
    limit
        The most images one call takes; halved when a device runs out of memory.
    made
        What the provenance of the vectors says of it, besides the plan.
    """

    def __init__(self, copies: Sequence[Sequence[Backbone]], plan: Plan) -> None:
        self._plan = plan
        self._idle: SimpleQueue[tuple[str, Sequence[Backbone]]] = SimpleQueue()
        for device, backbones in zip(plan.devices, copies, strict=True):
            self._idle.put((device, backbones))
        self._threads = ThreadPoolExecutor(len(copies))
        self._compiled: dict[int, Any] = {}
        self.made: dict[str, Any] = {}
        self.limit = plan.batch_size

    def __enter__(self) -> Encoders:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for the batches at work and give up those that wait."""
        self._threads.shutdown(cancel_futures=True)

    def encoded(self, feed: Feed, job: Job) -> Generator[tuple[Batch, Vectors]]:
        """Yield batches with their vectors in order, as many at work as there are devices."""
        keys = [b.spec.key for b in job.backbones]
        at_work: deque[tuple[Batch, Future[Vectors]]] = deque()
        with closing(feed.batches(self._plan.batch_size)) as batches:
            for batch in batches:
                at_work.append((batch, self.submit(batch, keys)))
                if len(at_work) > len(self._plan.devices):
                    done, vectors = at_work.popleft()
                    yield done, vectors.result()
            for done, vectors in at_work:
                yield done, vectors.result()

    def submit(self, batch: Batch, keys: Sequence[str]) -> Future[Vectors]:
        """Encode a batch by the backbones of these Specs, on whichever device is free first."""
        return self._threads.submit(self._encode, batch.levels, len(batch.items), keys)

    def _encode(self, levels: Mapping[str, Levels], images: int, keys: Sequence[str]) -> Vectors:
        device, backbones = self._idle.get()
        try:
            return {
                b.spec.key: self._vectors(b, device, levels[b.spec.recipe.pixel_key], images)
                for b in backbones
                if b.spec.key in keys and images
            }
        finally:
            self._idle.put((device, backbones))

    def _vectors(self, backbone: Backbone, device: str, levels: Levels, images: int) -> Floats:
        parts: list[NDArray[Any]] = []
        with torch.inference_mode(), autocast(device, self._plan.precision):
            while (done := sum(map(len, parts))) < images:
                some = range(done, min(done + self.limit, images))
                these = levels if len(some) == images else part_of(levels, some)
                part = self._try(backbone, device, these, len(some))
                if part is not None:
                    parts.append(part)
        vectors: Floats = np.concatenate(parts)
        return vectors

    def _try(self, backbone: Backbone, device: str, levels: Levels, images: int) -> Floats | None:
        """Encode, or halve the limit where memory does not suffice."""
        try:
            batch = normalised(backbone.spec.recipe, levels, images, device)
            vectors: Floats = self._call(backbone)(batch).float().cpu().numpy()
            return vectors
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        # after the except block, which holds on to what the failed call had allocated
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
        else:
            stop_keeping()
        if images == 1:
            raise EmbedstoreError(
                f"{backbone.spec.backbone}: not enough memory for one image ({reason}); "
                f"use another --device"
            )
        self.limit = min(self.limit, (images + 1) // 2)
        return None

    def _call(self, backbone: Backbone) -> Any:
        if not self._plan.compile:
            return backbone.encode_image
        if id(backbone) not in self._compiled:
            self._compiled[id(backbone)] = torch.compile(backbone.encode_image)
        return self._compiled[id(backbone)]


def part_of(levels: Levels, some: range) -> Levels:
    """Return the pictures of some places of a batch, which are counted from 0 then."""
    wanted = [(places >= some.start) & (places < some.stop) for places, _ in levels]
    return [
        (places[mask] - some.start, values[mask])
        for (places, values), mask in zip(levels, wanted, strict=True)
        if mask.any()
    ]


def normalised(recipe: Recipe, levels: Levels, images: int, device: str) -> torch.Tensor:
    """Scale grey levels to 0..1 and normalise them, on the device.

    Returns
    -------
    Tensor
        (n, c, H, W) float32 in channels-last order, which convolutions are faster in.
    """
    shape = (images, len(recipe.mean), *recipe.size)
    out = torch.empty(shape, device=device, memory_format=torch.channels_last)
    mean, std = (
        torch.tensor(v, dtype=torch.float32, device=device)[:, None, None]
        for v in (recipe.mean, recipe.std)
    )
    for places, values in levels:
        most = torch.iinfo(values.dtype).max
        unit = values.to(device, non_blocking=True).float() / most
        channels = unit[:, None] if unit.ndim == 3 else unit.permute(0, 3, 1, 2)
        if len(places) == images:
            torch.div(channels - mean, std, out=out)
        else:
            out[places.to(device)] = (channels - mean) / std
    return out


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which a backbone runs in that precision."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def is_out_of_memory(error: Exception) -> bool:
    """Tell memory that did not suffice from other errors: torch has no type for it on a CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        text in str(error) for text in _NO_MEMORY
    )


def find_batch_size(copies: Sequence[Sequence[Backbone]], plan: Plan, images: int) -> int:
    """Find by trying how many images at a time the first device encodes fastest.

    Sizes double as long as that makes it faster, a batch takes a second at most, memory suffices
    and trying costs no more than a twentieth of the `images`.
    """
    device, backbones = plan.devices[0], copies[0]
    size = 8 if device == "cpu" else 32
    tried = 2 * size  # once to warm up
    best, rate = min(size, max(1, images)), 0.0
    while tried * _SHARE <= images:
        try:
            seconds = _seconds(backbones, plan, device, size)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if size / seconds < rate * _GAIN:
            break
        best, rate = size, size / seconds
        if seconds * 2 > LONGEST:
            break
        size *= 2
        tried += 2 * size
    return best


def _seconds(backbones: Sequence[Backbone], plan: Plan, device: str, size: int) -> float:
    """Return what a batch takes, of all backbones together; the first time does not count."""
    taken = 0.0
    with torch.inference_mode(), autocast(device, plan.precision):
        for backbone in backbones:
            recipe = backbone.spec.recipe
            batch = torch.zeros(size, len(recipe.mean), *recipe.size, device=device)
            batch = batch.to(memory_format=torch.channels_last)
            backbone.encode_image(batch).cpu()
            began = time.perf_counter()
            backbone.encode_image(batch).cpu()
            taken += time.perf_counter() - began
    return taken

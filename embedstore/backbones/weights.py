"""What identifies a model's weights, and what can be said when they will not load."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from embedstore.errors import BackboneError


def state_sha256(state: Mapping[str, torch.Tensor], architecture: str) -> str:
    """Hash names, types, shapes and bytes of all tensors, and the architecture they belong to.

    The same weights give the same hash from a ``.bin``, a ``.safetensors`` or the hub.
    """
    digest = hashlib.sha256(architecture.encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Turn what torch, timm, open_clip or the hub's client raise into one line with a remedy."""
    try:
        yield
    except BackboneError:
        raise
    except pickle.UnpicklingError as error:
        reason = "a pickle of something other than tensors; it could run code, so it is not loaded"
        raise BackboneError(f"{what}: {reason}; {remedy}") from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2])[:300] or type(error).__name__
        raise BackboneError(f"{what}: {reason}; {remedy}") from error


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Draw random weights from a fixed seed, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield

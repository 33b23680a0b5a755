"""Vectors of new images and of sentences, made as those of a store were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from embedstore.backbones import load_of
from embedstore.errors import BackboneError
from embedstore.extract import Summary, extract
from embedstore.plan import choose, choose_device
from embedstore.store import Store
from embedstore.texts import class_vectors
from embedstore.types import Backbone, Floats, Sample, Spec


def embed_images(
    samples: Sequence[Sample],
    folder: Path,
    spec: Spec,
    precision: str,
    model: str = "",
    device: str = "auto",
    workers: int = -1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Store, Summary]:
    """Embed images by the recipe and backbone of a Spec, into a store of their own in `folder`.

    Parameters
    ----------
    model
        ``NAME[@WEIGHTS]`` or a folder; by default the Spec's own name.

    Raises
    ------
    BackboneError
        The model cannot be had.
    SpecMismatch
        It is another one.
    """
    chosen = choose_device(device)
    backbone = load_of(spec, model, chosen)
    plan = choose(chosen, precision, 0, workers, len(samples))
    target = folder / "images.zarr"
    summary = extract(samples, target, [backbone], plan, on_progress=on_progress)
    return Store.open(target), summary


def embed_text(sentences: Sequence[str], spec: Spec, model: str = "") -> Floats:
    """Return one (d,) unit vector of sentences, the mean of theirs, by the text side of a Spec.

    Raises
    ------
    BackboneError
        There is no text side, or the model cannot be had.
    SpecMismatch
        `model` is another one.
    """
    return class_vectors(text_side(spec, model), {"": sentences})[""]


def text_side(spec: Spec, model: str = "", device: str = "cpu") -> Backbone:
    """Load the model of a Spec, by `model` or its own name, for its text side.

    Raises
    ------
    BackboneError
        There is no text side, or the model cannot be had.
    SpecMismatch
        `model` is another one.
    """
    if not spec.text:
        raise BackboneError(
            f"{spec.backbone} has no text side; sentences need vectors of an image-text model, "
            f"such as biomedclip"
        )
    return load_of(spec, model, choose_device(device))

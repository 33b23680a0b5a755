"""Classes by their descriptions, as vectors beside those of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from embedstore.errors import UsageError
from embedstore.types import Backbone, Floats, unit_rows


def class_vectors(backbone: Backbone, sentences: Mapping[str, Sequence[str]]) -> dict[str, Floats]:
    """Return a (d,) unit vector for each class: the mean of its sentences' unit vectors.

    As CLIP's ensembles of prompts (Radford et al. 2021, arXiv 2103.00020, section 3.1.4).

    Raises
    ------
    BackboneError
        The backbone has no text side.
    """
    found = {}
    for name, texts in sentences.items():
        with torch.inference_mode():
            vectors = backbone.encode_text(list(texts)).float().cpu().numpy()
        found[name] = unit_rows(unit_rows(vectors).mean(axis=0, keepdims=True))[0]
    return found


def by_class(prompts: Sequence[str]) -> dict[str, list[str]]:
    """Take ``CLASS=SENTENCE`` apart; a class may have several."""
    found: dict[str, list[str]] = {}
    for prompt in prompts:
        name, equals, sentence = prompt.partition("=")
        if not equals or not sentence.strip():
            raise UsageError(f"--prompt takes CLASS=SENTENCE, not {prompt!r}")
        found.setdefault(name.strip(), []).append(sentence.strip())
    return found

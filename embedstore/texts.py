"""Classes by their descriptions, as vectors beside those of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

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


def read_prompts(file: Path) -> list[str]:
    """Read ``CLASS=SENTENCE`` lines, as `by_class` takes them; blank ones and # are left out."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        name, equals, sentence = line.partition("=")
        if line.strip() and line[0] != "#" and not (equals and name.strip() and sentence.strip()):
            raise UsageError(f"{file}:{number}: a line is CLASS=SENTENCE, not {line!r}")
    return [line for line in lines if line.strip() and line[0] != "#"]

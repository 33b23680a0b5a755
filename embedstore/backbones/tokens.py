"""How long texts are for open_clip's tokenizers, which cut what is too long without a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from open_clip.tokenizer import basic_clean, canonicalize_text


def token_counts(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Count the tokens of each text, special ones included, as if there were no limit."""
    inner = getattr(tokenizer, "tokenizer", None)
    if not texts:
        return []
    if inner is None:  # CLIP's own: one token to start, one to end
        return [len(tokenizer.encode(text)) + 2 for text in texts]
    clean = getattr(tokenizer, "clean_fn", _as_siglip)
    # CLIPS takes the text alone and adds three tokens of its own
    own = 3 if getattr(tokenizer, "tokenizer_mode", "") == "clips" else 0
    ids = inner(
        [clean(text) for text in texts],
        add_special_tokens=not own,
        truncation=False,
        verbose=False,
    ).input_ids
    return [len(of_text) + own for of_text in ids]


def _as_siglip(text: str) -> str:
    cleaned: str = canonicalize_text(basic_clean(text))
    return cleaned

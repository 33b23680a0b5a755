"""Prompts longer than a model reads are cut by its tokenizer without a word; here with one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Protocol, runtime_checkable

from embedstore.errors import UsageError

_BATCH = 512


@runtime_checkable
class CountsTokens(Protocol):
    """A backbone that says how its text side tokenises."""

    @property
    def context_length(self) -> int:
        """The longest sentence it reads whole, in tokens."""

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Count each text's tokens, those the model adds included, as if there were no limit."""


def check_lengths(backbone: object, sentences: Iterable[str]) -> bool:
    """Check that a backbone reads sentences whole.

    Returns
    -------
    bool
        False where the backbone does not say how it counts (`CountsTokens`).

    Raises
    ------
    UsageError
        A sentence would be cut; names it, its tokens and the limit.
    """
    if not isinstance(backbone, CountsTokens):
        return False
    limit, waiting = backbone.context_length, iter(sentences)
    while batch := list(islice(waiting, _BATCH)):
        counts = backbone.token_counts(batch)
        worst = max(range(len(batch)), key=counts.__getitem__)
        if counts[worst] > limit:
            raise UsageError(
                f"{batch[worst]!r} is {counts[worst]} tokens long and the model reads {limit}: it "
                f"would be cut; shorten the description or the template"
            )
    return True

"""What a Tab completes after an option that takes a name; nothing that is named is loaded."""

from __future__ import annotations


def heads(incomplete: str) -> list[str]:
    """Return the installed heads whose names begin so."""
    from embedstore.registry import PROBES, available

    return [name for name in available(PROBES) if name.startswith(incomplete)]


def backbones(incomplete: str) -> list[str]:
    """Return the installed backbones whose names begin so."""
    from embedstore.registry import BACKBONES, available

    return [name for name in available(BACKBONES) if name.startswith(incomplete)]


def prompt_sets(incomplete: str) -> list[str]:
    """Return the built-in prompt sets whose names begin so."""
    from embedstore.prompts.sets import built_in

    return [name for name in built_in() if name.startswith(incomplete)]

"""A text with slots: ``{The breast|The breasts}``, ``{n=is|are}``, ``{}`` for the class.

A slot without a name is a choice of its own. Slots of one name are one choice: everywhere the name
stands in a sentence the k-th alternative is taken, so that what must agree does.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

_SLOT = re.compile(r"\{([^{}]*)\}")
_NAMED = re.compile(r"([A-Za-z][\w-]*)=(.*)", re.DOTALL)


class PatternError(ValueError):
    """A text whose slots cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place with alternatives, one of which stands in a sentence."""

    name: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text taken apart: words as they are, slots, and None where the class stands.

    `line` is where it stands in its file.
    """

    text: str
    parts: tuple[str | Slot | None, ...]
    line: int = field(default=0, compare=False)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Its slots, in order."""
        return tuple(p for p in self.parts if isinstance(p, Slot))

    def render(self, choice: Mapping[str, int], label: str = "{}") -> str:
        """Write it out with the `choice` of each slot's name; single spaces, none at the ends."""
        words = (
            label if p is None else p.choices[choice[p.name]] if isinstance(p, Slot) else p
            for p in self.parts
        )
        return " ".join("".join(words).split())


def parse(
    text: str,
    slots: Mapping[str, tuple[str, ...]],
    scope: str = "",
    taken: Counter[str] | None = None,
) -> Pattern:
    """Take a text apart.

    Parameters
    ----------
    slots
        Alternatives by name, for ``{name}``.
    scope
        Goes before the names of nameless slots.
    taken
        Counts nameless slots that read the same, so that each has a name of its own; the same
        counter for texts that stand in one sentence set.

    Raises
    ------
    PatternError
        A brace too many or too few, an unknown name, an alternative twice.
    """
    taken = Counter() if taken is None else taken
    parts: list[str | Slot | None] = []
    for i, piece in enumerate(_SLOT.split(text)):
        if i % 2:
            parts.append(_slot(piece, slots, scope, taken))
            continue
        if "{" in piece or "}" in piece:
            raise PatternError(f"unbalanced brace in {text!r}; slots are {{a|b}}, not nested")
        parts.append(piece)
    return Pattern(text, tuple(parts))


def _slot(
    inside: str, slots: Mapping[str, tuple[str, ...]], scope: str, taken: Counter[str]
) -> Slot | None:
    if inside.strip() in {"", "label"}:
        return None
    if named := _NAMED.fullmatch(inside):
        name, choices = named[1], tuple(named[2].split("|"))
    elif "|" in inside:
        name, choices = _own_name(scope + inside, taken), tuple(inside.split("|"))
    elif inside.strip() in slots:
        name, choices = inside.strip(), slots[inside.strip()]
    else:
        known = ", ".join(f"{{{n}}}" for n in slots) or "none are defined under `slots:`"
        raise PatternError(
            f"unknown slot {{{inside}}}; known: {known}; alternatives are written {{a|b}}"
        )
    if twice := [c for c, n in Counter(choices).items() if n > 1 and "=" not in inside]:
        raise PatternError(f"the alternative {twice[0]!r} stands twice in {{{inside}}}")
    return Slot(name, choices)


def _own_name(name: str, taken: Counter[str]) -> str:
    taken[name] += 1
    return name if taken[name] == 1 else f"{name} ({taken[name]})"


def axes(patterns: Iterable[Pattern]) -> dict[str, Slot]:
    """Return the choices to be made for patterns that stand in one sentence, by name."""
    found: dict[str, Slot] = {}
    for slot in (slot for pattern in patterns for slot in pattern.slots):
        found.setdefault(slot.name, slot)
    return found


def choices(of: Mapping[str, Slot]) -> Iterator[dict[str, int]]:
    """Yield every combination of choices, one at a time."""
    for picks in itertools.product(*(range(len(slot.choices)) for slot in of.values())):
        yield dict(zip(of, picks, strict=True))

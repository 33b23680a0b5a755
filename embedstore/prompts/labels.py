"""The label values of a user's table, and the classes of a prompt set they mean."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from embedstore.errors import UsageError


def plain(value: str) -> str:
    """Reduce a label to what matters: ``BI-RADS_a`` to ``bi rads a``, ``1.0`` to ``1``."""
    text = " ".join(re.split(r"[\s_-]+", value.casefold())).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if math.isfinite(number) and number == int(number) else text


def match(
    classes: Mapping[str, tuple[str, ...]], values: Iterable[str], name: str
) -> dict[str, str]:
    """Return label value to class, in the order of the classes.

    Parameters
    ----------
    classes
        Class to its aliases.
    values
        Distinct label values, compared without case, hyphens and doubled spaces.
    name
        Of the set, for messages.

    Raises
    ------
    UsageError
        A value the set does not know, two that mean one class, or fewer than two.
    """
    known = {plain(word): c for c, aliases in classes.items() for word in (c, *aliases)}
    found: dict[str, str] = {}
    for value in dict.fromkeys(values):
        if plain(value) not in known:
            raise UsageError(_unknown(value, classes, name))
        own = known[plain(value)]
        if own in found:
            raise UsageError(
                f"the labels {found[own]!r} and {value!r} are both {own} in the prompt set "
                f"{name}; write them alike (`embedstore update`)"
            )
        found[own] = value
    if len(found) < 2:
        raise UsageError(
            f"prompts tell classes apart, and there is only {', '.join(found.values()) or 'none'}; "
            f"two label values or more are needed"
        )
    return {found[c]: c for c in classes if c in found}


def _unknown(value: str, classes: Mapping[str, tuple[str, ...]], name: str) -> str:
    shown = "; ".join(
        f"{c} ({', '.join(aliases[:4])}{', …' if len(aliases) > 4 else ''})" if aliases else c
        for c, aliases in classes.items()
    )
    return (
        f"the prompt set {name} has no class for the label {value!r}; it knows {shown}. Add it as "
        f"an alias in a copy of your own: `embedstore prompts show {name} > mine.yaml`, then "
        f"under `classes:` to the class it means"
    )

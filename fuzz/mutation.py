"""JSON changed at a random place, so that what reads it gets past the parser."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

_ODD = (
    None,
    True,
    -1,
    0,
    1.5,
    2**20,
    2**63,
    10**30,
    float("inf"),
    float("nan"),
    "",
    "x",
    "\ud800",
    "\0",
    "../..",
    [],
    {},
    [[]],
    [None],
    {"x": {}},
)


def changed(data: bytes, chance: random.Random) -> bytes | None:
    """Change one to three values of a JSON text; None where it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    for _ in range(chance.randint(1, 3)):
        value = _changed(value, chance)
    return json.dumps(value).encode()


def _changed(root: Any, chance: random.Random) -> Any:
    places = list(_places(root))
    if not places:
        return copy.deepcopy(chance.choice(_ODD))
    holder, key = chance.choice(places)
    change: Callable[[], None] = chance.choice(
        [
            lambda: holder.__setitem__(key, copy.deepcopy(chance.choice(_ODD))),
            lambda: holder.__delitem__(key),
            lambda: _exchange(holder, key, *chance.choice(places)),
            lambda: _rename(holder, key, chance),
        ]
    )
    change()
    return root


def _places(node: Any) -> Any:
    """Yield each (list or dict, key) below a node."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(node, dict | list):
        pairs = list(node.items() if isinstance(node, dict) else enumerate(node))
    for key, value in pairs:
        yield node, key
        yield from _places(value)


def _exchange(one: Any, key: Any, other: Any, its: Any) -> None:
    # as copies: one may be within the other
    one[key], other[its] = copy.deepcopy(other[its]), copy.deepcopy(one[key])


def _rename(holder: Any, key: Any, chance: random.Random) -> None:
    if isinstance(holder, dict):
        holder[chance.choice([f"{key}x", "", "zarr.json", "a/b"])] = holder.pop(key)
    else:
        holder.append(copy.deepcopy(holder[key]))

"""Plug-ins by name, through entry points; only the one asked for is imported.

A third-party package adds a head or a backbone with one line of its own ``pyproject.toml``::

    [project.entry-points."embedstore.probes"]
    myhead = "mypackage.heads:MyHead"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from embedstore.errors import EmbedstoreError, UnknownName, did_you_mean

PROBES = "embedstore.probes"
BACKBONES = "embedstore.backbones"
_NOUNS = {PROBES: "head", BACKBONES: "backbone"}


def available(group: str) -> dict[str, EntryPoint]:
    """Map the installed names of a group to their entry points, sorted; imports nothing.

    Raises
    ------
    EmbedstoreError
        Two packages claim one name; both are named.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise EmbedstoreError(
                f"{group} {point.name!r} is claimed twice: {_owner(other)} and {_owner(point)}; "
                f"uninstall one"
            )
    return dict(sorted(found.items()))


def load(group: str, name: str) -> Any:
    """Import and return the plug-in `name`; `UnknownName` as in `known`."""
    return known(group, name).load()


def known(group: str, name: str) -> EntryPoint:
    """Return the entry point of the plug-in `name`; imports nothing.

    Raises
    ------
    UnknownName
        No such plug-in; the message lists the known ones.
    """
    points = available(group)
    if name not in points:
        hint = did_you_mean(name, points)
        raise UnknownName(f"no {_NOUNS[group]} {name!r}; there are {', '.join(points)}{hint}")
    return points[name]


def _owner(point: EntryPoint) -> str:
    dist = point.dist.name if point.dist else "an unnamed package"
    return f"{dist} ({point.value})"

"""What must be said of a score: what was left out, what was taken for what, what was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from embedstore.answered import Answered
from embedstore.choose import Chosen, Grid, at_the_edge
from embedstore.classes import numeric, sounds_unknown
from embedstore.distinct import distinct
from embedstore.subgroups import FEW_PATIENTS, By
from embedstore.types import Embeddings


def image_notes(embeddings: Embeddings, left_out: int, label: str) -> tuple[str, ...]:
    """Say what is unknown of the images, and of classes named so, and that patients are few."""
    notes = []
    if left_out:
        notes.append(f"{left_out} images without {label} left out")
    unknown = int((embeddings.groups == "").sum())
    if unknown:
        notes.append(f"patients unknown for {unknown} images: each counts as a patient of its own")
    patients = len(distinct(embeddings.groups[embeddings.groups != ""])[0]) + unknown
    if patients < FEW_PATIENTS:
        notes.append(
            f"{patients} patients: of fewer than {FEW_PATIENTS}, scores and intervals say next to "
            f"nothing"
        )
    for value in distinct(embeddings.columns[label])[0].tolist():
        if sounds_unknown(value):
            notes.append(
                f"{value!r} is a class of {label}; where it means unknown, leave the cell blank "
                f"(`embedstore update`)"
            )
    return tuple(notes)


def subgroup_notes(scored: Answered, by: Sequence[By]) -> tuple[str, ...]:
    """Say how many of what was tested belongs to no subgroup."""
    notes = []
    for one in by:
        parts = one.parts(scored.columns)
        known = sum(int((rows & scored.tested).sum()) for _, rows in parts)
        if unknown := int(scored.tested.sum()) - known:
            notes.append(f"{unknown} without {one.column} are in none of its subgroups")
    return tuple(notes)


def order_notes(classes: tuple[str, ...], order: tuple[str, ...]) -> tuple[str, ...]:
    """Say what of an order no image has, or in which order classes are taken without one."""
    if absent := [name for name in order if name not in classes]:
        return (f"--order names {', '.join(absent)}: no image is of it",)
    if order or len(classes) < 3 or numeric(classes):
        return ()
    return (
        f"quadratic kappa takes the classes in alphabetical order: {', '.join(classes)}; "
        f"give the clinical order with --order",
    )


def grid_notes(name: str, grid: Grid | None, found: Sequence[Chosen]) -> tuple[str, ...]:
    """Say what was chosen how often, and what may have been chosen for want of more."""
    if not grid:
        return ()
    notes = []
    for parameter in grid:
        often = Counter(repr(c.parameters[parameter]) for c in found).most_common()
        said = ", ".join(f"{value} in {n}" for value, n in often)
        where = f"for each of {len(found)} folds" if len(found) > 1 else "on the training side"
        said = said if len(found) > 1 else often[0][0]
        notes.append(f"{name}: {parameter} as chosen {where}: {said}")
    for parameter, end in at_the_edge(grid, [c.parameters for c in found]).items():
        notes.append(
            f"{name}: {parameter} is mostly {end!r}, the edge of what was tried; a wider --grid "
            f"may do better"
        )
    return tuple(notes)

"""What is wrong with a study that can be told before any image is embedded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from embedstore.archive import holds_dicom
from embedstore.classes import order_of
from embedstore.errors import UsageError
from embedstore.finetune import Settings, settings_of
from embedstore.heads import Head
from embedstore.manifest import read_manifest
from embedstore.prompts.labels import match
from embedstore.prompts.sets import PromptSet, load
from embedstore.study.contenders import grid_of, head_of
from embedstore.study.plan import Study
from embedstore.subgroups import By
from embedstore.types import Sample

_OWN = ("id", "group", "exam", "view", "laterality", "split")
_JOIN = ": label it by `embedstore extract … --join TABLE` and give the study that store"


def heads_of(study: Study) -> list[tuple[Head, str]]:
    """Load the heads, each with the name it contends by."""
    found = [head_of(choice) for choice in study.heads]
    for (head, name), choice in zip(found, study.heads, strict=True):
        if choice.grid and not study.sweep:
            raise UsageError(f"{name}: its grid is of a sweep, and sweep is false; leave one out")
        grid_of(head, choice.grid)
    return found


def sets_of(study: Study) -> list[PromptSet]:
    """Load the prompt sets."""
    return [load(choice.set) for choice in study.prompts]


def settings_of_all(study: Study) -> list[Settings]:
    """Return the settings of each fine-tune."""
    return [
        settings_of(c.recipe, [f"{k}={v}" for k, v in c.settings.items()], seed=study.seed)
        for c in study.finetune
    ]


def check(study: Study) -> None:
    """Refuse a study that cannot be carried out, before what may be hours of extraction.

    Raises
    ------
    UsageError
        A head, a setting or a prompt set is not known.
    """
    heads_of(study)
    sets_of(study)
    settings_of_all(study)


def check_manifest(study: Study, path: Path) -> None:
    """Refuse columns, an order and groupings that a table does not have.

    Raises
    ------
    UsageError
        A column or class is not there.
    DataError
        The order leaves a class out.
    """
    wanted = [study.label, *(By.parse(text).column for text in study.by)]
    if path.is_dir() and holds_dicom(path):
        _known(wanted, ("view", "laterality"), f"{path}: a DICOM archive", _JOIN)
        return
    table = read_manifest(path, study.columns)
    _known(wanted, (*table.labels, *_OWN), str(path), "")
    values = [_value(sample, study.label) for sample in table.samples]
    check_classes(study, [v for v in values if v])


def check_classes(study: Study, labels: Sequence[str]) -> None:
    """Refuse an order, groupings and prompt sets that do not go with the classes."""
    classes = order_of(np.array(labels, dtype=np.str_), study.order)
    for grouping in study.grouping:
        if unknown := [c for c in grouping if c not in classes]:
            raise UsageError(f"grouping: no class {unknown[0]!r}; there are {', '.join(classes)}")
    for one in sets_of(study):
        match(one.classes, classes, one.name)


def _known(wanted: Iterable[str], there: Iterable[str], where: str, do: str) -> None:
    known = tuple(dict.fromkeys(there))
    for name in wanted:
        if name not in known:
            raise UsageError(f"{where}: no column {name!r}; there are {', '.join(known)}{do}")


def _value(sample: Sample, column: str) -> str:
    return sample.labels[column] if column in sample.labels else str(getattr(sample, column))

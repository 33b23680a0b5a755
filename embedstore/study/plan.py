"""What a study compares: said in a TOML file or by flags, and checked before any work."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embedstore.errors import UsageError, did_you_mean
from embedstore.levels import LEVELS
from embedstore.metrics import refuse_unknown
from embedstore.places import inside
from embedstore.subgroups import By

FOLDS, TEST_SHARE = 5, 0.2


@dataclass(frozen=True, slots=True)
class HeadChoice:
    """A head as `heads.load_heads` takes it, and its parameters that are not the defaults.

    `grid` is what a sweep tries; by default what the head itself says.
    """

    head: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptsChoice:
    """A prompt set on the vectors of a backbone.

    `variant` names the wording that contends; without it, it is chosen where it is not tested.
    """

    backbone: str
    set: str
    variant: str = ""


@dataclass(frozen=True, slots=True)
class FinetuneChoice:
    """A fine-tune of a backbone.

    Attributes
    ----------
    recipe, settings
        As `finetune.settings_of` takes them.
    weights
        ``NAME[@WEIGHTS]`` or a folder that holds the model; by default the backbone's name.
    sentences
        Class to sentences, for the objective contrastive.
    """

    backbone: str
    name: str = ""
    recipe: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    sentences: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Study:
    """What is compared, and how.

    Attributes
    ----------
    store, manifest
        A store, or what `extract` takes; one of them.
    recipes
        How a manifest's images are prepared, ``NAME`` or ``NAME+RESIZE``; of a store, which of its
        vectors are meant, all by default.
    columns
        Role to column of the manifest, for those without a usual name.
    split
        A file, or ``column[:NAME]``; in place of `folds` and `test_share`.
    metric
        What wordings are ranked by, and parity and the best contender are told by.
    heads, label_fractions
        The first head also learns from these shares of each training side, with its parameters as
        given.
    """

    label: str
    title: str = ""
    store: str = ""
    manifest: str = ""
    recipes: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    split: str = ""
    folds: int = 0
    test_share: float = 0.0
    seed: int = 0
    level: str = "image"
    grouping: tuple[tuple[str, ...], ...] = ()
    by: tuple[str, ...] = ()
    metric: str = "auroc"
    reference: str = ""
    backbones: tuple[str, ...] = ()
    heads: tuple[HeadChoice, ...] = (HeadChoice("logistic"),)
    sweep: bool = True
    label_fractions: tuple[float, ...] = ()
    prompts: tuple[PromptsChoice, ...] = ()
    finetune: tuple[FinetuneChoice, ...] = ()
    audit: bool = True
    map: bool = True

    @property
    def named(self) -> tuple[str, ...]:
        """Every backbone by the name it is given."""
        prompted = [c.backbone for c in self.prompts]
        tuned = [c.backbone for c in self.finetune]
        return tuple(dict.fromkeys((*self.backbones, *prompted, *tuned)))


def read(file: Path) -> Study:
    """Read a study's TOML file; paths in it start where it lies.

    Raises
    ------
    UsageError
        There is no such file, or something in it is not known or does not fit.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{file}: not TOML: {error}") from error
    return study_of(values, f"{file.name}:", file.parent)


def study_of(values: Mapping[str, Any], said: str, base: Path = Path()) -> Study:
    """Check plain values, as TOML gives them, and make a study of them.

    Parameters
    ----------
    said
        What messages begin with.
    base
        Where paths start.

    Raises
    ------
    UsageError
        Something is not known or does not fit.
    """
    found = _table(values, _KEYS, said)
    if "label" not in found:
        raise UsageError(
            f'{said} no label: give the column to predict, label = "density" (--label density)'
        )
    if ("store" in found) == ("manifest" in found):
        raise UsageError(f"{said} give a store or a manifest, one of them")
    given = [name for name in ("split", "folds", "test_share") if name in found]
    if len(given) > 1:
        raise UsageError(f"{said} {' and '.join(given)}: one of them says who is tested")
    if "manifest" in found and not any(k in found for k in ("backbones", "prompts", "finetune")):
        raise UsageError(
            f"{said} no backbones: say what the images are to be embedded with, backbones = "
            f'["biomedclip"] (--backbone biomedclip)'
        )
    if (level := found.get("level", LEVELS[0])) not in LEVELS:
        raise UsageError(f"{said} level is {level!r}; known are {', '.join(LEVELS)}")
    refuse_unknown([found["metric"]] if "metric" in found else [])
    if not given:  # a fine-tune for each of five folds is more than anyone expects
        found |= {"test_share": TEST_SHARE} if found.get("finetune") else {"folds": FOLDS}
    for name in ("heads", "prompts", "finetune"):
        kinds, made = _TABLES[name]
        if name in found:
            one = name.removesuffix("s") if name == "heads" else name
            each = [_table(v, kinds, f"{said} [{one}]") for v in found[name]]
            found[name] = tuple(_made(made, v, f"{said} [{one}]") for v in each)
    return _placed(Study(**found), base)


def _made(made: Callable[..., Any], values: Mapping[str, Any], said: str) -> Any:
    needed = "head" if made is _head else "backbone"
    if needed not in values:
        raise UsageError(f"{said} no {needed}")
    if made is PromptsChoice and "set" not in values:
        raise UsageError(f"{said} no set: give a prompt set, such as birads-density")
    return made(**values)


def _head(
    head: str,
    set: Mapping[str, Any] | None = None,  # noqa: A002
    grid: Mapping[str, tuple[Any, ...]] | None = None,
) -> HeadChoice:
    return HeadChoice(head, set or {}, grid or {})


Kind = Callable[[Any], Any]
"""Takes a value as it is to be; raises `ValueError` with what to give instead."""


def _table(values: Any, kinds: Mapping[str, Kind], said: str) -> dict[str, Any]:
    """Check a table's keys and values."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{said} {values!r} is no table of keys and values")
    found = {}
    for name, value in values.items():
        if name not in kinds:
            hint = did_you_mean(name, kinds)
            raise UsageError(f"{said} unknown key {name!r}; known are {', '.join(kinds)}{hint}")
        try:
            found[name] = kinds[name](value)
        except ValueError as error:
            raise UsageError(f"{said} {name} is {value!r}; give {error}") from error
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Sequence) or not value or not all(isinstance(v, str) for v in value):
        raise ValueError("a list of texts")
    return tuple(dict.fromkeys(value))


def _groupings(value: Any) -> tuple[tuple[str, ...], ...]:
    if isinstance(value, Sequence) and value and all(isinstance(v, str) for v in value):
        value = [value]
    try:
        return tuple(_texts(v) for v in value)
    except (TypeError, ValueError) as error:
        raise ValueError('lists of classes, such as [["C", "D"]]') from error


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _whole(least: int) -> Kind:
    def kind(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"a whole number from {least} up")
        return value

    return kind


def _share(most: float) -> Kind:
    def kind(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
            raise ValueError(f"a number above 0 and up to {most:g}")
        return float(value)

    return kind


def _shares(value: Any) -> tuple[float, ...]:
    try:
        return tuple(sorted({_share(1.0)(v) for v in value}))
    except (TypeError, ValueError) as error:
        raise ValueError("shares, such as [0.1, 0.3, 1.0]") from error


def _settings(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("a table of names and values")
    return dict(value)


def _grid(value: Any) -> Mapping[str, tuple[Any, ...]]:
    if not isinstance(value, Mapping) or not all(isinstance(v, list) and v for v in value.values()):
        raise ValueError("a table of names and lists of values, such as {C = [0.01, 0.1, 1.0]}")
    return {name: tuple(own) for name, own in value.items()}


def _names(value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError('roles and columns, such as {patient = "MRN"}')
    return dict(value)


def _sentences(value: Any) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(value, Mapping):
        raise ValueError("a table of classes with their sentences")
    return {name: _texts(own) for name, own in value.items()}


def _bys(value: Any) -> tuple[str, ...]:
    found = _texts(value)
    for text in found:
        By.parse(text)
    return found


def _tables(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Mapping):
        return (value,)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError("tables of their own")
    return tuple(value)


def _heads(value: Any) -> tuple[Any, ...]:
    every = [value] if isinstance(value, str) else list(_tables(value))
    if not every:
        raise ValueError("one head or more")
    return tuple({"head": v} if isinstance(v, str) else v for v in every)


_KEYS: Mapping[str, Kind] = {
    "title": _text,
    "store": _text,
    "manifest": _text,
    "recipes": _texts,
    "columns": _names,
    "label": _text,
    "order": _texts,
    "split": _text,
    "folds": _whole(2),
    "test_share": _share(0.5),
    "seed": _whole(0),
    "level": _text,
    "grouping": _groupings,
    "by": _bys,
    "metric": _text,
    "reference": _text,
    "backbones": _texts,
    "heads": _heads,
    "sweep": _flag,
    "label_fractions": _shares,
    "prompts": _tables,
    "finetune": _tables,
    "audit": _flag,
    "map": _flag,
}

_TABLES: Mapping[str, tuple[Mapping[str, Kind], Callable[..., Any]]] = {
    "heads": ({"head": _text, "set": _settings, "grid": _grid}, _head),
    "prompts": ({"backbone": _text, "set": _text, "variant": _text}, PromptsChoice),
    "finetune": (
        {
            "backbone": _text,
            "name": _text,
            "recipe": _text,
            "settings": _settings,
            "weights": _text,
            "sentences": _sentences,
        },
        FinetuneChoice,
    ),
}


def _placed(study: Study, base: Path) -> Study:
    """Let paths start at `base`: those of data, and names that look like paths."""

    def at(text: str) -> str:
        return str(inside(base, text)) if text else ""

    def model(text: str) -> str:
        name, sign, weights = text.partition("@")
        own = at(name) if _is_path(name) and (base / name).is_dir() else name
        return own + sign + (at(weights) if weights and (base / weights).exists() else weights)

    def file(text: str) -> str:
        where, colon, what = text.partition(".py:")
        return f"{at(where)}.py:{what}" if colon else text

    def words(text: str) -> str:
        return at(text) if (base / text).is_file() else text

    column = study.split == "column" or study.split.startswith("column:")
    return replace(
        study,
        store=at(study.store),
        manifest=at(study.manifest),
        split=study.split if column else at(study.split),
        backbones=tuple(map(model, study.backbones)),
        heads=tuple(replace(h, head=file(h.head)) for h in study.heads),
        prompts=tuple(
            replace(p, backbone=model(p.backbone), set=words(p.set)) for p in study.prompts
        ),
        finetune=tuple(
            replace(f, backbone=model(f.backbone), weights=model(f.weights)) for f in study.finetune
        ),
    )


def _is_path(name: str) -> bool:
    return "/" in name or name.startswith(".")

"""What a study compares: said in a TOML file or by flags, and checked before any work."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embedstore.errors import UsageError
from embedstore.levels import LEVELS
from embedstore.metrics import refuse_unknown
from embedstore.places import inside
from embedstore.study import kinds

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
    found = kinds.table(values, _KEYS, said)
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
        keys, made = _TABLES[name]
        if name in found:
            one = name.removesuffix("s") if name == "heads" else name
            each = [kinds.table(v, keys, f"{said} [{one}]") for v in found[name]]
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


_KEYS: Mapping[str, kinds.Kind] = {
    "title": kinds.text,
    "store": kinds.text,
    "manifest": kinds.text,
    "recipes": kinds.texts,
    "columns": kinds.names,
    "label": kinds.text,
    "order": kinds.texts,
    "split": kinds.text,
    "folds": kinds.whole(2),
    "test_share": kinds.share(0.5),
    "seed": kinds.whole(0),
    "level": kinds.text,
    "grouping": kinds.groupings,
    "by": kinds.bys,
    "metric": kinds.text,
    "reference": kinds.text,
    "backbones": kinds.texts,
    "heads": kinds.heads,
    "sweep": kinds.flag,
    "label_fractions": kinds.shares,
    "prompts": kinds.tables,
    "finetune": kinds.tables,
    "audit": kinds.flag,
    "map": kinds.flag,
}

_TABLES: Mapping[str, tuple[Mapping[str, kinds.Kind], Callable[..., Any]]] = {
    "heads": ({"head": kinds.text, "set": kinds.settings, "grid": kinds.grid}, _head),
    "prompts": ({"backbone": kinds.text, "set": kinds.text, "variant": kinds.text}, PromptsChoice),
    "finetune": (
        {
            "backbone": kinds.text,
            "name": kinds.text,
            "recipe": kinds.text,
            "settings": kinds.settings,
            "weights": kinds.text,
            "sentences": kinds.sentences,
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

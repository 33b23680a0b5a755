"""Heads by the name a user types, and their parameters.

A name is an installed head (``logistic``), a class in a file (``./myhead.py:MyHead``) or in any
importable module (``sklearn.svm:LinearSVC``): a classifier as scikit-learn defines it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from embedstore import registry
from embedstore.errors import UnknownName, UsageError


@dataclass(frozen=True, slots=True)
class Head:
    """A kind of classifier and the parameters that are not its defaults; call it for a new one.

    `where` is what it was loaded by.
    """

    name: str
    make: Callable[..., Any]
    where: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, **more: Any) -> Any:
        """Return an unfitted classifier; `more` goes before the settings."""
        return self.make(**{**self.settings, **more})


def load_heads(names: Sequence[str], settings: Sequence[str] = ()) -> list[Head]:
    """Load heads, and give each the settings that are meant for it.

    Parameters
    ----------
    settings
        ``NAME=VALUE`` for every head that has such a parameter, ``HEAD.NAME=VALUE`` for one head.
        A value is a number, a word, None, True, False or a list of these, as Python writes them.

    Raises
    ------
    UnknownName
        No such head is installed.
    UsageError
        A file or class is not there or is no classifier, or no head has such a parameter.
    """
    heads = [_load(name) for name in dict.fromkeys(names)]
    chosen = _assigned(heads, settings, "--set")
    return [
        Head(h.name, h.make, h.where, {n: _value(text) for n, text in chosen[h.name].items()})
        for h in heads
    ]


def grids(heads: Sequence[Head], given: Sequence[str] = ()) -> dict[str, dict[str, list[Any]]]:
    """Return what a sweep tries of each head, by name: its ``default_grid``, or what is given.

    `given` is ``[HEAD.]NAME=V1,V2,…``. A parameter that was set is not tried.

    Raises
    ------
    UsageError
        No head has such a parameter, or a head has nothing to try.
    """
    assigned = _assigned(heads, given, "--grid")
    found = {}
    for head in heads:
        own = getattr(head.make, "default_grid", {})
        asked = {n: [_value(v) for v in t.split(",")] for n, t in assigned[head.name].items()}
        tried = {n: list(v) for n, v in (asked or own).items() if n not in head.settings}
        if not tried:
            raise UsageError(f"--sweep: nothing to try of {head.name}; give --grid NAME=V1,V2,…")
        found[head.name] = tried
    return found


def _assigned(
    heads: Sequence[Head], entries: Sequence[str], option: str
) -> dict[str, dict[str, str]]:
    """Give each head the texts of ``[HEAD.]NAME=TEXT`` that are meant for it."""
    parameters = {head.name: _parameters(head.make) for head in heads}
    found: dict[str, dict[str, str]] = {head.name: {} for head in heads}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or not text:
            raise UsageError(f"{option} takes NAME=VALUE, not {entry!r}")
        whose = [h for h in parameters if name.startswith(f"{h}.")] or list(parameters)
        leaf = name.removeprefix(f"{whose[0]}.") if len(whose) == 1 else name
        having = [h for h in whose if leaf in parameters[h]]
        if not having:
            known = "; ".join(f"{h} has {', '.join(parameters[h]) or 'none'}" for h in whose)
            raise UsageError(f"{option} {entry}: no such parameter: {known}")
        for head in having:
            found[head][leaf] = text
    return found


def _load(name: str) -> Head:
    where, colon, what = name.rpartition(":")
    if not colon:
        return Head(name, _installed(name), name)
    module = _file(Path(where)) if where.endswith(".py") else _module(where, name)
    made = getattr(module, what, None)
    if made is None:
        there = [n for n, v in vars(module).items() if _is_classifier(v)]
        raise UsageError(f"--head {name}: {where} has no {what!r}; it has {', '.join(there)}")
    if not _is_classifier(made):
        raise UsageError(
            f"--head {name}: not a classifier: it needs fit, and predict_proba or decision_function"
        )
    return Head(what, made, name)


def _installed(name: str) -> Any:
    try:
        return registry.load(registry.PROBES, name)
    except UnknownName as error:
        raise UnknownName(
            f"{error} (or give FILE.py:CLASS, or MODULE:CLASS of any scikit-learn classifier)"
        ) from error


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"--head {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"embedstore_head_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may fail in any way; --debug shows where
        raise UsageError(f"--head {path}: {type(error).__name__}: {error}") from error
    return module


def _module(where: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except (ImportError, ValueError) as error:
        raise UsageError(f"--head {name}: cannot import {where!r}: {error}") from error


def _is_classifier(made: object) -> bool:
    answers = any(hasattr(made, n) for n in ("predict_proba", "decision_function"))
    return inspect.isclass(made) and hasattr(made, "fit") and answers


def _parameters(make: Callable[..., Any]) -> list[str]:
    kinds = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    return [n for n, p in inspect.signature(make).parameters.items() if p.kind not in kinds]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

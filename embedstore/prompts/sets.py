"""What a prompt set is, and where it comes from: one of those built in, or a YAML or CSV file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embedstore.errors import UnknownName
from embedstore.prompts.patterns import Pattern
from embedstore.prompts.reading import Source, read_text, read_yaml
from embedstore.prompts.tables import read_csv

ENSEMBLES = ("templates", "descriptions", "all")
NEGATED = ", negated"
_FOLDER = Path(__file__).parent / "builtin"
_READERS = {".yaml": read_yaml, ".yml": read_yaml, ".csv": read_csv}


@dataclass(frozen=True, slots=True)
class Template:
    """A sentence around a class, the `number`th of its set, from 1.

    `form` is the kind of description it takes, "" for any.
    """

    pattern: Pattern
    number: int
    form: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """One way to describe every class.

    Attributes
    ----------
    texts
        Class to its texts; of several the unit vectors are averaged.
    forms
        The kinds of template it goes with, () for any.
    negated
        Whether classes are described by what they are not.
    """

    name: str
    texts: Mapping[str, tuple[Pattern, ...]]
    forms: tuple[str, ...] = ()
    negated: bool = False

    @property
    def base(self) -> str:
        """The name of the descriptions that the negations are of; its own without any."""
        return self.name.removesuffix(NEGATED) if self.negated else self.name

    def fits(self, template: Template) -> bool:
        """Say whether a template is for descriptions of this kind."""
        return not template.form or template.form in self.forms


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Classes in clinical order, each with the label values that mean it, and their wordings.

    Attributes
    ----------
    classes
        Class to its aliases, the label values it also goes by.
    ensembles
        What is averaged over too: "templates", "descriptions", "all" (`ENSEMBLES`).
    """

    name: str
    classes: Mapping[str, tuple[str, ...]]
    descriptions: tuple[Description, ...]
    templates: tuple[Template, ...]
    ensembles: tuple[str, ...] = ()
    title: str = ""
    source: str = ""


def built_in() -> tuple[str, ...]:
    """Names of the sets that come with embedstore, sorted."""
    return tuple(sorted(p.stem for p in _FOLDER.glob("*.yaml")))


def path_of(name: str | Path) -> Path:
    """Return the file of a built-in set or the one a path names.

    Raises
    ------
    UnknownName
        Neither a built-in set nor the path of a YAML or CSV file.
    """
    if str(name) in built_in():
        return _FOLDER / f"{name}.yaml"
    path = Path(name)
    if path.suffix.lower() in _READERS and path.is_file():
        return path
    known = ", ".join(built_in())
    if path.suffix.lower() in _READERS:
        raise UnknownName(f"{name}: no such file; built-in prompt sets are {known}")
    raise UnknownName(
        f"no prompt set {str(name)!r}; there are {known}, or give a .yaml or .csv file"
    )


def load(name: str | Path) -> PromptSet:
    """Read a prompt set: a built-in one by name, or a ``.yaml``, ``.yml`` or ``.csv`` file.

    Raises
    ------
    UsageError
        The file is no prompt set; the message names file, line and remedy.
    """
    from embedstore.prompts.building import build

    path = path_of(name)
    source = Source(str(name))
    return build(_READERS[path.suffix.lower()](read_text(path), source), source, path.stem)

"""What was read to a prompt set, with every mistake named by its line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain

from embedstore.prompts.labels import plain
from embedstore.prompts.patterns import Pattern, PatternError, axes, choices, parse
from embedstore.prompts.reading import Item, Source
from embedstore.prompts.sets import ENSEMBLES, NEGATED, Description, PromptSet, Template

_KEYS = ("name", "title", "source", "classes", "slots", "descriptions", "templates", "ensembles")
_OF_DESCRIPTION = ("source", "form", "negations")
_MAX_WORDINGS = 10_000

Slots = Mapping[str, tuple[str, ...]]


def build(root: Item, source: Source, name: str) -> PromptSet:
    """Check what a file holds and make a prompt set of it; `name` stands where it has none."""
    found = source.mapping(root, "a prompt set")
    if unknown := [k for k in found if k not in _KEYS]:
        line = found[unknown[0]].line
        raise source.wrong(line, f"unknown key {unknown[0]!r}; a prompt set has {', '.join(_KEYS)}")
    for key in ("classes", "descriptions", "templates"):
        if key not in found:
            raise source.wrong(root.line, f"`{key}:` is missing")
    slots = _slots(found.get("slots"), source)
    classes = _classes(found["classes"], source)
    templates = _templates(found["templates"], slots, source)
    described = _descriptions(found["descriptions"], list(classes), slots, source)
    _check_forms(templates, described, found, source)
    texts = chain.from_iterable(chain(*d.texts.values()) for d in described)
    _check_sizes(chain((t.pattern for t in templates), texts), slots, source)
    return PromptSet(
        source.text(found["name"], "name") if "name" in found else name,
        classes,
        described,
        templates,
        _ensembles(found.get("ensembles"), source),
        *(source.text(found[k], k) if k in found else "" for k in ("title", "source")),
    )


def _slots(item: Item | None, source: Source) -> Slots:
    if item is None:
        return {}
    found = {}
    for name, of_slot in source.mapping(item, "slots").items():
        texts = [t.value for t in source.items(of_slot)]
        if len(texts) < 2 or not all(isinstance(t, str) for t in texts):
            raise source.wrong(of_slot.line, f"slot {name!r} needs a list of two texts or more")
        found[name] = tuple(str(t) for t in texts)
    return found


def _classes(item: Item, source: Source) -> dict[str, tuple[str, ...]]:
    named = (
        {source.text(i, "a class"): Item("", i.line) for i in item.value}
        if isinstance(item.value, list)
        else source.mapping(item, "classes")
    )
    if len(named) < 2:
        raise source.wrong(item.line, f"{len(named)} class; a prompt set tells two or more apart")
    owner: dict[str, str] = {}
    found = {}
    for name, aliases in named.items():
        if not name.strip() or name in _OF_DESCRIPTION:
            raise source.wrong(aliases.line, f"a class cannot be called {name!r}")
        found[name] = tuple(source.text(a, f"an alias of {name}") for a in source.items(aliases))
        for value in (name, *found[name]):
            other = owner.setdefault(plain(value), name)
            if other != name:
                raise source.wrong(
                    aliases.line, f"the label {value!r} is of {other} and of {name}; keep one"
                )
    return found


def _templates(item: Item, slots: Slots, source: Source) -> tuple[Template, ...]:
    by_form = item.value if isinstance(item.value, dict) else {"": item}
    found: dict[tuple[str, str], Template] = {}
    for form, texts in by_form.items():
        if not source.items(texts):
            raise source.wrong(texts.line, 'templates are empty; the plainest is "{}"')
        for text in source.items(texts):
            pattern = _template(text, slots, source)
            if (form, pattern.text) in found:
                raise source.wrong(text.line, f"the template {pattern.text!r} stands here twice")
            found[form, pattern.text] = Template(pattern, len(found) + 1, form)
    return tuple(found.values())


def _template(item: Item, slots: Slots, source: Source) -> Pattern:
    pattern = _parsed(item, "a template", slots, source)
    if None not in pattern.parts:
        raise source.wrong(item.line, f"template {pattern.text!r} has no {{}} for the class")
    return pattern


def _parsed(
    item: Item,
    what: str,
    slots: Slots,
    source: Source,
    scope: str = "",
    taken: Counter[str] | None = None,
) -> Pattern:
    try:
        return replace(parse(source.text(item, what), slots, scope, taken), line=item.line)
    except PatternError as error:
        raise source.wrong(item.line, str(error)) from error


def _descriptions(
    item: Item, classes: list[str], slots: Slots, source: Source
) -> tuple[Description, ...]:
    found: list[Description] = []
    for name, of_set in source.mapping(item, "descriptions").items():
        texts = source.mapping(of_set, f"the descriptions {name!r}")
        if odd := [k for k in texts if k not in classes and k not in _OF_DESCRIPTION]:
            raise source.wrong(
                texts[odd[0]].line,
                f"{name!r} describes {odd[0]!r}, which is no class; there are {', '.join(classes)}",
            )
        found += _of_set(name, of_set, classes, slots, source)
    if not found:
        raise source.wrong(item.line, "descriptions are empty")
    if twice := [n for n, times in Counter(d.name for d in found).items() if times > 1]:
        raise source.wrong(item.line, f"two descriptions are called {twice[0]!r}; rename one")
    return tuple(found)


def _of_set(
    name: str, item: Item, classes: list[str], slots: Slots, source: Source
) -> list[Description]:
    """Read one way to describe the classes, and the same with its negations."""
    given = source.mapping(item, f"the descriptions {name!r}")
    if missing := [c for c in classes if c not in given]:
        raise source.wrong(item.line, f"{name!r} has no description of {', '.join(missing)}")
    forms = source.items(given.get("form", Item([], item.line)))
    kinds = tuple(source.text(f, "form") for f in forms)
    texts = {c: _texts(c, name, given[c], slots, source) for c in classes}
    found = [Description(name, texts, kinds)]
    if "negations" in given:
        negations = source.mapping(given["negations"], "negations")
        if odd := [c for c in negations if c not in classes]:
            raise source.wrong(negations[odd[0]].line, f"a negation for {odd[0]!r}, no class")
        instead = {c: _texts(c, name, negations[c], slots, source) for c in negations}
        found.append(Description(f"{name}{NEGATED}", texts | instead, kinds, negated=True))
    for description in found:
        _check_distinct(description, source)
    return found


def _texts(name: str, of: str, item: Item, slots: Slots, source: Source) -> tuple[Pattern, ...]:
    taken: Counter[str] = Counter()
    items = source.items(item)
    if not items:
        raise source.wrong(item.line, f"{of!r} has an empty description of {name}")
    what = f"the description of {name} in {of!r}"
    found = tuple(_parsed(i, what, slots, source, f"{name}: ", taken) for i in items)
    for pattern in found:
        if None in pattern.parts:
            raise source.wrong(item.line, f"{what} has a {{}}; that is for templates")
        if math.prod(len(s.choices) for s in axes([pattern]).values()) > _MAX_WORDINGS:
            raise source.wrong(item.line, f"{what} has over {_MAX_WORDINGS:,} wordings")
    return found


def _check_distinct(description: Description, source: Source) -> None:
    """Refuse one text for two classes: no image could ever tell them apart."""
    owner: dict[str, str] = {}
    for name, patterns in description.texts.items():
        for pattern in patterns:
            for choice in choices(axes([pattern])):
                text = pattern.render(choice).casefold()
                if not text:
                    raise source.wrong(pattern.line, f"a description of {name} can become empty")
                if owner.setdefault(text, name) != name:
                    raise source.wrong(
                        pattern.line,
                        f"{description.name!r} has the same text for {owner[text]} and {name}: "
                        f"{text!r}",
                    )


def _check_forms(
    templates: tuple[Template, ...],
    described: tuple[Description, ...],
    found: Mapping[str, Item],
    source: Source,
) -> None:
    """Every description goes with a template, and every template with a description."""
    known = {t.form for t in templates if t.form}
    line = found["descriptions"].line
    for d in described:
        if unknown := [f for f in d.forms if f not in known]:
            there = ", ".join(sorted(known)) or "none: templates are a plain list"
            raise source.wrong(line, f"{d.name!r} is of the form {unknown[0]!r}; there is {there}")
        if not any(d.fits(t) for t in templates):
            raise source.wrong(
                line,
                f"{d.name!r} needs a `form:` that says which templates it goes with: "
                f"{', '.join(sorted(known))}",
            )
    if unused := sorted(known - {f for d in described for f in d.forms}):
        raise source.wrong(found["templates"].line, f"no description is of the form {unused[0]!r}")


def _check_sizes(patterns: Iterable[Pattern], slots: Slots, source: Source) -> None:
    """Slots of one name are one choice, so they have as many alternatives everywhere."""
    sizes = {name: len(of) for name, of in slots.items()}
    for pattern in patterns:
        for slot in pattern.slots:
            if sizes.setdefault(slot.name, len(slot.choices)) != len(slot.choices):
                raise source.wrong(
                    pattern.line,
                    f"slot {slot.name!r} has {len(slot.choices)} alternatives in {pattern.text!r} "
                    f"and {sizes[slot.name]} elsewhere; the k-th go together",
                )


def _ensembles(item: Item | None, source: Source) -> tuple[str, ...]:
    given = [] if item is None else source.items(item)
    asked = [source.text(i, "an ensemble") for i in given]
    for name, of in zip(asked, given, strict=True):
        if name not in ENSEMBLES:
            raise source.wrong(of.line, f"ensembles are {', '.join(ENSEMBLES)}; not {name!r}")
    return tuple(e for e in ENSEMBLES if e in asked)

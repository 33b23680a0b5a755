"""The variants of a prompt set, one after another: sentences for every class, and their ensembles.

An ensemble averages the unit vectors of its sentences (Radford et al. 2021, arXiv 2103.00020,
section 3.1.4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from embedstore.errors import UsageError
from embedstore.prompts.labels import match
from embedstore.prompts.patterns import Pattern, Slot, axes, choices
from embedstore.prompts.sets import Description, PromptSet, Template

MAX_ENSEMBLE = 10_000

Pair = tuple[Template, Description]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to put all classes into words.

    Attributes
    ----------
    name
        Unique within the set.
    sentences
        Label value to its sentences, whose unit vectors' mean is the class vector.
    parts
        What it was made of: ``descriptions``, ``template``, ``negation`` where the set has some,
        and each slot's choice under the slot's name; of an ensemble ``ensemble`` and what is fixed.
    """

    name: str
    sentences: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, str]


def expand(prompts: PromptSet, classes: Sequence[str] | None = None) -> Iterator[Variant]:
    """Make the variants of a set, one at a time.

    Parameters
    ----------
    classes
        The label values of a table; each gets the sentences of the class it means. All classes
        by their own names where None.

    Returns
    -------
    Iterator of Variant
        Single variants, then ensembles, with `sentences` in the set's order of the classes.

    Raises
    ------
    UsageError
        As `match` in `embedstore.prompts.labels`; an ensemble of over `MAX_ENSEMBLE` sentences.
    """
    chosen = _chosen(prompts, classes)
    return chain(
        (v for pair in _pairs(prompts) for v in _singles(prompts, pair, chosen)),
        *(_ENSEMBLES[kind](prompts, chosen) for kind in prompts.ensembles),
    )


def count(prompts: PromptSet, classes: Sequence[str] | None = None) -> int:
    """Count what `expand` would make, without making it."""
    chosen = _chosen(prompts, classes)
    pairs = list(_pairs(prompts))
    size = {id(d): 0 for _, d in pairs}
    for pair in pairs:
        size[id(pair[1])] += _size(_axes(pair, chosen.values()))
    total = sum(size.values())
    if "templates" in prompts.ensembles:
        total += sum(n > 1 for n in size.values())
    if "descriptions" in prompts.ensembles:
        total += sum(_size(axes([t.pattern])) for t, some in _by_template(prompts) if len(some) > 1)
    if "all" in prompts.ensembles:
        total += _has_all(prompts)
    return total


def _chosen(prompts: PromptSet, classes: Sequence[str] | None) -> dict[str, str]:
    if classes is None:
        return {c: c for c in prompts.classes}
    return match(prompts.classes, classes, prompts.name)


def _pairs(prompts: PromptSet) -> Iterator[Pair]:
    for d in prompts.descriptions:
        yield from ((t, d) for t in prompts.templates if d.fits(t))


def _axes(pair: Pair, classes: Iterable[str]) -> dict[str, Slot]:
    template, description = pair
    return axes([template.pattern, *chain(*(description.texts[c] for c in classes))])


def _size(slots: Mapping[str, Slot]) -> int:
    return math.prod(len(slot.choices) for slot in slots.values())


def _sentence(template: Pattern, text: Pattern, choice: Mapping[str, int]) -> str:
    return template.render(choice, text.render(choice))


def _singles(prompts: PromptSet, pair: Pair, chosen: Mapping[str, str]) -> Iterator[Variant]:
    template, description = pair
    slots = _axes(pair, chosen.values())
    negations = any(d.negated for d in prompts.descriptions)
    for serial, choice in enumerate(choices(slots), 1):
        sentences = {
            value: tuple(
                dict.fromkeys(_sentence(template.pattern, p, choice) for p in description.texts[c])
            )
            for value, c in chosen.items()
        }
        number = _number(template, serial if slots else 0)
        name = f"{description.name} {number}: {template.pattern.render(choice)}"
        parts = {"descriptions": description.base, "template": template.pattern.text}
        if negations:
            parts["negation"] = "yes" if description.negated else "no"
        yield Variant(name, sentences, parts | _picked(slots, choice))


def _picked(slots: Mapping[str, Slot], choice: Mapping[str, int]) -> dict[str, str]:
    return {name: slot.choices[choice[name]].strip() for name, slot in slots.items()}


def _number(template: Template, serial: int) -> str:
    return f"{template.number}.{serial}" if serial else str(template.number)


def _over_templates(prompts: PromptSet, chosen: Mapping[str, str]) -> Iterator[Variant]:
    """Yield for each way to describe the classes the mean over all its sentences."""
    for d in prompts.descriptions:
        pairs = [(t, d) for t in prompts.templates if d.fits(t)]
        if sum(_size(_axes(pair, chosen.values())) for pair in pairs) > 1:
            parts = {"ensemble": "templates", "descriptions": d.name}
            yield _ensemble(f"{d.name}: all templates", pairs, chosen, {}, parts)


def _by_template(prompts: PromptSet) -> Iterator[tuple[Template, list[Pair]]]:
    for t in prompts.templates:
        yield t, [(t, d) for d in prompts.descriptions if d.fits(t) and not d.negated]


def _over_descriptions(prompts: PromptSet, chosen: Mapping[str, str]) -> Iterator[Variant]:
    """Yield for each template, in each of its wordings, the mean over the descriptions."""
    for t, pairs in _by_template(prompts):
        if len(pairs) < 2:
            continue
        slots = axes([t.pattern])
        for serial, choice in enumerate(choices(slots), 1):
            number = _number(t, serial if slots else 0)
            name = f"all descriptions {number}: {t.pattern.render(choice)}"
            parts = {"ensemble": "descriptions", "template": t.pattern.text}
            yield _ensemble(name, pairs, chosen, choice, parts | _picked(slots, choice))


def _has_all(prompts: PromptSet) -> bool:
    """Say whether the mean over everything is another one than those over templates."""
    return sum(not d.negated for d in prompts.descriptions) > 1 or (
        "templates" not in prompts.ensembles
    )


def _over_all(prompts: PromptSet, chosen: Mapping[str, str]) -> Iterator[Variant]:
    if _has_all(prompts):
        pairs = [pair for pair in _pairs(prompts) if not pair[1].negated]
        yield _ensemble("all", pairs, chosen, {}, {"ensemble": "all"})


def _ensemble(
    name: str,
    pairs: Sequence[Pair],
    chosen: Mapping[str, str],
    fixed: Mapping[str, int],
    parts: Mapping[str, str],
) -> Variant:
    sentences = {value: _pool(name, pairs, c, fixed) for value, c in chosen.items()}
    return Variant(name, sentences, parts)


def _pool(name: str, pairs: Sequence[Pair], of: str, fixed: Mapping[str, int]) -> tuple[str, ...]:
    """Return a class's distinct sentences over some pairs, but for the choices that are fixed."""
    free = [
        (t.pattern, p, {k: s for k, s in axes([t.pattern, p]).items() if k not in fixed})
        for t, d in pairs
        for p in d.texts[of]
    ]
    if (size := sum(_size(slots) for _, _, slots in free)) > MAX_ENSEMBLE:
        raise UsageError(
            f"the ensemble {name!r} is of {size:,} sentences a class, more than {MAX_ENSEMBLE:,}; "
            f"take it out of `ensembles:`, or give the set fewer slots"
        )
    return tuple(
        dict.fromkeys(
            _sentence(template, text, {**fixed, **choice})
            for template, text, slots in free
            for choice in choices(slots)
        )
    )


_ENSEMBLES = {
    "templates": _over_templates,
    "descriptions": _over_descriptions,
    "all": _over_all,
}

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
    ensembles = list(_ensembles(prompts))
    for ensemble in ensembles:
        _check_size(ensemble, chosen.values())
    return chain(
        (
            v
            for d, described in _described(prompts)
            for t in prompts.templates
            if d.fits(t)
            for v in _singles((t, d), described, chosen)
        ),
        (v for ensemble in ensembles for v in _averaged(ensemble, chosen)),
    )


def count(prompts: PromptSet, classes: Sequence[str] | None = None) -> int:
    """Count what `expand` would make, without making it."""
    chosen = _chosen(prompts, classes)
    single = sum(_size(_axes(pair, chosen.values())) for pair in _pairs(prompts))
    return single + sum(_size(ensemble.fixed) for ensemble in _ensembles(prompts))


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


def _singles(
    pair: Pair, described: Mapping[str, str], chosen: Mapping[str, str]
) -> Iterator[Variant]:
    template, description = pair
    slots = _axes(pair, chosen.values())
    for serial, choice in enumerate(choices(slots), 1):
        sentences = {
            value: tuple(
                dict.fromkeys(_sentence(template.pattern, p, choice) for p in description.texts[c])
            )
            for value, c in chosen.items()
        }
        number = _number(template, serial if slots else 0)
        name = f"{description.name} {number}: {template.pattern.render(choice)}"
        parts = {**described, "template": template.pattern.text}
        yield Variant(name, sentences, parts | _picked(slots, choice))


def _described(prompts: PromptSet) -> Iterator[tuple[Description, dict[str, str]]]:
    """Yield the ways to describe the classes, and the parts of a variant that say which."""
    negations = any(d.negated for d in prompts.descriptions)
    for d in prompts.descriptions:
        negation = {"negation": "yes" if d.negated else "no"} if negations else {}
        yield d, {"descriptions": d.base} | negation


def _picked(slots: Mapping[str, Slot], choice: Mapping[str, int]) -> dict[str, str]:
    return {name: slot.choices[choice[name]].strip() for name, slot in slots.items()}


def _number(template: Template, serial: int) -> str:
    return f"{template.number}.{serial}" if serial else str(template.number)


@dataclass(frozen=True, slots=True)
class _Ensemble:
    """The mean over the sentences of some pairs, for each choice of the slots that are `fixed`."""

    name: str
    pairs: Sequence[Pair]
    parts: Mapping[str, str]
    template: Template | None = None

    @property
    def fixed(self) -> dict[str, Slot]:
        return {} if self.template is None else axes([self.template.pattern])


def _ensembles(prompts: PromptSet) -> Iterator[_Ensemble]:
    """Yield those that are asked for, and that average over more than one thing."""
    for kind in prompts.ensembles:
        for ensemble in _KINDS[kind](prompts):
            if sum(_size(_axes(pair, prompts.classes)) for pair in ensemble.pairs) > 1:
                yield ensemble


def _over_templates(prompts: PromptSet) -> Iterator[_Ensemble]:
    """Each way to describe the classes, over all its sentences."""
    for d, described in _described(prompts):
        pairs = [(t, d) for t in prompts.templates if d.fits(t)]
        parts = {"ensemble": "templates"} | described
        yield _Ensemble(f"{d.name}: all templates", pairs, parts)


def _over_descriptions(prompts: PromptSet) -> Iterator[_Ensemble]:
    """Each template, in each of its wordings, over the descriptions."""
    for t in prompts.templates:
        pairs = [(t, d) for d in prompts.descriptions if d.fits(t) and not d.negated]
        if len(pairs) > 1:
            parts = {"ensemble": "descriptions", "template": t.pattern.text}
            yield _Ensemble("all descriptions", pairs, parts, t)


def _over_all(prompts: PromptSet) -> Iterator[_Ensemble]:
    """Everything but negations, where that is not what one of those over templates is."""
    pairs = [pair for pair in _pairs(prompts) if not pair[1].negated]
    if len({d.name for _, d in pairs}) > 1 or "templates" not in prompts.ensembles:
        yield _Ensemble("all", pairs, {"ensemble": "all"})


_KINDS = {"templates": _over_templates, "descriptions": _over_descriptions, "all": _over_all}


def _averaged(ensemble: _Ensemble, chosen: Mapping[str, str]) -> Iterator[Variant]:
    t, slots = ensemble.template, ensemble.fixed
    for serial, choice in enumerate(choices(slots), 1):
        name = ensemble.name
        if t is not None:
            number = _number(t, serial if slots else 0)
            name = f"{name} {number}: {t.pattern.render(choice)}"
        sentences = {value: _pool(ensemble, c, choice) for value, c in chosen.items()}
        yield Variant(name, sentences, {**ensemble.parts, **_picked(slots, choice)})


def _free(ensemble: _Ensemble, of: str) -> Iterator[tuple[Pattern, Pattern, dict[str, Slot]]]:
    """Yield template, text and slots to choose in, for each text of a class."""
    fixed = ensemble.fixed
    for t, d in ensemble.pairs:
        for text in d.texts[of]:
            slots = axes([t.pattern, text])
            yield t.pattern, text, {k: slot for k, slot in slots.items() if k not in fixed}


def _pool(ensemble: _Ensemble, of: str, fixed: Mapping[str, int]) -> tuple[str, ...]:
    """Return a class's distinct sentences."""
    return tuple(
        dict.fromkeys(
            _sentence(template, text, {**fixed, **choice})
            for template, text, slots in _free(ensemble, of)
            for choice in choices(slots)
        )
    )


def _check_size(ensemble: _Ensemble, classes: Iterable[str]) -> None:
    size = max(sum(_size(slots) for _, _, slots in _free(ensemble, c)) for c in classes)
    if size > MAX_ENSEMBLE:
        raise UsageError(
            f"the ensemble {ensemble.name!r} is of {size:,} sentences a class, more than "
            f"{MAX_ENSEMBLE:,}; take it out of `ensembles:`, or give the set fewer slots"
        )

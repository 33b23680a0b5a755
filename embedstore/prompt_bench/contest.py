"""What competes on what: a store's images and their split, variants, vectors of their sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from embedstore.encode_texts import encode_texts
from embedstore.errors import UsageError
from embedstore.kept_texts import Texts
from embedstore.prompts.expand import Variant, count, expand
from embedstore.prompts.labels import match
from embedstore.prompts.sets import PromptSet
from embedstore.protocol import Protocol, fused_by, labelled, splits_of
from embedstore.remarks import image_notes
from embedstore.split_files import fingerprint_of
from embedstore.splits import linked
from embedstore.store import Store
from embedstore.tournament import Entries, Task, Wording
from embedstore.types import Embeddings, Spec

MOST = 1_000_000
"""Variants that are compared without a word."""

CLIP_SCALE = 100.0
"""Logit scale CLIP's training ends at (Radford et al. 2021, arXiv 2103.00020, section 2.4)."""

_NAMED = 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is compared, and how.

    Attributes
    ----------
    sets
        Their variants compete; the first gives the classes' order.
    how
        Splits, level and seed, as for a head; above the level of images unit means are compared.
    limit
        More than 0: draw so many variants at random, the first always among them.
    model, device
        What encodes sentences that the store does not keep; as `encode_texts`.
    logit_scale
        0 for the model's own, or CLIP's where it has none.
    """

    label: str
    sets: tuple[PromptSet, ...]
    how: Protocol
    limit: int = 0
    model: str = ""
    device: str = "auto"
    logit_scale: float = 0.0


@dataclass(frozen=True, slots=True)
class Contest:
    """What competes on what.

    Attributes
    ----------
    images
        The labelled ones, or the units they were fused to.
    tasks
        One for each fold seed.
    names, parts
        Of each variant.
    encoded
        How many sentences the store did not keep.
    logit_scale, scale_of
        And whose it is.
    """

    asked: Asked
    spec: Spec
    images: Embeddings
    classes: tuple[str, ...]
    tasks: tuple[Task, ...]
    names: tuple[str, ...]
    parts: tuple[Mapping[str, str], ...]
    entries: Entries
    texts: Texts
    encoded: int
    logit_scale: float
    scale_of: str
    split: str
    split_fingerprint: str
    leak: str
    notes: tuple[str, ...]

    def sentences(self, wording: Wording) -> dict[str, list[str]]:
        """Return the sentences of each class."""
        of_each = zip(self.classes, wording, strict=True)
        return {c: [self.texts.sentences[s] for s in own] for c, own in of_each}

    @property
    def tested(self) -> tuple[int, int]:
        """How many images (or what they were fused to) are tested, and of how many patients."""
        task = self.tasks[0]
        return len(task.tested), len(np.unique(task.groups[task.tested]))

    def find(self, name: str) -> int:
        """Return the number of a variant, by its name or what is before the colon.

        Raises
        ------
        UsageError
            There is none, or more than one.
        """
        exact = [v for v, known in enumerate(self.names) if known == name]
        found = exact or [v for v, n in enumerate(self.names) if n.partition(": ")[0] == name]
        if len(found) == 1:
            return found[0]
        some = [self.names[v] for v in found] or get_close_matches(name, self.names, _NAMED, 0.3)
        said = "several variants are called" if found else "no variant"
        raise UsageError(
            f"{said} {name!r}; such as {'; '.join(map(repr, some[:_NAMED] or self.names[:1]))} "
            f"(`embedstore prompts expand` lists them)"
        )


def pose(
    store: Store, spec: Spec, asked: Asked, on_progress: Progress = lambda done, total: None
) -> Contest:
    """Make everything ready: images and their split, variants, vectors of their sentences.

    Raises
    ------
    UsageError
        A label value no set knows, a sentence that would be cut, a split that leaks, over `MOST`
        variants.
    DataError
        Labels or patients allow no honest comparison.
    BackboneError
        There is no text side, or its model cannot be had.
    """
    read, how, noted = fused_by(store.read(spec), asked.label, asked.how)
    kept, labels, left_out = labelled(read, asked.label)
    classes = tuple(match(asked.sets[0].classes, np.unique(labels).tolist(), asked.sets[0].name))
    splits, leak, outside = splits_of(kept, labels, how)
    drawn = _Drawn(asked, classes)
    encoded = encode_texts(store, spec, drawn.sentences(), asked.model, asked.device, on_progress)
    scale, whose = _scale(asked.logit_scale, encoded.logit_scale)
    names, parts, entries = drawn.entries(encoded.texts)
    images, groups = kept.unit(), linked(kept)
    truth = np.array([classes.index(v) for v in labels.tolist()], dtype=np.intp)
    tasks = [Task(images, truth, groups, s.fold, classes, 1 / scale) for s in splits]
    notes = (*image_notes(kept, left_out, asked.label), *noted, *outside, *encoded.notes)
    return Contest(
        asked,
        spec,
        kept,
        classes,
        tuple(tasks),
        names,
        parts,
        entries,
        encoded.texts,
        encoded.encoded,
        scale,
        whose,
        splits[0].method + (f", {len(splits)} seeds" if len(splits) > 1 else ""),
        fingerprint_of(splits if how.split else splits[:1]),
        leak,
        (*notes, *drawn.notes, *store.notes(spec)),
    )


def _scale(asked: float, own: float | None) -> tuple[float, str]:
    if asked:
        return asked, "as asked for"
    return (own, "the model's own") if own else (CLIP_SCALE, "CLIP's, the model gives none")


class _Drawn:
    """The variants that compete, made anew for each pass: sentences first, then who has which."""

    def __init__(self, asked: Asked, classes: tuple[str, ...]) -> None:
        self.sets, self.classes = asked.sets, classes
        if len({s.name for s in asked.sets}) < len(asked.sets):
            raise UsageError("two prompt sets have one name; give each a `name:` of its own")
        total = sum(count(s, classes) for s in asked.sets)
        self.chosen: set[int] | None = None
        self.notes: tuple[str, ...] = ()
        if 0 < asked.limit < total:
            rng = np.random.default_rng(asked.how.seed)
            self.chosen = {0, *(rng.choice(total - 1, asked.limit - 1, False) + 1).tolist()}
            self.notes = (f"{asked.limit:,} of {total:,} variants, drawn at random",)
        elif total > MOST:
            raise UsageError(
                f"{total:,} variants; give the set fewer slots, or draw some with --limit 100000"
            )

    def __iter__(self) -> Iterator[tuple[PromptSet, Variant]]:
        every = ((s, v) for s in self.sets for v in expand(s, self.classes))
        for number, one in enumerate(every):
            if self.chosen is None or number in self.chosen:
                yield one

    def sentences(self) -> dict[str, None]:
        return dict.fromkeys(
            sentence for _, v in self for own in v.sentences.values() for sentence in own
        )

    def entries(
        self, texts: Texts
    ) -> tuple[tuple[str, ...], tuple[Mapping[str, str], ...], Entries]:
        names, parts, wordings = [], [], []
        several = len(self.sets) > 1
        for s, v in self:
            names.append(f"{s.name}/{v.name}" if several else v.name)
            parts.append({"set": s.name, **v.parts} if several else v.parts)
            wordings.append(tuple(texts.places(v.sentences[c]) for c in self.classes))
        return tuple(names), tuple(parts), Entries.of(texts.vectors, wordings)

"""From a plan and a store to pieces of work: which vectors, who is tested when, what contends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.backbones import specs_named
from embedstore.errors import DataError, UsageError
from embedstore.few import Few
from embedstore.leaks import leaks
from embedstore.linkage import samples_of
from embedstore.protocol import Protocol, labelled
from embedstore.split_columns import from_column
from embedstore.split_files import SavedSplit, load_split
from embedstore.splits import holdout, kfold
from embedstore.store import Store
from embedstore.study.before import check_classes, heads_of, sets_of, settings_of_all
from embedstore.study.contenders import probe, tune
from embedstore.study.maps import embedding_map
from embedstore.study.plan import FinetuneChoice, Study
from embedstore.study.reviews import review
from embedstore.study.wordings import prompts
from embedstore.study.work import Bench, Piece
from embedstore.subgroups import By
from embedstore.types import OUTSIDE, Embeddings, Spec, Split

STUDY = "molina2025"


@dataclass(frozen=True, slots=True)
class Cast:
    """The vectors a study is of, by what each part of the plan means.

    `names` are what Specs are called in the study, by their key; no two are alike.
    """

    probed: tuple[Spec, ...]
    prompted: tuple[tuple[Spec, ...], ...]
    tuned: tuple[tuple[Spec, ...], ...]
    names: Mapping[str, str]

    @property
    def every(self) -> tuple[Spec, ...]:
        """Each Spec once."""
        others = (s for group in (*self.prompted, *self.tuned) for s in group)
        return tuple(dict.fromkeys((*self.probed, *others)))


def cast_of(study: Study, store: Store) -> Cast:
    """Find the vectors of each backbone, of all recipes that are meant.

    Raises
    ------
    UsageError
        The store has none of a backbone.
    """
    there = [s for s in store.specs.values() if store.count(s)]
    if not there:
        raise DataError(f"{store.path}: holds no vectors yet; run `embedstore extract`")
    meant = [s for s in there if not study.recipes or s.recipe.name in study.recipes]
    if not meant:
        known = ", ".join(dict.fromkeys(s.recipe.name for s in there))
        raise UsageError(
            f"{store.path}: no vectors of recipe {study.recipes[0]}; there are {known}"
        )

    def of(name: str) -> tuple[Spec, ...]:
        return _named(store, meant, name)

    probed = [s for name in study.backbones for s in of(name)]
    if not study.backbones:
        probed = meant
    prompted = [of(choice.backbone) for choice in study.prompts]
    tuned = [_pictured(of(c.backbone), c, store) for c in study.finetune]
    every = dict.fromkeys([*probed, *(s for some in (*prompted, *tuned) for s in some)])
    return Cast(tuple(dict.fromkeys(probed)), tuple(prompted), tuple(tuned), names_of(every))


def _named(store: Store, specs: Sequence[Spec], name: str) -> tuple[Spec, ...]:
    found = specs_named(specs, name)
    if not found:
        there = ", ".join(f"{s.backbone} ({s.key})" for s in specs)
        raise UsageError(f"{store.path}: no vectors of {name}; there are {there}")
    return found


def _pictured(specs: Sequence[Spec], choice: FinetuneChoice, store: Store) -> tuple[Spec, ...]:
    """Return those with pictures that go with a fine-tune's recipe: the study's own, or others."""
    own = choice.recipe == STUDY
    fitting = [s for s in specs if s.recipe.name.startswith(STUDY) == own] or list(specs)
    kept = tuple(s for s in fitting if len(store.kept(s.recipe).rows))
    if not kept:
        raise UsageError(
            f"{store.path}: no pictures kept of {choice.backbone}; run `embedstore extract … "
            f"--backbone {choice.backbone} --keep-pixels`"
        )
    return kept


def names_of(specs: Iterable[Spec]) -> dict[str, str]:
    """Name each Spec by its backbone, with recipe or key where that is not enough."""
    specs = list(specs)
    found: dict[str, str] = {}
    for spec in specs:
        alike = [s for s in specs if s.backbone == spec.backbone]
        recipes = Counter(str(s.recipe) for s in alike)
        name = spec.backbone
        if len(alike) > 1:
            name += f" ({spec.recipe})" if recipes[str(spec.recipe)] == 1 else f" {spec.key}"
        found[spec.key] = name
    return found


@dataclass(frozen=True, slots=True)
class Table:
    """The images that every contender has a vector of, and kept pictures where they are needed."""

    images: Embeddings
    labels: NDArray[np.str_]
    notes: tuple[str, ...]


def table_of(study: Study, store: Store, cast: Cast) -> Table:
    """Take the labelled images that are there for all."""
    if study.label in {"id", "group"}:
        raise UsageError(
            f"label {study.label} says who an image is of; there is nothing to predict"
        )
    store.column_array(study.label)
    samples = samples_of(store)
    ids = store.array("samples/id")
    shared = np.ones(len(samples), dtype=bool)
    for spec in cast.every:
        shared &= np.isin(samples.ids, ids[store.aligned(spec)[0]])
    for spec in dict.fromkeys(s for group in cast.tuned for s in group):
        shared &= np.isin(samples.ids, ids[store.kept(spec.recipe).rows])
    if not shared.any():
        raise DataError(f"{store.path}: no image has a vector of every backbone of the study")
    images, labels, _ = labelled(samples.take(shared), study.label)
    check_classes(study, labels.tolist())
    lost = int((samples.columns[study.label] != "").sum()) - len(images)
    notes = (f"{lost} images that not every contender could be given are left out",) if lost else ()
    return Table(images, labels, notes)


def strangers(images: Embeddings) -> int:
    """Count the images whose patient is not known."""
    return int((images.groups == "").sum())


def split_of(study: Study, table: Table) -> SavedSplit:
    """Say who is tested when, for all contenders alike.

    Raises
    ------
    UsageError
        A given split leaks, or is none.
    DataError
        Labels or patients allow none.
    """
    images, labels, seed = table.images, table.labels, study.seed
    if study.split.partition(":")[0] == "column":
        column = study.split.partition(":")[2] or "split"
        made = [from_column(images, labels, column)]
        saved = SavedSplit("column", "patient", study.label, tuple(made))
    elif study.split:
        given = load_split(Path(study.split))
        own = [_only(s) for s in given.on(images)[0]]
        saved = SavedSplit(given.kind, given.by, study.label, tuple(own))
    elif study.test_share:
        made = [holdout(images, labels, study.test_share, seed)]
        saved = SavedSplit("holdout", "patient", study.label, tuple(made))
    else:
        made = [kfold(images, labels, study.folds, seed)]
        saved = SavedSplit("kfold", "patient", study.label, tuple(made))
    for split in saved.on(images)[0]:
        if found := leaks(images, split):
            raise UsageError(
                f"the split leaks: {found[0]}; make one by patient with `embedstore split`"
            )
    return saved


def _only(split: Split) -> Split:
    """Leave out what stands outside."""
    inside = split.fold != OUTSIDE
    return Split(split.method, split.ids[inside], split.fold[inside], split.seed)


def keep_split(saved: SavedSplit, table: Table, file: Path) -> None:
    """Write the split to a file, unless it is there."""
    try:
        same = load_split(file).fingerprint == saved.fingerprint
    except UsageError:
        same = False
    if not same:
        known = dict(zip(table.images.ids.tolist(), table.labels.tolist(), strict=True))
        labels = np.array([known[i] for i in saved.splits[0].ids.tolist()])
        saved.save(file, labels, force=True)


def protocol_of(study: Study, split: SavedSplit) -> Protocol:
    """Return how every contender is judged."""
    return Protocol(
        seed=study.seed,
        order=study.order,
        level=study.level,
        by=tuple(By.parse(text) for text in study.by),
        groupings=study.grouping,
        split=split,
    )


def pieces_of(study: Study, bench: Bench, cast: Cast) -> list[Piece]:
    """Make all pieces of work, those of one backbone together and the longest last.

    Raises
    ------
    UsageError
        A head, a setting or a prompt set is not known, or two contenders have one name.
    """
    heads, sets, settings = heads_of(study), sets_of(study), settings_of_all(study)
    made: list[Piece] = []
    for spec in cast.probed:
        own = cast.names[spec.key]
        made += [
            probe(bench, spec, h, f"{own}/{said}", study.sweep, tried=choice.grid)
            for (h, said), choice in zip(heads, study.heads, strict=True)
        ]
        head, said = heads[0]
        made += [
            probe(bench, spec, head, f"{own}/{said}", False, Few(share=share))
            for share in study.label_fractions
        ]
    for choice, wordings, specs in zip(study.prompts, sets, cast.prompted, strict=True):
        for spec in specs:
            name = f"{cast.names[spec.key]}/{wordings.name}"
            name += f" {choice.variant.partition(': ')[0]}" if choice.variant else ""
            made.append(prompts(bench, spec, wordings, study.metric, choice.variant, name))
    for spec in cast.every:
        made += [embedding_map(bench, spec)] if study.map else []
        made += [review(bench, spec)] if study.audit else []
    for tuned, how, specs in zip(study.finetune, settings, cast.tuned, strict=True):
        for spec in specs:
            name = tuned.name or f"{cast.names[spec.key]}/finetune"
            name += f" ({spec.recipe})" if tuned.name and len(specs) > 1 else ""
            made.append(tune(bench, spec, tuned, how, name))
    check_names(made)
    return made


def check_names(pieces: Sequence[Piece]) -> None:
    """Refuse two contenders of one name."""
    counts = Counter(p.name for p in pieces if p.kind in {"probe", "prompts", "finetune"})
    if twice := [name for name, n in counts.items() if n > 1]:
        raise UsageError(
            f"two contenders are called {twice[0]}; give one of them a name or leave it out"
        )


def reference_of(wanted: str, names: Sequence[str]) -> str:
    """Return the contender that others are compared with: the one that is meant, or the first."""
    if not wanted:
        return names[0]
    ends = [n for n in names if n == wanted] or [n for n in names if n.endswith(f"/{wanted}")]
    if len(ends) != 1:
        raise UsageError(f"reference {wanted}: give one of {', '.join(names)}")
    return ends[0]

"""A study's protocol beside the corrected one: arXiv 2506.13964, on any data with its columns.

Three scenarios (zero-shot, linear probe, fine-tune), each by the study's protocol (images squashed
and not normalised, split by image) and by the corrected one (`mammography`, normalised as the model
was trained, split by patient). What each choice is worth is shown on the probe, changed one at a
time from the corrected protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot
from pathlib import Path

import numpy as np

from embedstore.answered import Answered
from embedstore.backbones import load_of
from embedstore.errors import UsageError
from embedstore.extract import extract
from embedstore.finetune import settings_of
from embedstore.heads import Head
from embedstore.metrics import metric_title
from embedstore.places import place
from embedstore.plan import choose, choose_device
from embedstore.prompts.expand import expand
from embedstore.prompts.sets import PromptSet, load
from embedstore.results import Report, Score
from embedstore.scoring import comparable, compare
from embedstore.split_files import SavedSplit
from embedstore.splits import holdout, kfold
from embedstore.store import Store
from embedstore.study.contenders import head_of, probe, tune
from embedstore.study.findings import Choice, Contender, Findings
from embedstore.study.linear import StudyLinear
from embedstore.study.maps import embedding_map
from embedstore.study.pieces import Cast, Table, cast_of, names_of
from embedstore.study.plan import Study
from embedstore.study.results import Result, answered_from
from embedstore.study.reviews import review
from embedstore.study.wordings import prompts
from embedstore.study.work import Bench, Piece
from embedstore.types import Sample, Spec

CORRECTED, STUDY, SQUASHED = "mammography", "molina2025", "mammography+squash"
RAW = "mammography, not normalised"
RECIPES = (CORRECTED, STUDY, SQUASHED, RAW)
REFERENCE = "corrected: linear probe"
PAPER = "arXiv 2506.13964"

_NOWHERE = "/dev/null/nowhere"  # the path of an image whose own is not to be known

CITATION = """@misc{molina2025,
  title         = {arXiv:2506.13964},
  eprint        = {2506.13964},
  archivePrefix = {arXiv},
}"""


@dataclass(frozen=True, slots=True)
class Both:
    """The vectors of both protocols; None where the store has none of them."""

    clip: Mapping[str, Spec]
    tuned: Mapping[str, Spec]

    @property
    def cast(self) -> Cast:
        """As a plan's."""
        pictures = tuple(self.tuned[r] for r in (CORRECTED, STUDY) if r in self.tuned)
        every = dict.fromkeys((*self.clip.values(), *pictures))
        return Cast(tuple(self.clip.values()), (), (pictures,), names_of(every))


def both_of(study: Study, store: Store) -> Both:
    """Find the vectors of either protocol.

    Raises
    ------
    UsageError
        There are none of the corrected one.
    """
    found = cast_of(replace(study, finetune=()), store)
    clip = {s.recipe.name: s for s in found.probed}
    other = replace(study, backbones=(study.finetune[0].backbone,), prompts=(), finetune=())
    tuned = {
        s.recipe.name: s for s in cast_of(other, store).probed if len(store.kept(s.recipe).rows)
    }
    if CORRECTED not in clip:
        raise UsageError(
            f"{store.path}: no vectors of {study.backbones[0]} by the recipe {CORRECTED}; give the "
            f"table of images instead of the store"
        )
    return Both(clip, tuned)


def by_image(study: Study, table: Table) -> SavedSplit:
    """Split as the study did: without regard to patients."""
    images, labels, seed = table.images, table.labels, study.seed
    if study.test_share:
        made, kind = holdout(images, labels, study.test_share, seed, "image"), "holdout"
    else:
        made, kind = kfold(images, labels, study.folds, seed, "image"), "kfold"
    return SavedSplit(kind, "image", study.label, (made,))


@dataclass(frozen=True, slots=True)
class Protocols:
    """Pieces of work of both protocols: what contends, what shows a choice's worth, the rest."""

    contending: tuple[Piece, ...]
    choices: tuple[tuple[str, Piece], ...]
    notes: tuple[str, ...]


def pieces_of(study: Study, corrected: Bench, leaking: Bench, both: Both) -> Protocols:
    """Make the pieces; a note names what the store has no vectors for."""
    (head, _) = head_of(study.heads[0])
    own = Head("linear", StudyLinear, "embedstore.study.linear:StudyLinear")
    wordings, metric = load(study.prompts[0].set), study.metric
    clip, right = both.clip, both.clip[CORRECTED]
    first = probe(corrected, right, head, REFERENCE, study.sweep)
    made = [prompts(corrected, right, wordings, metric, "", "corrected: zero-shot"), first]
    if STUDY in clip:
        variant = _variant(wordings)
        made += [
            prompts(leaking, clip[STUDY], wordings, metric, variant, "study: zero-shot"),
            probe(leaking, clip[STUDY], own, "study: linear probe", False),
        ]
    choices = [("split by image", probe(leaking, right, head, "split by image", study.sweep))]
    for name, recipe in (("no normalisation", RAW), ("squashed", SQUASHED)):
        if recipe in clip:
            choices.append((name, probe(corrected, clip[recipe], head, name, study.sweep)))
    made += [embedding_map(corrected, right)] if study.map else []
    made += [review(corrected, right)] if study.audit else []
    made += _tuned(study, corrected, leaking, both)
    missing = [r for r in (STUDY, RAW, SQUASHED) if r not in clip]
    missing += [
        f"{study.finetune[0].backbone} by {r}" for r in (CORRECTED, STUDY) if r not in both.tuned
    ]
    notes = tuple(f"the store has no vectors or pictures of {name}: left out" for name in missing)
    return Protocols(tuple(made), tuple(choices), notes)


def _tuned(study: Study, corrected: Bench, leaking: Bench, both: Both) -> list[Piece]:
    choice = study.finetune[0]
    given = [f"{name}={value}" for name, value in choice.settings.items()]
    made = []
    for said, bench, recipe, how in (
        ("corrected", corrected, CORRECTED, "default"),
        ("study", leaking, STUDY, STUDY),
    ):
        if recipe in both.tuned:
            settings = settings_of(how, given, seed=study.seed)
            made.append(tune(bench, both.tuned[recipe], choice, settings, f"{said}: fine-tune"))
    return made


def _variant(wordings: PromptSet) -> str:
    """Return the study's own wording, or the first of a set that has it not."""
    every = list(expand(wordings))
    own = [v.name for v in every if v.parts.get("descriptions") == STUDY]
    return (own or [every[0].name])[0]


def with_choices(
    findings: Findings,
    protocols: Protocols,
    results: Mapping[str, Result],
) -> Findings:
    """Add what each choice is worth, the study's own probe last, and say it in the notes."""
    named = {c.name: c for c in findings.contenders}
    base = named.get(REFERENCE)
    if base is None:
        return replace(findings, notes=(*protocols.notes, *findings.notes))
    others = [
        (name, Report.from_dict(found.told["report"]), answered_from(found.arrays))
        for name, piece in protocols.choices
        if (found := results.get(piece.stem))
    ]
    if whole := named.get("study: linear probe"):
        others.append(("all of the study", whole.report, whole.answered))
    metric = findings.metric
    choices = [Choice("corrected", base.report.metrics[metric], None, True)]
    choices += [_choice(name, report, a, base, metric) for name, report, a in others]
    said = tuple(_said(c, metric) for c in choices[1:])
    return replace(
        findings,
        choices=tuple(choices),
        notes=(*protocols.notes, *said, *findings.notes),
        citation=f"{findings.citation}\n\n{CITATION}",
    )


def _choice(name: str, report: Report, answered: Answered, base: Contender, metric: str) -> Choice:
    score, other = report.metrics[metric], base.report.metrics[metric]
    same = alike(answered, base.answered)
    if same is None or report.classes != base.report.classes:
        return Choice(name, score, unpaired(score, other), False)
    pair = {"one": same, "other": base.answered}
    (found,) = compare(pair, "other", report.classes, 0)
    d = found.differences[metric]
    return Choice(name, score, (d.value, d.low, d.high), True)


def alike(one: Answered, base: Answered) -> Answered | None:
    """Return answers for the same images in the base's order and folds; None for other images.

    Where every image is tested by either split, which fold did it does not matter to a score.
    """
    if comparable(one, base):
        return one
    places = {name: i for i, name in enumerate(one.ids.tolist())}
    same = len(places) == len(base.ids) and all(i in places for i in base.ids.tolist())
    if not same or len(one.runs) != len(base.runs):
        return None
    if any((fold < 0).any() for fold in (*one.fold, *base.fold)):
        return None
    order = np.array([places[i] for i in base.ids.tolist()])
    return replace(
        base, truth=one.truth[order], runs=tuple(run[order] for run in one.runs), columns={}
    )


def unpaired(one: Score, other: Score) -> tuple[float, float, float]:
    """Subtract scores of other images: value, and an interval out of the two intervals.

    By the method of variance estimates recovery (Zou and Donner 2008), which takes them for
    independent.
    """
    value = one.value - other.value
    low = value - hypot(one.value - one.low, other.high - other.value)
    high = value + hypot(one.high - one.value, other.value - other.low)
    return value, low, high


def _said(choice: Choice, metric: str) -> str:
    assert choice.difference is not None
    value, low, high = choice.difference
    how = "paired" if choice.paired else "other images tested, so unpaired"
    return (
        f"{choice.name}: {metric_title(metric)} of the probe {value:+.3f} "
        f"({low:+.3f} to {high:+.3f}, {how}) against the corrected protocol"
    )


def unnormalised(path: Path, name: str, device: str = "auto") -> None:
    """Embed the pictures that a store keeps by `CORRECTED` once more, without mean and std."""
    store = Store.open(path)
    (spec,) = (s for s in cast_of(Study("", backbones=(name,), recipes=(CORRECTED,)), store).probed)
    backbone = load_of(spec, name, choose_device(device))
    channels = len(spec.recipe.mean)
    raw = replace(spec.recipe, name=RAW, mean=(0.0,) * channels, std=(1.0,) * channels)
    backbone.spec = replace(backbone.spec, recipe=raw)
    samples = samples_with_pictures(store, spec)
    precision = str(store.provenance[spec.key]["precision"])
    plan = choose(device, precision, 0, 0, len(samples))
    extract(samples, path, [backbone], plan)


def samples_with_pictures(store: Store, spec: Spec) -> Sequence[Sample]:
    """Return the samples of which the store has a vector and keeps the picture."""
    kept = np.intersect1d(store.kept(spec.recipe).rows, store.aligned(spec)[0])
    columns = {n: store.array(store.column_array(n), kept).tolist() for n in store.column_names}
    return [
        Sample(
            **{name: columns[name][i] for name in columns if name not in {"path", *store.labels}},
            path=place(columns["path"][i] or _NOWHERE),
            labels={name: columns[name][i] for name in store.labels},
            private=not columns["path"][i],
        )
        for i in range(len(kept))
    ]

"""``embedstore probe``: heads on stored vectors, their sweeps and their learning curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.cli_choices import specs_of, split_of
from embedstore.cli_console import err, one_of, out, say
from embedstore.cli_probe_options import (
    AllowLeak,
    AsJson,
    Backbones,
    By,
    Calibrate,
    FewShot,
    Folds,
    Force,
    Fractions,
    Fuse,
    GridValues,
    Groupings,
    HeadNames,
    Label,
    Level,
    Metrics,
    Order,
    Plot,
    PromptFile,
    Prompts,
    Reference,
    Reliability,
    Repeats,
    Save,
    Seed,
    Settings,
    SplitFrom,
    StorePath,
    Sweep,
    TestShare,
    TextBackbone,
    Verify,
)
from embedstore.cli_trials import print_trials, shown_metrics
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.answered import Answered
    from embedstore.evaluate import Trial
    from embedstore.few import Few
    from embedstore.heads import Head
    from embedstore.protocol import Protocol
    from embedstore.results import Report
    from embedstore.store import Store
    from embedstore.types import Embeddings, Floats, Spec


def probe(
    store: StorePath,
    label: Label,
    head: HeadNames = None,
    backbone: Backbones = None,
    set_: Settings = None,
    sweep: Sweep = False,
    grid: GridValues = None,
    few_shot: FewShot = "",
    label_fraction: Fractions = "",
    prompt: Prompts = None,
    prompts: PromptFile = None,
    text_backbone: TextBackbone = "",
    save: Save = None,
    force: Force = False,
    split: SplitFrom = "",
    allow_leak: AllowLeak = False,
    folds: Folds = None,
    test_share: TestShare = 0.0,
    repeats: Repeats = None,
    seed: Seed = 0,
    order: Order = "",
    level: Level = "image",
    fuse: Fuse = "probabilities",
    by: By = None,
    calibrate: Calibrate = False,
    metric: Metrics = None,
    grouping: Groupings = None,
    reference: Reference = "",
    reliability: Reliability = None,
    plot: Plot = None,
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Train heads on stored vectors and score them by patient, with intervals and floors."""
    from embedstore import subgroups
    from embedstore.heads import grids, load_heads
    from embedstore.levels import FUSIONS, LEVELS
    from embedstore.metrics import refuse_unknown
    from embedstore.report.reliability import draw_reliability, refuse_diagram
    from embedstore.store import Store

    one_of("--level", level, LEVELS)
    one_of("--fuse", fuse, FUSIONS)
    _refuse_together(label, level, fuse, by, grid, sweep, save)
    refuse_unknown(metric or [])
    groupings = tuple(tuple(c.strip() for c in text.split(",")) for text in grouping or [])
    parted = split_of(split, folds, repeats, test_share)
    bys = tuple(subgroups.By.parse(text) for text in by or [])
    heads = load_heads(head or ["logistic"], set_ or [])
    tried = grids(heads, grid or []) if sweep else {}
    curve = _curve(few_shot, label_fraction, sweep)
    if save and curve != [None]:
        raise UsageError("--save is of a head fitted to all images; leave the learning curve out")
    for picture in filter(None, (reliability, plot)):
        refuse_diagram(picture, force)
    opened = Store.open(store, verify)
    opened.column_array(label)

    # scikit-learn takes seconds: what can be refused without it has been
    from embedstore.protocol import Protocol
    from embedstore.report.progress import progress
    from embedstore.report.score_plot import draw_scores
    from embedstore.report.table import SHOWN
    from embedstore.texts import read_prompts

    said = [*(prompt or []), *(read_prompts(prompts) if prompts else [])]
    classes = tuple(c.strip() for c in order.split(",") if c.strip())
    seeds = repeats or (10 if few_shot or label_fraction else 1)
    specs = specs_of(opened, backbone)
    jobs = list(_jobs(specs, heads, curve))
    _refuse_reference(reference, specs, heads)
    places = _places(save, force, specs, heads)
    asked = Protocol(
        folds=folds or 5,
        test_share=test_share,
        repeats=seeds,
        seed=seed,
        order=classes,
        level=level,
        fuse=fuse,
        by=bys,
        calibrate=calibrate,
        groupings=groupings,
        split=parted,
        allow_leak=allow_leak,
    )
    work = _Work(opened, label, asked, tried, said, text_backbone)
    with progress(err, "probing", "evaluations") as show:
        for job in jobs:
            place = places.get((job[0].key, job[1].name)) if save else None
            work.do(*job, place, force)
            show(len(work.reports), len(jobs))
    reports, contenders = work.reports, work.contenders
    if reliability:
        draw_reliability(reports, reliability, force)
    if plot:
        draw_scores(reports, shown_metrics(metric, SHOWN, reports, groupings), plot, force)
    if as_json:
        # a plug-in's parameters may be anything
        print(json.dumps([r.to_dict() for r in reports], indent=2, default=str))
        for save_one in work.saving:
            save_one()
        return
    print_trials(reports, contenders, metric, groupings, reference, seed)
    for save_one, place in zip(work.saving, places.values(), strict=True):
        save_one()
        say(out, f"saved: {place}")


@dataclass(slots=True)
class _Work:
    """Heads judged one after the other on the vectors of each backbone, which are read once."""

    store: Store
    label: str
    asked: Protocol
    grids: Mapping[str, Mapping[str, Sequence[Any]]]
    prompts: list[str]
    text_backbone: str
    reports: list[Report] = field(default_factory=list)
    contenders: dict[str, Answered] = field(default_factory=dict)
    # once the scores are printed: they are not lost then
    saving: list[Callable[[], None]] = field(default_factory=list)
    _spec: Spec | None = None
    _read: tuple[Embeddings, Mapping[str, Floats] | None] | None = None

    def do(self, spec: Spec, head: Head, few: Few | None, place: Path | None, force: bool) -> None:
        """Judge one head, to be saved at `place`."""
        from embedstore.evaluate import judge

        if self._read is None or self._spec != spec:
            self._spec = spec
            read = self.store.read(spec, self._columns())
            self._read = read, _texts(spec, self.prompts, self.text_backbone)
        embeddings, texts = self._read
        how = replace(self.asked, grid=self.grids.get(head.name), few=few, texts=texts)
        trial = judge(embeddings, self.label, head, head.name, how)
        report = replace(trial.report, notes=trial.report.notes + self.store.notes(spec))
        if place:
            precision = str(self.store.provenance[spec.key]["precision"])
            self.saving.append(
                partial(save_probe, place, head, trial, how, report, precision, force)
            )
        self.reports.append(report)
        self.contenders[_named(report, self.contenders)] = trial.scored

    def _columns(self) -> list[str] | None:
        """Return the columns that are asked about; all, to choose from, where one is not there."""
        asked = [self.label, *(one.column for one in self.asked.by)]
        asked += [self.asked.split] if isinstance(self.asked.split, str) else []
        if self.asked.level != "image":
            asked += ["laterality", "view"]
        return asked if set(asked) <= set(self.store.column_names) else None


def _refuse_together(
    label: str,
    level: str,
    fuse: str,
    by: list[str] | None,
    grid: list[str] | None,
    sweep: bool,
    save: Path | None,
) -> None:
    """Refuse options that do not go together."""
    if label in {"id", "group"}:
        raise UsageError(f"--label {label} says who an image is of; there is nothing to predict")
    if level == "image" and fuse != "probabilities":
        raise UsageError(f"--fuse {fuse} needs a --level above the image")
    if save and fuse != "probabilities":
        raise UsageError(
            "--save is of a head that takes an image's vector; use --fuse probabilities"
        )
    if label in {text.partition(":")[0] for text in by or []}:
        raise UsageError(f"--by {label} is what is predicted: every group would be of one class")
    if grid and not sweep:
        raise UsageError("--grid says what --sweep tries; give --sweep too")


def _refuse_reference(reference: str, specs: Sequence[Spec], heads: Sequence[Head]) -> None:
    """Refuse a reference that is none of the contenders, before the work."""
    names = [f"{s.backbone}/{h.name}" for s in specs for h in heads]
    stem = reference.partition(", ")[0]
    if reference and not any(n == stem or n.endswith(f"/{stem}") for n in names):
        raise UsageError(f"--reference {reference}: give one of {', '.join(names)}")


def _named(report: Report, others: Mapping[str, Answered]) -> str:
    """Name a contender: backbone, head, and what else tells it from others of one run."""
    few = f", {report.few}" if report.few else ""
    name = f"{report.spec.backbone}/{report.probe}{few}"
    return (
        f"{report.spec.backbone} {report.spec.key}/{report.probe}{few}" if name in others else name
    )


def _texts(spec: Spec, prompts: list[str], backbone: str) -> Mapping[str, Floats] | None:
    """Return the vectors of what was said of the classes, by the model of these image vectors."""
    if not prompts:
        return None
    from embedstore.embed import text_side
    from embedstore.texts import by_class, class_vectors

    sentences = by_class(prompts)
    if not spec.text:
        return None  # a head that needs them says so
    return class_vectors(text_side(spec, backbone), sentences)


def _places(
    save: Path | None, force: bool, specs: Sequence[Spec], heads: Sequence[Head]
) -> dict[tuple[str, str], Path]:
    """Return where each head of each backbone goes, before the work: nothing may be in the way."""
    if save is None:
        return {}
    from embedstore.saved import refuse_place

    several = len(specs) * len(heads) > 1
    for head in heads:
        if not hasattr(head(), "predict_proba"):
            raise UsageError(
                f"--save: {head.name} has no probabilities of its own, and what gives it some is "
                f"not saved; leave it or --save out"
            )
    places = {
        (s.key, h.name): save / f"{s.backbone}-{s.key[:6]}-{h.name}" if several else save
        for s in specs
        for h in heads
    }
    for place in places.values():
        refuse_place(place, force)
    return places


def save_probe(
    place: Path,
    head: Head,
    trial: Trial,
    how: Protocol,
    report: Report,
    precision: str,
    force: bool,
) -> None:
    """Fit a judged head to every labelled image, and save it."""
    from embedstore.evaluate import final
    from embedstore.saved import SavedProbe

    fitted, temperature = final(trial, how)
    SavedProbe(
        head.where,
        fitted,
        report.spec,
        precision,
        report.label,
        report.classes,
        temperature,
        report,
    ).save(place, force)


def _jobs(
    specs: Sequence[Spec], heads: Sequence[Head], curve: Sequence[Few | None]
) -> Iterator[tuple[Spec, Head, Few | None]]:
    for spec in specs:
        for head in heads:
            for few in curve:
                yield spec, head, few


def _curve(few_shot: str, fractions: str, sweep: bool) -> list[Few | None]:
    """Return how much is learnt from, one after the other; None is everything."""
    from embedstore.few import Few

    if few_shot and fractions:
        raise UsageError("give --few-shot or --label-fraction, not both")
    if not few_shot and not fractions:
        return [None]
    if sweep:
        raise UsageError(
            "--sweep needs more labels than a learning curve begins with: leave it out"
        )
    if few_shot:
        return [Few(of_each_class=_whole(n)) for n in few_shot.split(",")]
    return [Few(share=_share(n)) for n in fractions.split(",")]


def _whole(text: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise UsageError(f"--few-shot takes whole numbers from 1 up, such as 1,2,4; not {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--label-fraction takes shares such as 0.1,0.5,1; not {text!r}")
    return share

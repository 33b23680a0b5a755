"""``embedstore prompts bench`` and ``use``: prompt variants against each other, and the winner."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.cli_choices import one_spec, split_of
from embedstore.cli_console import err, one_of, out, say
from embedstore.cli_probe import save_probe
from embedstore.cli_probe_options import (
    AllowLeak,
    AsJson,
    Folds,
    Label,
    Repeats,
    Seed,
    SplitFrom,
    StorePath,
    TestShare,
    Verify,
)
from embedstore.cli_prompts_options import (
    Backbone,
    Baseline,
    Best,
    Csv,
    Device,
    Ensemble,
    Force,
    Level,
    Limit,
    Metric,
    Metrics,
    Named,
    PerClass,
    Plot,
    Save,
    Scale,
    Search,
    Sets,
    TextBackbone,
    To,
    Top,
)
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.prompt_bench import Asked, Bench, Contest, Picked
    from embedstore.protocol import Protocol
    from embedstore.store import Store
    from embedstore.types import Spec


def bench(
    store: StorePath,
    label: Label,
    set_: Sets,
    backbone: Backbone = "",
    text_backbone: TextBackbone = "",
    device: Device = "auto",
    split: SplitFrom = "",
    allow_leak: AllowLeak = False,
    folds: Folds = None,
    test_share: TestShare = 0.0,
    repeats: Repeats = None,
    seed: Seed = 0,
    metric: Metrics = None,
    level: Level = "image",
    baseline: Baseline = "",
    top: Top = 10,
    limit: Limit = 0,
    logit_scale: Scale = 0.0,
    search: Search = True,
    to_csv: Csv = None,
    plot: Plot = None,
    force: Force = False,
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Compare all variants of prompt sets on stored vectors: ranked, and chosen honestly."""
    from embedstore.output import refuse
    from embedstore.report.reliability import refuse_diagram
    from embedstore.store import Store

    if to_csv:
        refuse(to_csv, force, ())
    if plot:
        refuse_diagram(plot, force)
    opened = Store.open(store, verify)
    spec = one_spec(opened, backbone, with_text=True)

    # scipy takes seconds: what can be refused without it has been
    from embedstore.metrics import refuse_unknown
    from embedstore.prompt_bench import bench as compare
    from embedstore.prompt_bench.plain import plain
    from embedstore.report.prompt_plot import draw_wording
    from embedstore.report.prompt_table import SHOWN
    from embedstore.tournament.scores import refuse_unranked

    metrics = list(dict.fromkeys(metric or SHOWN))
    refuse_unranked(metrics[0])
    refuse_unknown(metrics)
    how = _protocol(level, split, folds, test_share, repeats, seed, allow_leak)
    asked = _asked(label, set_, how, limit, text_backbone, device, logit_scale)
    contest = _posed(opened, spec, asked)
    say(err, f"comparing {len(contest.names):,} variants on {contest.tested[0]:,} {level}s")
    found = compare(contest, metrics[0], top, baseline, search)
    if to_csv:
        _write_csv(found, to_csv, force)
    if plot:
        draw_wording(found, plot, force)
    if as_json:
        print(json.dumps(plain(found), indent=2))
        return
    _print(found, metrics)


def use(
    store: StorePath,
    label: Label,
    set_: Sets,
    best: Best = False,
    variant: Named = "",
    ensemble: Ensemble = False,
    per_class: PerClass = False,
    backbone: Backbone = "",
    text_backbone: TextBackbone = "",
    device: Device = "auto",
    split: SplitFrom = "",
    allow_leak: AllowLeak = False,
    folds: Folds = None,
    test_share: TestShare = 0.0,
    repeats: Repeats = None,
    seed: Seed = 0,
    metric: Metric = "auroc",
    limit: Limit = 0,
    logit_scale: Scale = 0.0,
    to: To = None,
    save: Save = None,
    force: Force = False,
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Make a prompt variant a zero-shot head: saved for `predict`, or a file for `probe`."""
    from embedstore.output import refuse
    from embedstore.prompt_bench import choose
    from embedstore.saved import refuse_place
    from embedstore.store import Store
    from embedstore.tournament.scores import refuse_unranked

    ways = {"best": best, "ensemble": ensemble, "per-class": per_class, "variant": bool(variant)}
    chosen = [way for way, given in ways.items() if given]
    if len(chosen) != 1:
        raise UsageError("give one of --best, --variant VARIANT, --ensemble and --per-class")
    refuse_unranked(metric)
    if to:
        refuse(to, force, ())
    if save:
        refuse_place(save, force)
    opened = Store.open(store, verify)
    spec = one_spec(opened, backbone, with_text=True)
    how = _protocol("image", split, folds, test_share, repeats, seed, allow_leak)
    asked = _asked(label, set_, how, limit, text_backbone, device, logit_scale)
    contest = _posed(opened, spec, asked)
    picked = choose(contest, chosen[0], variant, metric)
    _go_on(opened, contest, picked, split, to, save, force, as_json)


def _protocol(
    level: str,
    split: str,
    folds: int | None,
    test_share: float,
    repeats: int | None,
    seed: int,
    allow_leak: bool,
) -> Protocol:
    from embedstore.levels import LEVELS
    from embedstore.protocol import Protocol

    one_of("--level", level, LEVELS)
    return Protocol(
        folds=folds or 5,
        test_share=test_share,
        repeats=repeats or 1,
        seed=seed,
        level=level,
        fuse="probabilities" if level == "image" else "mean",
        split=split_of(split, folds, repeats, test_share),
        allow_leak=allow_leak,
    )


def _asked(
    label: str,
    sets: list[str],
    how: Protocol,
    limit: int,
    model: str,
    device: str,
    logit_scale: float,
) -> Asked:
    from embedstore.prompt_bench import Asked
    from embedstore.prompts.sets import load

    if label in {"id", "group"}:
        raise UsageError(f"--label {label} says who an image is of; there is nothing to predict")
    loaded = tuple(load(name) for name in dict.fromkeys(sets))
    return Asked(label, loaded, how, limit, model, device, logit_scale)


def _posed(store: Store, spec: Spec, asked: Asked) -> Contest:
    from embedstore.prompt_bench import pose
    from embedstore.report.progress import progress

    with progress(err, f"sentences by {spec.backbone}", "sentences") as show:
        return pose(store, spec, asked, show)


def _write_csv(found: Bench, file: Path, force: bool) -> None:
    from embedstore.output import put
    from embedstore.prompt_bench.plain import rows

    every = rows(found)
    first = next(every)
    with put(file, force) as fresh, fresh.open("w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, list(first))
        table.writeheader()
        table.writerow(first)
        table.writerows(every)


def _print(found: Bench, metrics: list[str]) -> None:
    from embedstore.report import prompt_table as tables

    for result in found.results[0]:
        out.print(tables.ranking(found, result, metrics))
    for name in tables.legend(found):
        say(out, f"  {name}")
    out.print(tables.winners(found))
    if found.effects:
        out.print(tables.wording_table(found))
    if left := tables.wording_left(found):
        say(out, f"… and {left} more; --json has all")
    for note in dict.fromkeys(found.contest.notes):
        say(out, f"note: {note}")


def _go_on(
    store: Store,
    contest: Contest,
    picked: Picked,
    split: str,
    to: Path | None,
    save: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Score the head as `probe` does, print it, and write what is asked for."""
    from dataclasses import replace

    from embedstore.evaluate import judge
    from embedstore.heads import load_heads
    from embedstore.report.table import probe_table

    asked, spec = contest.asked, contest.spec
    setting = f"temperature={1 / contest.logit_scale:.6g}"
    (head,) = load_heads(["zeroshot"], [setting])
    how = replace(asked.how, order=contest.classes, texts=picked.vectors)
    trial = judge(store.read(spec), asked.label, head, head.name, how)
    said = (picked.note,) if picked.note else ()
    report = replace(trial.report, notes=(*said, *trial.report.notes, *contest.notes))
    if as_json:
        print(
            json.dumps(
                {"variant": picked.name, "prompts": picked.sentences}
                | {"report": report.to_dict()},
                indent=2,
            )
        )
    else:
        out.print(probe_table([report]))
        _tell(picked, report.notes)
    if to:
        command = _command(store, contest, split, to, setting)
        _write_prompts(picked, command, to, force)
        say(err if as_json else out, f"{to}: for `{command}`")
    if save:
        precision = str(store.provenance[spec.key]["precision"])
        save_probe(save, head, trial, how, report, precision, force)
        say(err if as_json else out, f"saved: {save}")


def _command(store: Store, contest: Contest, split: str, file: Path, setting: str) -> str:
    """Return the command that scores what is in a file of prompts on the same images."""
    how = contest.asked.how
    options = {"--split": split, "--test-share": how.test_share}
    options |= {} if split or how.test_share else {"--folds": how.folds}
    options |= {} if split else {"--repeats": how.repeats, "--seed": how.seed}
    given = [part for name, value in options.items() if value for part in (name, str(value))]
    head = ["--head", "zeroshot", "--prompts", str(file), "--set", f"zeroshot.{setting}"]
    known = ["--label", contest.asked.label, "--order", ",".join(contest.classes)]
    words = ["embedstore", "probe", str(store.path), *known, "--backbone", contest.spec.key]
    leak = ["--allow-leak"] if how.allow_leak else []
    return shlex.join([*words, *head, *given, *leak])


def _tell(picked: Picked, notes: tuple[str, ...]) -> None:
    say(out, picked.name)
    for name, sentences in picked.sentences.items():
        for sentence in sentences:
            say(out, f"  {name}={sentence}")
    for note in dict.fromkeys(notes):
        say(out, f"note: {note}")


def _write_prompts(picked: Picked, command: str, file: Path, force: bool) -> None:
    from embedstore.output import put

    lines = [f"# {line}" for line in (picked.name, picked.note, command) if line]
    lines += [f"{name}={s}" for name, own in picked.sentences.items() for s in own]
    with put(file, force) as fresh:
        fresh.write_text("\n".join(lines) + "\n", encoding="utf-8")

"""``embedstore finetune``: a backbone end to end, beside the probes on the same split."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore import cli_finetune_options as given
from embedstore.cli_choices import specs_of, split_of
from embedstore.cli_console import err, one_of, out, say
from embedstore.cli_probe_options import (
    AllowLeak,
    AsJson,
    By,
    Calibrate,
    Groupings,
    Label,
    Level,
    Metrics,
    Order,
    PromptFile,
    Prompts,
    SplitFrom,
)
from embedstore.cli_trials import print_trials
from embedstore.errors import UsageError, did_you_mean
from embedstore.places import quoted

if TYPE_CHECKING:
    from embedstore.evaluate import Trial
    from embedstore.finetune import Job
    from embedstore.heads import Head
    from embedstore.protocol import Protocol
    from embedstore.store import Store
    from embedstore.types import Embeddings, Spec

IMAGES = "images.zarr"


def finetune(
    source: given.Source,
    label: Label,
    backbone: given.Backbone,
    to: given.Out,
    recipe: given.Recipe = "default",
    objective: given.Objective = None,
    epochs: given.Epochs = None,
    batch: given.Batch = None,
    micro_batch: given.MicroBatch = None,
    rate: given.Rate = None,
    freeze: given.Freeze = None,
    lora: given.Lora = None,
    set_: given.Settings = None,
    prompt: Prompts = None,
    prompts: PromptFile = None,
    weights: given.Weights = "",
    split: SplitFrom = "",
    allow_leak: AllowLeak = False,
    test_share: given.TestShare = 0.2,
    folds: given.Folds = None,
    seed: given.Seed = 0,
    order: Order = "",
    level: Level = "image",
    by: By = None,
    calibrate: Calibrate = False,
    against: given.Against = None,
    metric: Metrics = None,
    grouping: Groupings = None,
    device: given.Device = "auto",
    devices: given.Devices = 1,
    strategy: given.Strategy = "auto",
    precision: given.Precision = "auto",
    workers: given.Workers = 0,
    max_minutes: given.MaxMinutes = 0.0,
    logger: given.Logger = "tensorboard",
    as_json: AsJson = False,
) -> None:
    """Fine-tune a backbone end to end, and score it beside the frozen probe on the same split."""
    from embedstore import subgroups
    from embedstore.backbones import load_of
    from embedstore.finetune import Hardware, Job, settings_of
    from embedstore.finetune import finetune as run
    from embedstore.finetune.folder import refuse_strange
    from embedstore.levels import LEVELS
    from embedstore.metrics import refuse_unknown
    from embedstore.protocol import Protocol
    from embedstore.report.progress import progress
    from embedstore.store import Store
    from embedstore.texts import by_class, read_prompts

    one_of("--level", level, LEVELS)
    one_of("--precision", precision, ("auto", "float32", "bfloat16"))
    one_of("--device", device, ("auto", "cpu", "cuda", "mps"))
    refuse_unknown(metric or [])
    named = {
        "objective": objective,
        "epochs": epochs,
        "batch": batch,
        "micro_batch": micro_batch,
        "rate": rate,
        "freeze": freeze,
        "lora": lora,
    }
    chosen = {k: v for k, v in named.items() if v is not None}
    settings = settings_of(recipe, set_ or [], seed=seed, **chosen)
    parted = split_of(split, folds, None, 0.0)
    how = Protocol(
        folds=folds or 5,
        test_share=0.0 if folds or split else test_share,
        seed=seed,
        order=tuple(c.strip() for c in order.split(",") if c.strip()),
        level=level,
        by=tuple(subgroups.By.parse(text) for text in by or []),
        calibrate=calibrate,
        groupings=tuple(tuple(c.strip() for c in text.split(",")) for text in grouping or []),
        split=parted,
        allow_leak=allow_leak,
    )
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    probes = _probes(against)
    refuse_strange(to)
    store = Store.open(_extracted(source, to, backbone, recipe, first))
    store.column(label)
    spec = _spec(store, backbone, recipe)
    said = by_class([*(prompt or []), *(read_prompts(prompts) if prompts else [])])
    hardware = Hardware(device, devices, strategy, precision, workers, max_minutes, logger)
    load = partial(load_of, spec, weights or backbone)
    job = Job(store, load, spec, label, settings, hardware, said or None, first)
    beside = _others(store, spec, probes)
    with progress(err, "fine-tuning", "epochs") as show:
        trial = run(job, how, to, show if first else _silent)
    if not first:
        return
    trials = {f"{spec.backbone}/finetune": trial}
    trials |= _judged(job, how, trial, beside)
    reports = [t.report for t in trials.values()]
    if as_json:
        print(json.dumps([r.to_dict() for r in reports], indent=2, default=str))
        return
    answered = {name: t.scored for name, t in trials.items()}
    reference = list(trials)[min(1, len(trials) - 1)]  # the first frozen probe, where there is one
    print_trials(reports, answered, metric, how.groupings, reference, seed)
    model = to if (to / "probe").exists() else to / "fold-0"
    say(
        out,
        f"saved: {to}; `embedstore extract … --backbone {quoted(model)}` embeds with it",
    )


def _silent(done: int, total: int) -> None:
    """Leave the progress to the first process."""


def _extracted(source: Path, run: Path, backbone: str, recipe: str, first: bool) -> Path:
    """Return the store to learn from; of a table or folder, extract it into the run's folder."""
    from embedstore.cli_extract import extract

    if (source / "zarr.json").exists():
        return source
    made = run / IMAGES
    if first:
        how = "molina2025" if recipe == "molina2025" else "mammography"
        with redirect_stdout(sys.stderr):  # what --json prints stays JSON
            extract(source, made, [backbone], how, keep_pixels=True)
    return made


def _spec(store: Store, backbone: str, recipe: str) -> Spec:
    """Return the Spec of the backbone in a store; of several recipes, the one that goes with it."""
    from embedstore.backbones import specs_named

    every = [s for s in store.specs.values() if store.count(s)]
    found = specs_named(every, backbone)
    study = recipe == "molina2025"
    fitting = [s for s in found if s.recipe.name.startswith("molina2025") == study]
    if study and found and not fitting:
        raise UsageError(
            f"{store.path}: --recipe molina2025 needs pictures as the study had them: `embedstore "
            f"extract … --recipe molina2025 --keep-pixels`, perhaps into another store"
        )
    some = fitting or found
    if not some:
        specs_of(store, None)
        names = list(dict.fromkeys(s.backbone for s in every))
        raise UsageError(
            f"{store.path}: no vectors of {backbone}; there are {', '.join(names)}"
            f"{did_you_mean(backbone, names)}; or run `embedstore extract … --backbone "
            f"{quoted(backbone)} --keep-pixels`"
        )
    if len(some) > 1:
        listed = ", ".join(f"{s.key} ({s.recipe})" for s in some)
        raise UsageError(f"{store.path}: several of {backbone}: {listed}; give a key as --backbone")
    return some[0]


def _probes(against: Sequence[str] | None) -> list[tuple[str, Head]]:
    """Take [BACKBONE/]HEAD apart; "" is the backbone that is tuned."""
    from embedstore.heads import load_heads

    if against == ["none"]:
        return []
    found = []
    for text in against or ["logistic"]:
        backbone, _, head = text.rpartition("/")
        found += [(backbone, h) for h in load_heads([head])]
    return found


def _others(
    store: Store, spec: Spec, probes: Sequence[tuple[str, Head]]
) -> list[tuple[Spec, Head]]:
    return [(store.find(name) if name else spec, head) for name, head in probes]


def _judged(
    job: Job, how: Protocol, trial: Trial, beside: Sequence[tuple[Spec, Head]]
) -> Mapping[str, Trial]:
    """Judge the frozen probes on the same images and split."""
    import numpy as np

    from embedstore.evaluate import judge
    from embedstore.heads import grids

    found = {}
    for spec, head in beside:
        embeddings: Embeddings = job.store.read(spec)
        same = embeddings.take(np.isin(embeddings.ids, trial.images.ids))
        grid = grids([head]).get(head.name) if hasattr(head.make, "default_grid") else None
        one = judge(same, job.label, head, head.name, replace(how, grid=grid))
        notes = one.report.notes + job.store.notes(spec)
        found[f"{spec.backbone}/{head.name}"] = replace(
            one, report=replace(one.report, notes=notes)
        )
    return found

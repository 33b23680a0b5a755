"""What contends: probes, learning curves, fine-tunes and wordings, each as a piece of work."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.backbones import load_of
from embedstore.choose import Chosen
from embedstore.errors import UsageError
from embedstore.evaluate import judged, learnt, parameters_of
from embedstore.few import Few
from embedstore.finetune import Settings
from embedstore.heads import Head, grids, load_heads
from embedstore.protocol import Posed, Protocol, pose
from embedstore.remarks import grid_notes
from embedstore.results import Report
from embedstore.study.plan import FinetuneChoice, HeadChoice
from embedstore.study.results import Result, answered_to
from embedstore.study.work import Bench, Kind, Piece, Show, slug
from embedstore.types import Spec

_ROWS = (16, 32)  # images of each class that parameters are counted with


def head_of(choice: HeadChoice) -> tuple[Head, str]:
    """Load a head, and name it with its settings."""
    told = [f"{name}={value!r}" for name, value in choice.settings.items()]
    (head,) = load_heads([choice.head], told)
    if getattr(head.make, "needs_text", False):
        raise UsageError(f"{head.name} answers by sentences: give them as [[prompts]]")
    return head, " ".join([head.name, *told])


def grid_of(
    head: Head, wanted: Mapping[str, Sequence[Any]] | None = None
) -> Mapping[str, Sequence[Any]] | None:
    """Return what a sweep tries of a head, its own grid by default; None where there is nothing."""
    own = wanted or getattr(head.make, "default_grid", {})
    told = [f"{name}={','.join(map(str, values))}" for name, values in (wanted or {}).items()]
    return grids([head], told)[head.name] if set(own) - set(head.settings) else None


def probe(
    bench: Bench,
    spec: Spec,
    head: Head,
    name: str,
    sweep: bool,
    few: Few | None = None,
    tried: Mapping[str, Sequence[Any]] | None = None,
) -> Piece:
    """Make a piece of a head on the vectors of a Spec; with `few`, of one point of its curve.

    `tried` are the values of a sweep, by default the head's own.
    """
    grid = grid_of(head, tried) if sweep else None
    how = replace(bench.how, grid=grid, few=few)
    kind: Kind = "curve" if few else "probe"
    settings = {k: repr(v) for k, v in head.settings.items()}
    key = bench.key(
        kind, spec, how, head=head.where, settings=settings, grid=repr(grid) if grid else ""
    )

    def do(show: Show) -> Result:
        return _probed(bench, spec, head, how)

    return Piece(kind, f"{name}, {few}" if few else name, spec, key, "evaluations", do)


def _probed(bench: Bench, spec: Spec, head: Head, how: Protocol) -> Result:
    """Judge a head as `evaluate.judge` does, with the time it took alone."""
    began = time.monotonic()
    posed = pose(bench.read(spec), bench.label, how)
    started = time.monotonic()
    found = learnt(head, how.grid, posed, how.seed)
    seconds = time.monotonic() - started
    trial = judged(posed, found, head.name, parameters_of(head()), how, began)
    noted = grid_notes(f"{spec.backbone}, {head.name}", how.grid, found)
    report = _noted(bench, spec, trial.report, noted)
    point = found[0].parameters
    trained = fitted_parameters(lambda: head(**point), spec.dim, len(posed.classes))
    return _result(report, answered_to(trial.scored), trained, seconds)


def fitted_parameters(make: Callable[[], Any], d: int, k: int) -> int:
    """Count the numbers that a head of d dimensions and k classes learns.

    Those are its arrays of floats that do not grow with the rows: what a head only keeps of its
    training side, as nearest neighbours do, is not learnt.
    """
    sizes: list[dict[str, int]] = []
    rng = np.random.default_rng(0)
    for rows in _ROWS:
        truth = np.tile(np.arange(k), rows)
        vectors = rng.standard_normal((len(truth), d)).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                learnt = vars(make().fit(vectors, truth))
            except ValueError:  # it wants more rows
                return 0
        own = {n: v for n, v in learnt.items() if n.endswith("_") and not n.startswith("_")}
        sizes.append({name: _floats(value) for name, value in own.items()})
    few, many = sizes
    return sum(size for name, size in many.items() if few.get(name) == size)


def _floats(value: Any) -> int:
    if isinstance(value, list | tuple):
        return sum(map(_floats, value)) if all(isinstance(v, np.ndarray) for v in value) else 0
    return int(value.size) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else 0


def tune(bench: Bench, spec: Spec, choice: FinetuneChoice, settings: Settings, name: str) -> Piece:
    """Make a piece of a fine-tune; it goes on where it was broken off."""
    sentences = {c: list(own) for c, own in choice.sentences.items()}
    key = bench.key("finetune", spec, settings=settings.to_dict(), sentences=sentences)
    load = partial(load_of, spec, choice.weights or choice.backbone)

    def do(show: Show) -> Result:
        from embedstore.finetune import Hardware, Job, finetune

        job = Job(
            bench.store,
            load,
            spec,
            bench.label,
            settings,
            Hardware(accelerator=bench.device, logger="none"),
            choice.sentences or None,
        )
        trial = finetune(job, bench.how, bench.runs / f"{slug(name)}-{key}", show)
        report = _noted(bench, spec, trial.report)
        trained = int(report.parameters["trained_parameters"])
        return _result(report, answered_to(trial.scored), trained, report.seconds)

    return Piece("finetune", name, spec, key, "epochs", do)


def answered_by(
    bench: Bench,
    spec: Spec,
    posed: Posed,
    found: Sequence[NDArray[np.float64]],
    parameters: Mapping[str, Any],
    seconds: float,
    learnt: bool,
    notes: tuple[str, ...],
) -> tuple[Report, dict[str, NDArray[Any]]]:
    """Judge wordings: (n, k) answers of one for every image, side by side.

    Without `learnt` no label was used.
    """
    each = zip(found, posed.sides, strict=True)
    some = [Chosen({}, answers[test]) for answers, (_, test) in each]
    trial = judged(posed, some, "prompts", parameters, bench.how, time.monotonic())
    report = _noted(bench, spec, replace(trial.report, seconds=seconds), notes)
    if not learnt:
        report = replace(report, n_train=0, n_train_patients=0)
    return report, answered_to(trial.scored)


def _noted(bench: Bench, spec: Spec, report: Report, more: tuple[str, ...] = ()) -> Report:
    return replace(report, notes=report.notes + more + bench.store.notes(spec))


def _result(
    report: Report, arrays: dict[str, NDArray[Any]], trained: int, seconds: float
) -> Result:
    return Result(
        {"report": report.to_dict(), "trained": trained, "seconds": round(seconds, 3)}, arrays
    )

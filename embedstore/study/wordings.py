"""A prompt tournament as a piece of work: its best wordings, its collapsed ones, its contender.

The contender answers each fold by the wording that did best on the others, so that its score is of
images it was not chosen by; or by the one wording that is named.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.prompt_bench import Asked, Contest
from embedstore.prompt_bench import Bench as Played
from embedstore.prompt_bench import bench as play
from embedstore.prompt_bench import pose as pose_contest
from embedstore.prompts.sets import PromptSet
from embedstore.protocol import pose
from embedstore.study.contenders import answered_by
from embedstore.study.results import Result
from embedstore.study.work import Bench, Piece, Show
from embedstore.tournament import (
    Entries,
    Side,
    Standing,
    Wording,
    collapsed,
    probabilities,
    standings,
    tested_side,
)
from embedstore.tournament.scores import METRICS
from embedstore.types import Spec

_SHOWN, _COLLAPSED = 10, 5


def prompts(
    bench: Bench, spec: Spec, wordings: PromptSet, metric: str, variant: str, name: str
) -> Piece:
    """Make a piece of a prompt set on the vectors of a Spec."""
    by = metric if metric in METRICS else "auroc"
    key = bench.key("prompts", spec, set=repr(wordings), by=by, variant=variant)

    def do(show: Show) -> Result:
        # images are what wordings are compared on; the contender is scored at the study's level
        how = replace(bench.how, level="image", order=())
        asked = Asked(bench.label, (wordings,), how, device=bench.device)
        contest = pose_contest(bench.store, spec, asked, show)
        began = time.monotonic()
        found = play(contest, by, _SHOWN, search=False)
        told = {"tournament": _tournament(found, wordings.name)}
        return _contender(bench, spec, found, variant, told, time.monotonic() - began)

    return Piece("prompts", name, spec, key, "sentences", do)


def _tournament(found: Played, name: str) -> dict[str, Any]:
    contest, result = found.contest, found.results[0][0]
    flags = collapsed(result.tested.counts)
    shown = {one.variant for one in result.table}
    fallen = [v for v in result.tested.order(found.by).tolist() if flags[v] and v not in shown]
    side, task = tested_side(contest.tasks[0], False), contest.tasks[0]
    some = fallen[:_COLLAPSED]
    seed = contest.asked.how.seed
    lines = standings(task, contest.entries, some, side, found.by, seed=seed) if some else []
    return {
        "backbone": contest.spec.backbone,
        "set": name,
        "variants": len(contest.names),
        "optimism": result.best.optimism,
        "best": [_line(contest, one) for one in result.table],
        "collapsed": [_line(contest, one) for one in lines],
        "n_collapsed": int(flags.sum()),
    }


def _line(contest: Contest, one: Standing) -> dict[str, Any]:
    return {
        "name": contest.names[one.variant],
        "metrics": {n: [s.value, s.low, s.high] for n, s in one.metrics.items()},
        "commonest": contest.classes[one.leaning.commonest],
        "collapsed": one.leaning.collapsed,
    }


def _contender(
    bench: Bench,
    spec: Spec,
    found: Played,
    variant: str,
    told: dict[str, Any],
    seconds: float,
) -> Result:
    contest = found.contest
    posed = pose(bench.read(spec), bench.label, bench.how)
    at = [contest.classes.index(c) for c in posed.classes]
    if variant:
        named = contest.entries.wording(contest.find(variant))
        words = [named] * len(posed.sides)
    else:
        words = [pick.wording for of_seed in found.results for pick in of_seed[0].best.picks]
    answers = [_answers(contest, one)[:, at] for one in words]
    parameters = {
        "set": told["tournament"]["set"],
        "variant": variant,
        "sentences": [contest.sentences(one) for one in dict.fromkeys(words)],
        "logit_scale": contest.logit_scale,
    }
    report, arrays = answered_by(
        bench, spec, posed, answers, parameters, seconds, not variant, _said(contest, variant)
    )
    return Result(
        told | {"report": report.to_dict(), "trained": 0, "seconds": round(seconds, 3)}, arrays
    )


def _said(contest: Contest, variant: str) -> tuple[str, ...]:
    if variant:
        return ()
    of = f"{contest.spec.backbone}, {contest.asked.sets[0].name}"
    return (f"{of}: wordings were chosen out of {len(contest.names)} on the training sides",)


def _answers(contest: Contest, wording: Wording) -> NDArray[np.float64]:
    """(n, k) probabilities for every labelled image."""
    entries: Sequence[Wording] = [wording]
    one = Entries.of(contest.entries.sentences, entries)
    task = contest.tasks[0]
    return probabilities(task, one, 0, Side(np.arange(len(task.images))))

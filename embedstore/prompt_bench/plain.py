"""What came of a bench as plain values, for JSON, and as the rows of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from embedstore.prompt_bench.bench import Bench
from embedstore.prompt_bench.contest import Contest
from embedstore.results import without_nan
from embedstore.tournament import METRICS, Against, Honest, Result, Standing, collapsed


def priors(result: Result) -> str:
    """Name what was done about class priors."""
    return "corrected" if result.correct else "as they are"


def rows(found: Bench) -> Iterator[dict[str, Any]]:
    """Yield a row for each way of priors and each variant: all scores, shares of the answers."""
    contest = found.contest
    for result in found.results[0]:
        tested = result.tested
        values = {name: tested.metric(name) for name in METRICS}
        answers, flags = tested.answers(), collapsed(tested.counts)
        for v, name in enumerate(contest.names):
            yield {
                "variant": name,
                "priors": priors(result),
                **{metric: float(of[v]) for metric, of in values.items()},
                "collapsed": bool(flags[v]),
                **{f"answers:{c}": float(answers[v, i]) for i, c in enumerate(contest.classes)},
            }


def plain(found: Bench) -> dict[str, Any]:
    """Return everything but the scores of variants that are not in the table; NaN is None."""
    contest, (images, patients) = found.contest, found.contest.tested
    made = {
        "spec": contest.spec.to_dict() | {"key": contest.spec.key},
        "label": contest.asked.label,
        "sets": [s.name for s in contest.asked.sets],
        "classes": list(contest.classes),
        "level": contest.asked.how.level,
        "split": contest.split,
        "split_fingerprint": contest.split_fingerprint,
        "leak": contest.leak,
        "n_test": images,
        "n_patients": patients,
        "metric": found.by,
        "logit_scale": contest.logit_scale,
        "logit_scale_of": contest.scale_of,
        "variants": len(contest.names),
        "sentences_encoded": contest.encoded,
        "baseline": contest.names[found.baseline],
        "results": [_result(contest, one) for one in found.results[0]],
        "repeats": [
            {priors(r): _honest(contest, r.best) for r in of_seed} for of_seed in found.results
        ],
        "wording": [
            asdict(e) | {"answers": dict(zip(contest.classes, e.answers, strict=True))}
            for e in found.effects
        ],
        "notes": list(contest.notes),
    }
    found_plain: dict[str, Any] = without_nan(made)
    return found_plain


def _result(contest: Contest, result: Result) -> dict[str, Any]:
    kinds = {"best": result.best, "ensemble": result.ensemble, "per_class": result.per_class}
    return {
        "priors": priors(result),
        "table": [_standing(contest, one) for one in result.table],
        "chosen": {name: _honest(contest, one) for name, one in kinds.items() if one is not None},
    }


def _standing(contest: Contest, one: Standing) -> dict[str, Any]:
    return {
        "variant": contest.names[one.variant],
        "parts": dict(contest.parts[one.variant]),
        "prompts": contest.sentences(contest.entries.wording(one.variant)),
        "metrics": {name: asdict(score) for name, score in one.metrics.items()},
        "answers": dict(zip(contest.classes, one.answers, strict=True)),
        "commonest": contest.classes[one.leaning.commonest],
        "share": one.leaning.share,
        "collapsed": one.leaning.collapsed,
        "never_answered": [contest.classes[c] for c in one.leaning.never],
        "to_best": _against(contest, one.best),
        "to_baseline": _against(contest, one.baseline),
        "best_in_resamples": one.won,
    }


def _against(contest: Contest, one: Against | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"of": contest.names[one.variant], **asdict(one.difference), "p_holm": one.p}


def _honest(contest: Contest, one: Honest) -> dict[str, Any]:
    return {
        "chosen": one.chosen,
        "metrics": {name: asdict(score) for name, score in one.metrics.items()},
        "optimism": one.optimism,
        "picks": [
            {
                "variant": None if pick.variant is None else contest.names[pick.variant],
                "chosen": pick.chosen,
                "prompts": contest.sentences(pick.wording),
            }
            for pick in one.picks
        ],
    }

"""What a study's page says in words and figures."""

from __future__ import annotations

from math import isnan

from markupsafe import Markup

from embedstore.metrics import low_is_good, metric_title
from embedstore.metrics.compare import Difference, p_value
from embedstore.results import Score
from embedstore.scoring import Compared
from embedstore.study.findings import Contender, Findings

UNKNOWN = "–"
_FIRM = "\u00a0"  # a space that no line breaks at
KINDS = {"probe": "probe", "finetune": "fine-tune", "prompts": "prompts"}


def ranked(findings: Findings) -> list[Contender]:
    """Return the contenders, the best first, those without a score last."""
    sign = 1.0 if low_is_good(findings.metric) else -1.0

    def place(one: Contender) -> float:
        value = one.report.metrics[findings.metric].value
        return float("inf") if isnan(value) else sign * value

    return sorted(findings.contenders, key=place)


def value(number: float, sign: bool = False) -> str:
    """Write a score or a difference."""
    if isnan(number):
        return UNKNOWN
    return f"{number:+.3f}".replace("-", "−") if sign else f"{number:.3f}".replace("-", "−")


def span(low: float, high: float, sign: bool = False) -> str:
    """Write an interval."""
    return "" if isnan(low) else f"{value(low, sign)} to {value(high, sign)}"


def seconds(number: float) -> str:
    """Write how long something took."""
    if number < 10:
        return f"{number:.1f}{_FIRM}s"
    whole = round(number)
    if whole < 60:
        return f"{whole}{_FIRM}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{_FIRM}min {rest}{_FIRM}s"
    return f"{minutes // 60}{_FIRM}h {minutes % 60}{_FIRM}min"


def score_words(score: Score) -> str:
    """Say a score, its interval and its floor."""
    if isnan(score.value):
        return "not known"
    said = value(score.value)
    if not isnan(score.low):
        said += f", 95 % interval {span(score.low, score.high)}"
    return said if isnan(score.floor) else f"{said}, floor {value(score.floor)}"


def summary(findings: Findings) -> list[Markup]:
    """Return three sentences: the best, its difference to the reference, and to the floor."""
    if not findings.contenders:
        return [Markup("No contender has been judged.")]
    metric, best = findings.metric, ranked(findings)[0]
    score, report = best.report.metrics[metric], best.report
    first = Markup(
        "Of {} contender{} for {}, <strong>{}</strong> has the {} {}: {} (95 % interval {}), "
        "on {:,} {}s of {:,} patients.{}"
    ).format(
        len(findings.contenders),
        "" if len(findings.contenders) == 1 else "s",
        _name(findings.label),
        _name(best.name),
        "lowest" if low_is_good(metric) else "highest",
        metric_title(metric),
        value(score.value),
        span(score.low, score.high) or "unknown",
        report.n_test,
        report.level,
        report.n_patients,
        " Being chosen by this very score flatters it a little."
        if len(findings.contenders) > 1
        else "",
    )
    return [first, _against(findings, best, metric), _above(score, metric)]


def _against(findings: Findings, best: Contender, metric: str) -> Markup:
    number = len(findings.compared)
    if best.name != findings.reference:
        found = findings.compared.get(best.name)
        if found is None:
            return Markup(
                "It cannot be compared with the reference, {}: they did not answer for the same "
                "images."
            ).format(_name(findings.reference))
        return Markup("Its difference to the reference, {}, is {}.").format(
            _name(findings.reference), difference_words(found, metric, number)
        )
    rivals = [c.name for c in ranked(findings) if c.name in findings.compared]
    if not rivals:
        return Markup("It is the reference itself, and nothing was compared with it.")
    return Markup("It is the reference itself; the next, {}, differs from it by {}.").format(
        _name(rivals[0]), difference_words(findings.compared[rivals[0]], metric, number)
    )


def difference_words(found: Compared, metric: str, number: int) -> str:
    """Say a paired difference, with p corrected for so many."""
    d: Difference = found.differences[metric]
    many = f", corrected for {number} comparisons" if number > 1 else ""
    interval = span(d.low, d.high, sign=True) or "unknown"
    p = p_value(found.p_holm[metric])
    return f"{value(d.value, sign=True)} (95 % interval {interval}; {p}{many})"


def _above(score: Score, metric: str) -> Markup:
    start = f"Answering without looking gets {value(score.floor)} at best"
    if isnan(score.low) or isnan(score.floor):
        return Markup("{}.").format(start)
    start += f": the difference is {value(score.value - score.floor, sign=True)}"
    if low_is_good(metric):
        beaten, side, nearest = score.high < score.floor, "below", score.high
    else:
        beaten, side, nearest = score.low > score.floor, "above", score.low
    if beaten:
        return Markup("{}, and the whole interval lies {} this floor.").format(start, side)
    return Markup(
        "{}, but the interval reaches to {}: it is not shown that anything was learnt."
    ).format(start, value(nearest))


def _name(text: str) -> Markup:
    return Markup("<bdi>{}</bdi>").format(text)

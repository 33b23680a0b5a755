"""A study as plain values for JSON, and its ledger in Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from typing import Any

from embedstore.metrics import TITLES
from embedstore.results import Score, without_nan
from embedstore.study.findings import Contender, Findings, Map

SHOWN = ("auroc", "balanced_accuracy", "macro_f1", "quadratic_kappa")
_COLUMNS = ("labels", "parameters", "seconds")


def plain(findings: Findings) -> dict[str, Any]:
    """Return all that was found as JSON keeps it, but the answers and pictures."""
    made = {
        "title": findings.title,
        "store": findings.store,
        "label": findings.label,
        "classes": findings.classes,
        "split": findings.split,
        "split_fingerprint": findings.split_fingerprint,
        "images": findings.images,
        "patients": findings.patients,
        "patients_unknown_for": findings.strangers,
        "metric": findings.metric,
        "groupings": findings.groupings,
        "reference": findings.reference,
        "contenders": [
            {
                "name": c.name,
                "kind": c.kind,
                "trained": c.trained,
                "seconds": c.seconds,
                "report": c.report.to_dict(),
            }
            for c in findings.contenders
        ],
        "compared": {name: asdict(one) for name, one in findings.compared.items()},
        "curves": [
            {"name": c.name, "parity": c.parity, "reports": [r.to_dict() for r in c.reports]}
            for c in findings.curves
        ],
        "tournaments": [asdict(t) for t in findings.tournaments],
        "choices": [asdict(c) for c in findings.choices],
        "audits": [a.to_dict() for a in findings.audits],
        "maps": [_map(m) for m in findings.maps],
        "methods": findings.methods,
        "citation": findings.citation,
        "notes": findings.notes,
    }
    found: dict[str, Any] = without_nan(made)
    return found


def _map(one: Map) -> dict[str, Any]:
    points = zip(one.ids.tolist(), one.labels.tolist(), one.places.tolist(), strict=True)
    return {
        "backbone": one.backbone,
        "how": one.how,
        "points": [
            {"id": i, "label": label, "x": round(x, 4), "y": round(y, 4)}
            for i, label, (x, y) in points
        ],
    }


def shown(findings: Findings) -> tuple[str, ...]:
    """Names of the metrics of the ledger: the study's own, the usual ones, and of groupings."""
    grouped = [f"{'+'.join(g)}: auroc" for g in findings.groupings]
    wanted = dict.fromkeys((findings.metric, *SHOWN, *grouped))
    every = [c.report.metrics for c in findings.contenders]
    return tuple(name for name in wanted if every and all(name in m for m in every))


def rows(findings: Findings) -> list[list[str]]:
    """Return the ledger as cells, its heading first and the floors last."""
    metrics = shown(findings)
    heading = ["contender", *map(title, metrics), "difference", "p (Holm)", *_COLUMNS]
    body = [_row(one, findings, metrics) for one in findings.contenders]
    base = next((c for c in findings.contenders if c.name == findings.reference), None)
    if base is None:
        return [heading, *body]
    floors = [_number(base.report.metrics[m].floor) for m in metrics]
    return [heading, *body, ["floor", *floors, *[""] * (2 + len(_COLUMNS))]]


def _row(one: Contender, findings: Findings, metrics: Sequence[str]) -> list[str]:
    apart = ["–", "–"]
    if one.name == findings.reference:
        apart = ["reference", ""]
    elif found := findings.compared.get(one.name):
        d = found.differences[findings.metric]
        apart = [
            f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]",
            _p(found.p_holm[findings.metric]),
        ]
    return [
        one.name,
        *(_score(one.report.metrics[m]) for m in metrics),
        *apart,
        str(one.report.n_train),
        str(one.trained),
        f"{one.seconds:.1f}",
    ]


def _score(score: Score) -> str:
    if isnan(score.value):
        return "–"
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _number(value: float) -> str:
    return "–" if isnan(value) else f"{value:.3f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def title(metric: str) -> str:
    """Name a metric as a column."""
    question, colon, name = metric.rpartition(": ")
    return f"{question}{colon}{TITLES.get(name, name)}"


def caption(findings: Findings) -> str:
    """Say what the ledger is of, and how it is to be read."""
    unknown = f" (unknown for {findings.strangers} images)" if findings.strangers else ""
    return (
        f"{findings.label}: {findings.images} images of {findings.patients} patients{unknown}; "
        f"{findings.split}, split {findings.split_fingerprint}. In brackets 95 % intervals from "
        f"resampling patients; differences of {title(findings.metric)} to {findings.reference}, "
        f"paired, p corrected for {len(findings.compared)} (Holm); floor: the best that answering "
        f"without looking gets; labels: images learnt or chosen from; parameters: fitted ones; "
        f"seconds: training and answering."
    )


def markdown(findings: Findings) -> str:
    """Write the ledger as a Markdown table with its caption and notes."""
    heading, *body = [[_markdown(cell) for cell in row] for row in rows(findings)]
    rule = ["---", *["---:"] * (len(heading) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (heading, rule, *body)]
    notes = [f"- {_markdown(note)}" for note in findings.notes]
    parts = [f"# {_markdown(findings.title)}", "\n".join(lines), _markdown(caption(findings))]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])]) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def latex(findings: Findings) -> str:
    """Write the ledger as a LaTeX table; it needs the package booktabs."""
    heading, *body = rows(findings)
    heading = [tex(cell) for cell in heading]
    body = [[tex(row[0]), *(tex(_minus(cell)) for cell in row[1:])] for row in body]
    has_floor = any(c.name == findings.reference for c in findings.contenders)
    lines = [f"{' & '.join(row)} \\\\" for row in body]
    if has_floor:
        lines.insert(-1, r"\midrule")
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}; with pdflatex, UTF-8 as it is by default",
            "% too wide for a portrait page: take columns out, or use sidewaystable of rotating",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex(caption(findings))}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(heading) - 1)}}}",
            r"\toprule",
            f"{' & '.join(heading)} \\\\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _minus(cell: str) -> str:
    """Give negative numbers a minus, which a hyphen is not."""
    return re.sub(r"-(?=\d)", "−", cell)


_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
    "[": "{[}",
    "]": "{]}",
    "–": "--",
    "−": "$-$",
    "κ": r"$\kappa$",
}


def tex(text: str) -> str:
    """Escape what LaTeX takes for its own; brackets too, which after a line's end mean a space."""
    return "".join(_TEX.get(letter, letter) for letter in " ".join(text.split()))

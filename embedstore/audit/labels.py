"""Labels that contradict each other, and labels that other patients' images contradict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedstore.audit.findings import Evidence, Finding, Level, Section
from embedstore.audit.leak import alike, described, named
from embedstore.audit.neighbours import Pair
from embedstore.audit.trials import Question
from embedstore.errors import DataError
from embedstore.fitted import Answers
from embedstore.levels import units

_DRAWS = 20


def labels(question: Question, probabilities: Answers, pairs: Sequence[Pair]) -> Section:
    """Look at labels of identical and near-identical images, of what belongs together, and all.

    Parameters
    ----------
    probabilities
        (n, k) out-of-fold, by patient.
    """
    found = (
        *_of_files(question),
        *_of_pairs(question, pairs),
        *(f for level in ("breast", "exam", "patient") for f in _of_units(question, level)),
    )
    agreed = () if found else (Finding("fine", "no images that should agree have other labels"),)
    return Section("Labels", (*found, *agreed, _suggested(question, probabilities)))


def _of_files(question: Question) -> tuple[Finding, ...]:
    evidence = []
    for rows in alike(question.images.digests):
        values = question.values[rows]
        if len(set(values.tolist())) > 1:
            evidence.append(named(question.images, rows) | {"labels": ", ".join(values.tolist())})
    if not evidence:
        return ()
    text = f"{len(evidence)} files are there several times with different labels"
    return (Finding("wrong", text, tuple(evidence)),)


def _of_pairs(question: Question, pairs: Sequence[Pair]) -> tuple[Finding, ...]:
    values = question.values
    apart = [p for p in pairs if values[p.one] != values[p.other]]
    if not apart:
        return ()
    lines = tuple(
        {
            **described(question.images, p),
            "label": str(values[p.one]),
            "and label": str(values[p.other]),
        }
        for p in apart
    )
    level: Level = "wrong" if any(p.certain for p in apart) else "look at"
    text = f"{len(apart)} pairs of near-identical images have different labels"
    return (Finding(level, text, lines),)


def _of_units(question: Question, level: str) -> tuple[Finding, ...]:
    """Find breasts, exams, patients with several labels, where it is a rule that they have one.

    It is one where fewer than half as many have several as would by chance.
    """
    try:
        of = units(question.images, level)
    except DataError:
        return ()  # what the level is made of is unknown
    _, differ = of.agreed(question.values)
    rng = np.random.default_rng(0)
    chance = np.mean([of.agreed(rng.permutation(question.values))[1].sum() for _ in range(_DRAWS)])
    if not 0 < differ.sum() < chance / 2:
        return ()
    lines = [
        named(question.images, rows) | {"labels": ", ".join(question.values[rows].tolist())}
        for rows in (np.flatnonzero(of.of == u) for u in np.flatnonzero(differ))
    ]
    text = f"{int(differ.sum())} {level}s have several labels; by chance it would be {chance:.0f}"
    return (Finding("look at", text, tuple(lines)),)


def _suggested(question: Question, probabilities: Answers) -> Finding:
    """Suggest label errors by confident learning (Northcutt, Jiang and Chuang 2021)."""
    from cleanlab.filter import find_label_issues

    rows: NDArray[np.intp] = find_label_issues(
        question.truth,
        probabilities,
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    if not len(rows):
        return Finding("fine", "out-of-fold probabilities suggest no label errors")
    lines = tuple(_doubted(question, probabilities, int(row)) for row in rows)
    text = (
        f"{len(rows)} labels that the images of other patients contradict (confident learning); "
        f"the worse the probe, the more of them are its own errors"
    )
    return Finding("look at", text, lines)


def _doubted(question: Question, probabilities: Answers, row: int) -> Evidence:
    answer = int(probabilities[row].argmax())
    return {
        "id": str(question.images.ids[row]),
        "patient": str(question.images.groups[row]) or "unknown",
        "label": str(question.values[row]),
        "its probability": round(float(probabilities[row, question.truth[row]]), 3),
        "answer": question.classes[answer],
        "probability": round(float(probabilities[row, answer]), 3),
    }

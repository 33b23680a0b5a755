"""Findings of a small study of vectors whose classes are known, judged for real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from embedstore.audit.findings import Audit, Finding, Section
from embedstore.evaluate import judge
from embedstore.few import Few
from embedstore.probes.knn import KNNProbe
from embedstore.probes.logistic import LogisticProbe
from embedstore.protocol import Protocol
from embedstore.results import Score
from embedstore.scoring import compare
from embedstore.study.findings import Contender, Curve, Findings, Map, Tournament, Wording
from embedstore.subgroups import By
from embedstore.types import Embeddings, Recipe, Spec

HOW = Protocol(folds=3, by=(By("vendor"), By("view")), groupings=(("C", "D"),), order=tuple("ABCD"))


def vectors(signal: float, name: str, patients: int = 60, classes: str = "ABCD") -> Embeddings:
    """Four films a patient, of one class each, of three vendors, the last with few."""
    rng = np.random.default_rng(0)
    own = np.arange(patients) % len(classes)
    truth, groups = np.repeat(own, 4), np.repeat(np.arange(patients), 4)
    n, d = len(truth), 10
    centres = rng.normal(size=(len(classes), d))
    x = signal * centres[truth] + rng.normal(size=(n, d)) * 1.3
    digests = np.zeros((n, 16), np.uint8)
    digests[:, :4] = np.arange(n, dtype=">u4").view(np.uint8).reshape(n, 4)
    vendor = np.array(["Aurora", "Borealis", "Corona"])[np.minimum(groups * 5 // patients // 2, 2)]
    return Embeddings(
        Spec(name, "", Recipe(), "pooled", d),
        np.array([f"film{i:04d}" for i in range(n)]),
        x.astype(np.float32),
        np.array([f"p{g:03d}" for g in groups]),
        digests,
        {
            "density": np.array(list(classes))[truth],
            "vendor": vendor,
            "view": np.array(["CC", "MLO"])[np.arange(n) % 2],
        },
    )


def contender(
    name: str, kind: Any, images: Embeddings, make: Callable[..., Any], trained: int, how: Protocol
) -> Contender:
    trial = judge(images, "density", make, name.partition("/")[2], how)
    return Contender(name, kind, trial.report, trial.scored, trained, trial.report.seconds)


def together(contenders: Sequence[Contender], reference: str, how: Protocol) -> Findings:
    """Compare contenders, and leave all else empty."""
    first = contenders[0].report
    found = compare(
        {c.name: c.answered for c in contenders}, reference, first.classes, 0, how.groupings
    )
    return Findings(
        title="Density from frozen embeddings",
        store="films.zarr",
        label="density",
        classes=first.classes,
        split=first.split,
        split_fingerprint=first.split_fingerprint,
        images=first.n_test,
        patients=first.n_patients,
        contenders=tuple(contenders),
        reference=reference,
        compared={c.name: c for c in found},
        groupings=how.groupings,
        curves=(),
        tournaments=(),
        audits=(),
        maps=(),
        methods=(),
        citation="",
        notes=(),
    )


def thumbnails(n: int, side: int = 48) -> tuple[np.ndarray, ...]:
    """Half ellipses of n grey levels and widths."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:side, :side]
    out = []
    for i in range(n):
        wide = 0.35 + 0.4 * (i % 4) / 4 + 0.1 * rng.random()
        inside = (x / (wide * side)) ** 2 + ((y - side / 2) / (0.45 * side)) ** 2 < 1
        film = np.where(inside, 90 + 30 * (i % 4) + rng.normal(0, 12, (side, side)), 0)
        out.append(np.clip(film, 0, 255).astype(np.uint8))
    return tuple(out)


def audit_of(images: Embeddings) -> Audit:
    evidence = tuple({"image": f"film{i:04d}", "of": f"film{i + 9:04d}"} for i in range(7))
    sections = (
        Section("Leaks", (Finding("fine", "no patient stands on both sides of the split"),)),
        Section(
            "Shortcuts",
            (
                Finding("look at", "the vendor can be told from the vectors: 0.91, chance 0.33"),
                Finding("wrong", "7 images are nearly the same as another patient's", evidence),
            ),
        ),
    )
    return Audit("films.zarr", images.spec, "density", "by patient", 240, 60, sections, (), 1.0)


def wording(name: str, auroc: float, collapsed: bool = False) -> Wording:
    metrics = {
        "auroc": (auroc, auroc - 0.05, auroc + 0.04),
        "macro_f1": (auroc - 0.3, auroc - 0.4, auroc - 0.2),
        "recall:A": (0.1, 0.0, 0.2),
    }
    return Wording(name, metrics, "B 97%" if collapsed else "B 41%", collapsed)


@cache
def whole() -> Findings:
    """A study with something in each of its sections."""
    strong, weak = vectors(0.75, "biomedclip"), vectors(0.45, "convnext_tiny")
    tuned, nothing = vectors(0.95, "convnext_tiny"), vectors(0.12, "statistics")
    alone = replace(HOW, by=())
    contenders = [
        contender("biomedclip/logistic", "probe", strong, LogisticProbe, 44, HOW),
        contender("biomedclip/knn", "probe", strong, KNNProbe, 0, alone),
        contender("convnext_tiny/logistic", "probe", weak, LogisticProbe, 44, alone),
        contender("statistics/logistic", "probe", nothing, LogisticProbe, 44, alone),
        contender("convnext_tiny/fine-tune", "finetune", tuned, LogisticProbe, 27_823_204, HOW),
        contender("biomedclip/prompts", "prompts", vectors(0.3, "biomedclip"), KNNProbe, 0, alone),
    ]
    contenders[4] = replace(contenders[4], seconds=4271.0)
    curves = []
    for images, parity in ((strong, 131.6), (weak, None)):
        few = [replace(alone, few=Few(share=s), groupings=()) for s in (0.1, 0.25, 0.5)]
        reports = [judge(images, "density", LogisticProbe, "logistic", h).report for h in few]
        whole = next(c for c in contenders if c.report.spec == images.spec)
        curves.append(Curve(f"{whole.name}", (*reports, whole.report), parity))
    rng = np.random.default_rng(3)
    n = len(strong.ids)
    angle = 2 * np.pi * (np.arange(n) // 4 % 4) / 4
    places = 0.5 + 0.25 * np.column_stack([np.cos(angle), np.sin(angle)])
    places = np.clip(places + rng.normal(0, 0.09, (n, 2)), 0, 1).astype(np.float32)
    labels, pictures = strong.columns["density"], thumbnails(n)
    how = "t-SNE (perplexity 30) of the first 10 principal components of unit vectors, seed 0"
    best = [wording(f"a mammogram of {w} density", 0.71 - 0.01 * n) for n, w in enumerate("wxyz")]
    collapsed = (wording("density", 0.52, True), wording("breast", 0.51, True))
    return replace(
        together(contenders, "biomedclip/logistic", HOW),
        curves=tuple(curves),
        tournaments=(
            Tournament("biomedclip", "birads-density", 1296, 0.012, tuple(best), collapsed, 214),
        ),
        audits=(audit_of(strong),),
        maps=(Map("biomedclip", places, labels, strong.ids, pictures, how),),
        methods=(
            "Images were embedded with BiomedCLIP (Spec 0123456789ab, float32) and ConvNeXt-Tiny.",
            "Heads were trained on three folds by patient (seed 0).",
            "Intervals are 2.5 and 97.5 percentiles of 2,000 resamples of patients.",
        ),
        citation="@software{embedstore,\n  title = {embedstore},\n  version = {0.1.0}\n}",
        notes=("no label for 3 images", "the probe of statistics is at the edge of its grid"),
    )


def score(value: float) -> Score:
    return Score(value, value - 0.1, value + 0.1, 0.5)

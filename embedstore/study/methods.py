"""The methods of a study in sentences for a paper: every version, seed and fingerprint."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from embedstore.metrics import RESAMPLES
from embedstore.results import Report
from embedstore.splits import linked
from embedstore.store import Store
from embedstore.study.findings import Contender
from embedstore.study.pieces import Cast, Table, strangers
from embedstore.study.plan import Study
from embedstore.types import Spec

_PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "timm", "open_clip_torch")

CITATION = f"""@software{{embedstore,
  author  = {{{{The embedstore authors}}}},
  title   = {{embedstore: frozen embeddings of medical images, and honest probes on them}},
  version = {{{version("embedstore")}}},
  license = {{Apache-2.0}},
}}"""


def methods(
    study: Study,
    store: Store,
    cast: Cast,
    table: Table,
    contenders: Sequence[Contender],
    compared: int,
) -> tuple[str, ...]:
    """Write the sentences."""
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    python = sys.version.split()[0]
    return (
        *(_embedded(store, spec, cast.names[spec.key]) for spec in cast.every),
        _table(study, table),
        *_split(contenders, strangers(table.images)),
        *_learnt(study, contenders),
        _scored(study, compared),
        f"Analysed with embedstore {version('embedstore')} on Python {python} ({versions}).",
    )


def _embedded(store: Store, spec: Spec, name: str) -> str:
    made = store.provenance[spec.key]
    by = ", ".join(f"{package} {v}" for package, v in dict(made["versions"]).items())
    return (
        f"{name}: vectors of {spec.dim} dimensions ({spec.pooling}) by {spec.backbone}, weights of "
        f"sha256 {spec.weights_sha256[:12] or 'unknown'}, from images prepared by the recipe "
        f"{spec.recipe} ({spec.recipe.key}) at {spec.recipe.size[0]} x {spec.recipe.size[1]} "
        f"pixels; Spec {spec.key}; made in {made['precision']} on {made['device']} with {by}."
    )


def _table(study: Study, table: Table) -> str:
    counts = sorted(Counter(table.labels.tolist()).items())
    said = ", ".join(f"{name} {n}" for name, n in counts)
    patients = len(np.unique(linked(table.images)))
    unknown = strangers(table.images)
    taken = f"; patients unknown for {unknown}, each taken for one of its own" if unknown else ""
    return (
        f"{len(table.images)} images of {patients} patients{taken}, with a known {study.label} "
        f"({said})."
    )


def _split(contenders: Sequence[Contender], unknown: int) -> tuple[str, ...]:
    """Say who was tested, once for each split."""
    splits: dict[str, Report] = {}
    for one in contenders:
        splits.setdefault(one.report.split_fingerprint, one.report)
    return tuple(
        f"Split: {r.split}, fingerprint {key}: {r.n_test} {r.level}s of {r.n_patients} patients "
        f"tested; "
        + (
            f"IT LEAKS: {r.leak}."
            if r.leak
            else f"no {'known ' if unknown else ''}patient, exam or identical file is on two sides."
        )
        for key, r in splits.items()
    )


def _learnt(study: Study, contenders: Sequence[Contender]) -> tuple[str, ...]:
    said = []
    for one in contenders:
        chosen = {name for fold in one.report.chosen for name in fold}
        known = {k: v for k, v in one.report.parameters.items() if k not in chosen and _short(v)}
        settings = ", ".join(f"{name} {_rounded(v)}" for name, v in known.items())
        if one.kind == "prompts":
            how = (
                "the wording chosen on the training side"
                if one.report.n_train
                else "one wording, no labels"
            )
            said.append(f"{one.name}: zero-shot by a prompt set, {how} ({settings}).")
        elif one.kind == "finetune":
            said.append(f"{one.name}: fine-tuned end to end ({settings}).")
        else:
            picked = "chosen on inner folds of the training side"
            how = f"{' and '.join(sorted(chosen))} {picked}" if chosen else "parameters fixed"
            said.append(
                f"{one.name}: vectors standardised by the training side; {how}"
                f"{f' ({settings})' if settings else ''}."
            )
    return tuple(said)


def _rounded(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(value: object) -> bool:
    return value != "" and value is not None and len(str(value)) < 60


def _scored(study: Study, compared: int) -> str:
    said = (
        f"Scores are of the tested side at the level of the {study.level}; 95 % intervals are "
        f"percentiles of {RESAMPLES:,} resamples of patients (seed {study.seed}); floors are what "
        f"answering without looking gets."
    )
    if compared:
        said += (
            f" Differences to the reference are paired, draw by draw; p is two-sided and corrected "
            f"for {compared} contender{'s' if compared > 1 else ''} (Holm)."
        )
    return said

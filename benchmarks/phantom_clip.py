"""How well the bundled image-text model names density, on new phantoms and on real films.

python benchmarks/phantom_clip.py [--real MANIFEST] [--model FOLDER]

MANIFEST is a CSV file of image, patient and density (fatty, fatty-glandular, dense-glandular), as
made of the MIAS films. On these the probe is logistic (C 0.01, 5 folds by patient, fold seeds 0
to 9), and the `statistics` backbone is probed beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedstore.backbones import load_backbone
from embedstore.images.decode import read
from embedstore.phantomclip import FOLDER
from embedstore.phantomclip.zeroshot import class_vectors, image_vectors, probabilities
from embedstore.phantoms import DENSITIES, films, render

RESULT = Path(__file__).parent / "results" / "phantom_clip.json"
SEED = 77_777  # of a collection neither trained nor checked on in training
REAL = ("fatty", "fatty-glandular", "dense-glandular")
GROUPS = ("A", "BC", "D")  # set before any real film was scored: the middle class for the middle
WORDINGS = (("trained wording", False), ("held-out wording", True))

Vectors = NDArray[np.floating[Any]]


def on_phantoms(folder: Path, patients: int) -> dict[str, float]:
    """Score zero-shot density on four films each of so many new patients."""
    backbone = load_backbone(str(folder))
    listed = films(patients, SEED)
    vectors = image_vectors(backbone, [render(film, 512) for film in listed])
    truth = np.array([DENSITIES.index(film.density) for film in listed])
    scores = {"films": float(len(listed))}
    for name, held_out in WORDINGS:
        shares = probabilities(vectors, class_vectors(backbone, held_out))
        scores |= {f"{name}: {k}": v for k, v in zero_shot(truth, shares).items()}
    return scores


def zero_shot(truth: NDArray[np.intp], shares: Vectors) -> dict[str, float]:
    """Score (n, k) shares against (n,) classes."""
    return {
        "AUROC": float(
            roc_auc_score(truth, shares, multi_class="ovr", labels=range(shares.shape[1]))
        ),
        "quadratic kappa": float(
            cohen_kappa_score(truth, shares.argmax(axis=1), weights="quadratic")
        ),
    }


def on_real(folder: Path, manifest: Path) -> dict[str, float]:
    """Score zero-shot and probe on real films, and the probe on `statistics` beside it."""
    with manifest.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    truth = np.array([REAL.index(row["density"]) for row in rows])
    patients = np.array([row["patient"] for row in rows])
    images = [read(manifest.parent / row["image"])[1].pixels() for row in rows]
    backbone = load_backbone(str(folder))
    vectors = image_vectors(backbone, images)
    scores = {"films": float(len(rows))}
    for name, held_out in WORDINGS:
        shares = probabilities(vectors, class_vectors(backbone, held_out, GROUPS))
        scores |= {f"{name}: {k}": v for k, v in zero_shot(truth, shares).items()}
    scores["probe AUROC"] = probe(vectors, truth, patients)
    plain = image_vectors(load_backbone("statistics"), images)
    return scores | {"statistics: probe AUROC": probe(plain, truth, patients)}


def probe(vectors: Vectors, truth: NDArray[np.intp], patients: NDArray[np.str_]) -> float:
    """Mean over fold seeds 0 to 9 of the AUROC of all out-of-fold answers."""
    scores = []
    for seed in range(10):
        shares = np.zeros((len(truth), len(REAL)))
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for train, test in folds.split(vectors, truth, patients):
            head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
            shares[test] = head.fit(vectors[train], truth[train]).predict_proba(vectors[test])
        scores.append(roc_auc_score(truth, shares, multi_class="ovr"))
    return float(np.mean(scores))


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, help="manifest of real films")
    parser.add_argument("--model", type=Path, default=FOLDER, help="another model's folder")
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    results = {"phantoms": on_phantoms(given.model, given.patients)}
    if given.real:
        results["real films"] = on_real(given.model, given.real)
    table = Table(title="phantom-clip: density named without training on the films")
    for column in ("films", "measure", "value"):
        table.add_column(column)
    for name, scores in results.items():
        for measure, value in scores.items():
            shown = f"{value:.0f}" if measure == "films" else f"{value:.3f}"
            table.add_row(name, measure, shown)
    Console().print(table)
    given.result.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

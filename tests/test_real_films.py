"""The main job on real mammograms, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_FILMS
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedstore.backbones import load_backbone
from embedstore.evaluate import evaluate
from embedstore.extract import extract
from embedstore.manifest import read_manifest
from embedstore.plan import Plan
from embedstore.probes.logistic import LogisticProbe
from embedstore.store import Store
from embedstore.types import Embeddings

pytestmark = pytest.mark.skipif(not REAL_FILMS.exists(), reason="the real films are not here")


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Embeddings:
    path = tmp_path_factory.mktemp("real") / "s.zarr"
    backbone = load_backbone("statistics")
    samples = read_manifest(REAL_FILMS).samples
    extract(samples, path, [backbone], Plan("cpu", "float32", 32, 2))
    return Store.open(path).read(backbone.spec)


def test_every_film_of_every_patient_is_embedded(embeddings: Embeddings) -> None:
    rows = REAL_FILMS.read_text().splitlines()[1:]
    assert embeddings.ids.tolist() == [Path(r.split(",")[0]).stem for r in rows]
    assert embeddings.groups.tolist() == [r.split(",")[1] for r in rows]


def test_statistics_reads_density_as_scikit_learn_finds_it(embeddings: Embeddings) -> None:
    labels = embeddings.columns["density"]
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    aurocs = []
    for seed in range(3):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        answered = cross_val_predict(
            head,
            embeddings.vectors,
            labels,
            groups=embeddings.groups,
            cv=folds,
            method="predict_proba",
        )
        aurocs.append(roc_auc_score(labels, answered, multi_class="ovr"))
    assert np.mean(aurocs) >= 0.78
    report = evaluate(embeddings, "density", LogisticProbe, "logistic", repeats=3)
    # other folds than ours, so not the same figure: within the spread over fold seeds
    assert report.metrics["auroc"].value == pytest.approx(np.mean(aurocs), abs=0.03)
    assert report.n_patients == 81

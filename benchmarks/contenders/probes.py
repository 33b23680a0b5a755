"""A sweep of logistic probes: ten values of C by five folds, four classes.

All get the same standardised vectors and the same folds, and answer with the log loss of the tested
rows at each C, averaged over the folds. scikit-learn's tolerance is its default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.area import Area, Bound, Contender, Work

SWEEP = "10 C x 5 folds"
CS = np.logspace(-4, 4, 10)  # scikit-learn's own grid, LogisticRegressionCV(Cs=10)
FOLDS, ENOUGH = 5, 10_000


def make(folder: Path, quick: bool) -> str:
    """Vectors like a backbone's."""
    from sklearn.preprocessing import StandardScaler

    from benchmarks.probes import embeddings

    n, d = (3000, 128) if quick else (6000, 512)
    x, y = embeddings(n, d)
    np.save(folder / "x.npy", StandardScaler().fit_transform(x.astype(np.float64)))
    np.save(folder / "y.npy", y)
    return f"{n:,} x {d}, 4 classes"


def given(folder: Path) -> tuple[Any, Any, list[tuple[Any, Any]]]:
    """Vectors, classes and folds."""
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    fold = np.arange(len(y)) % FOLDS
    return x, y, [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(FOLDS)]


def embedstore(folder: Path) -> Mapping[str, Work]:
    """All folds and C together, in float32 as vectors are stored."""
    from scipy.special import log_softmax

    from embedstore.solver import solve

    x, y, splits = given(folder)
    single = x.astype(np.float32)

    def run(empty: Path) -> Any:
        weights = np.zeros((FOLDS, len(y)), dtype=np.float32)
        for row, (train, _) in zip(weights, splits, strict=True):
            row[train] = 1
        found = solve(single, y, weights, CS.tolist())
        losses = np.empty((FOLDS, len(CS)))
        for f, (_, tested) in enumerate(splits):
            rows, truth = single[tested], y[tested]
            for c in range(len(CS)):
                logits = rows @ found.coef[f, c].T + found.intercept[f, c]
                told = log_softmax(logits.astype(float), axis=1)
                losses[f, c] = -told[np.arange(len(truth)), truth].mean()
        return losses.mean(axis=0)

    return {SWEEP: Work(run)}


def by_path(folder: Path) -> Mapping[str, Work]:
    """`LogisticRegressionCV`: along C with warm starts, two folds at once."""
    from sklearn.linear_model import LogisticRegressionCV

    x, y, splits = given(folder)

    def run(empty: Path) -> Any:
        model = LogisticRegressionCV(
            Cs=CS,
            cv=splits,
            scoring="neg_log_loss",
            max_iter=ENOUGH,
            n_jobs=2,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
        )
        return -model.fit(x, y).scores_.reshape(FOLDS, len(CS)).mean(axis=0)

    return {SWEEP: Work(run)}


def by_grid(patch: bool) -> Callable[[Path], Mapping[str, Work]]:
    """`GridSearchCV`: each C and fold from the start, two at once; perhaps by Intel's solver."""

    def start(folder: Path) -> Mapping[str, Work]:
        from sklearn.model_selection import GridSearchCV

        if patch:
            from sklearnex.linear_model import LogisticRegression
        else:
            from sklearn.linear_model import LogisticRegression
        x, y, splits = given(folder)

        def run(empty: Path) -> Any:
            search = GridSearchCV(
                LogisticRegression(max_iter=ENOUGH),
                {"C": CS},
                cv=splits,
                scoring="neg_log_loss",
                n_jobs=2,
            )
            return -search.fit(x, y).cv_results_["mean_test_score"]

        return {SWEEP: Work(run)}

    return start


def apart(task: str, folder: Path, answer: Any, ours: Any) -> float:
    """Largest difference of a log loss, in shares of it."""
    return float(np.abs(answer / ours - 1).max())


AREA = Area(
    "Probe sweep",
    {SWEEP: Bound(5e-3, "largest relative difference of a tested log loss")},
    {
        "embedstore": Contender("", embedstore),
        "LogisticRegressionCV": Contender("", by_path),
        "GridSearchCV": Contender("", by_grid(False)),
        "GridSearchCV, scikit-learn-intelex": Contender("scikit-learn-intelex", by_grid(True)),
    },
    make,
    apart,
)

"""The heads against scikit-learn, in one run: the logistic sweep, leave-one-out kNN, the MLP.

python benchmarks/probes.py [--quick] [--large] [--only sweep,knn,mlp] [--threads N]

`--quick` is a minute of small sizes; `--large` adds the sweep of 100,000 x 768. Results go into
results/probes.json by part and number of threads; parts that were not run keep theirs. On a machine
that is not idle use one thread: the threads of scikit-learn's BLAS wait for each other by spinning,
and where one of them has no core to itself it was seen to take ten times as long.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score, train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from embedstore import registry
from embedstore.pairs import all_neighbours
from embedstore.solver import Solution, solve
from embedstore.types import unit_rows

RESULT = Path(__file__).parent / "results" / "probes.json"
CS = np.logspace(-4, 4, 10)  # scikit-learn's own grid, LogisticRegressionCV(Cs=10)
FOLDS = 5
SOLVERS = ("lbfgs", "newton-cg")  # newton-cholesky takes ten times as long at this size
Rows = NDArray[np.float64]


def embeddings(n: int, d: int, k: int = 4, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Vectors like a backbone's, and labels of which they tell about three quarters.

    Correlated columns of unequal mean and scale, variance of the principal axes falling as 1/j,
    heavy tails (the tenth of images that are unlike the others), classes of unequal size.
    """
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    latent = rng.standard_normal((n, d), dtype=np.float32)
    latent *= (0.5 + 0.5 * np.sqrt(5 / rng.chisquare(5, (n, 1)))).astype(np.float32)
    logits = latent @ (rng.standard_normal((d, k)) / np.sqrt(np.arange(1, d + 1))[:, None])
    prior = np.log(np.linspace(1, 3, k))
    y = (3 * logits / logits.std() + prior + rng.gumbel(size=(n, k))).argmax(axis=1)
    scale = 1 / np.sqrt(np.arange(1, d + 1))
    turned = (axes * scale[:, None]).astype(np.float32) * rng.uniform(0.2, 3, d).astype(np.float32)
    return latent @ turned + rng.normal(size=d).astype(np.float32), y


class Taken(NamedTuple):
    """Seconds of the wall clock and of the processor."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> tuple[Taken, Any]:
    """How long it took, and what came out."""
    began, busy = time.perf_counter(), time.process_time()
    found = work()
    return Taken(time.perf_counter() - began, time.process_time() - busy), found


def middle(taken: list[Taken]) -> Taken:
    """Medians."""
    return Taken(*(float(np.median(each)) for each in zip(*taken, strict=True)))


def folds_of(n: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Training and tested rows, interleaved."""
    fold = np.arange(n) % FOLDS
    for f in range(FOLDS):
        yield np.flatnonzero(fold != f), np.flatnonzero(fold == f)


def penalised(z: Rows, y: NDArray[Any], coef: Rows, intercept: Rows, C: float) -> float:
    """Return the loss that both minimise, for weights (k, d), in float64."""
    logits = z @ coef.T + intercept
    each = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    return float(each.sum() + (coef**2).sum() / (2 * C))


class Peer(NamedTuple):
    """How scikit-learn is asked: solver, tolerance and precision of the vectors."""

    solver: str
    tol: float
    dtype: type

    def __str__(self) -> str:
        """Solver and precision."""
        return f"{self.solver} {np.dtype(self.dtype)}"

    def path(self, z: Rows, y: NDArray[Any]) -> tuple[Taken, list[tuple[Rows, Rows]]]:
        """Time for all Cs of a fold, each from the last, and the weights of each."""
        rows: Rows = z.astype(self.dtype)
        model = LogisticRegression(
            solver=self.solver, tol=self.tol, warm_start=True, max_iter=10_000
        )

        def fit() -> list[tuple[Rows, Rows]]:
            found = []
            for C in CS:
                model.set_params(C=C).fit(rows, y)
                found.append((model.coef_.astype(float), model.intercept_.astype(float)))
            return found

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return timed(fit)


def sweep(n: int, d: int, every_fold: bool) -> dict[str, Any]:
    """Ten Cs by five folds: ours before each fold of scikit-learn's.

    Ours standardises each fold itself; scikit-learn is given the standardised rows.
    """
    x, y = embeddings(n, d)
    splits = list(folds_of(n))
    weights = np.zeros((FOLDS, n), dtype=np.float32)
    for row, (train, _) in zip(weights, splits, strict=True):
        row[train] = 1
    sides = [
        (StandardScaler().fit_transform(x[a].astype(np.float64)), y[a])
        for a, _ in splits[: FOLDS if every_fold else 1]
    ]
    against = []

    def ours() -> Solution:
        return solve(x, y, weights, CS.tolist(), standardize=True)

    for tol in (1e-4, 1e-6):
        for dtype in (np.float64, np.float32):
            against.append(compare(tol, dtype, sides, ours))
            print(f"  {against[-1]}", flush=True)
    taken, found = timed(ours)
    return {
        "rows": n,
        "columns": d,
        **floor(n, d, int(y.max()), found, taken.wall),
        "against_scikit_learn": against,
    }


def compare(
    tol: float, dtype: type, sides: list[tuple[Rows, NDArray[Any]]], ours: Callable[[], Solution]
) -> dict[str, Any]:
    """Take the faster of its solvers on the first fold, and that one on the others."""
    tried = {solver: Peer(solver, tol, dtype).path(*sides[0]) for solver in SOLVERS}
    best = min(tried, key=lambda solver: tried[solver][0].cpu)
    theirs, mine = [tried[best]], []
    for side in sides[1:]:
        mine.append(timed(ours))
        theirs.append(Peer(best, tol, dtype).path(*side))
    mine.append(timed(ours))
    fast = middle([taken for taken, _ in mine])
    slow = Taken(*(sum(t) * FOLDS / len(theirs) for t in zip(*(t for t, _ in theirs), strict=True)))
    return {
        "tol": tol,
        "scikit_learn": str(Peer(best, tol, dtype)),
        "its_folds_run": len(theirs),
        "seconds": [round(fast.wall, 2), round(slow.wall, 1)],
        "cpu_seconds": [round(fast.cpu, 2), round(slow.cpu, 1)],
        "times_faster": round(slow.wall / fast.wall, 1),
        "times_less_cpu": round(slow.cpu / fast.cpu, 1),
        **losses(sides, [weights for _, weights in theirs], mine[-1][1]),
    }


def losses(
    sides: list[tuple[Rows, NDArray[Any]]], theirs: list[list[tuple[Rows, Rows]]], ours: Solution
) -> dict[str, float]:
    """How far the penalised losses lie apart, at each C and fold, in float64."""
    more = []
    for f, weights in enumerate(theirs):
        for c, (coef, intercept) in enumerate(weights):
            mine = penalised(*sides[f], ours.coef[f, c], ours.intercept[f, c], CS[c])
            more.append(mine / penalised(*sides[f], coef, intercept, CS[c]) - 1)
    return {
        "our_loss_above_its_at_most": float(f"{max(more):.2g}"),
        "its_loss_above_ours_at_most": float(f"{-min(more):.2g}"),
    }


def floor(n: int, d: int, m: int, found: Solution, seconds: float) -> dict[str, Any]:
    """Return what the products of the passes made, and the vectors they read, take at the least."""
    a = torch.rand(2048, 2048)
    rate = 2 * 2048**3 / min(timed(lambda: a @ a)[0].wall for _ in range(7))
    far = torch.rand(2**26)
    width = 4 * 2**26 / min(timed(far.sum)[0].wall for _ in range(7))
    operations = 4 * (n * (FOLDS - 1) / FOLDS) * d * m * int(found.n_iter.sum())
    read = 4 * n * d * int(found.n_iter.sum(axis=1).max())
    least = max(operations / rate, read / width)
    return {
        "our_seconds": round(seconds, 3),
        "passes_a_fold": int(found.n_iter.sum(axis=1).max()),
        "gflop": round(operations / 1e9, 1),
        "gflop_a_second_of_the_machine": round(rate / 1e9),
        "gigabytes_read": round(read / 1e9, 2),
        "gigabytes_a_second_of_the_machine": round(width / 1e9, 1),
        "floor_seconds": round(least, 3),
        "share_of_floor": round(least / seconds, 2),
    }


def neighbours(n: int, d: int, k: int = 20) -> dict[str, Any]:
    """Leave-one-out, and scikit-learn's brute force by cosine and by distance on unit vectors."""
    unit = unit_rows(embeddings(n, d)[0])
    ours, (_, rows) = timed(lambda: all_neighbours(unit, k))
    print(f"  ours {ours}", flush=True)
    taken = {}
    for metric in ("cosine", "euclidean"):
        search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric).fit(unit)
        taken[metric], _ = timed(search.kneighbors)
        print(f"  scikit-learn {metric} {taken[metric]}", flush=True)
    some = np.random.default_rng(0).choice(n, 500, replace=False)
    exact = unit[some].astype(np.float64) @ unit.T.astype(np.float64)
    exact[np.arange(500), some] = -2
    order = np.argsort(-exact, axis=1)[:, :k]
    least = np.take_along_axis(exact, order, axis=1)[:, -1:]
    reached = np.take_along_axis(exact, rows[some], axis=1)
    return {
        "rows": n,
        "columns": d,
        "seconds": round(ours.wall, 1),
        "times_faster": {m: round(t.wall / ours.wall, 1) for m, t in taken.items()},
        "times_less_cpu": {m: round(t.cpu / ours.cpu, 1) for m, t in taken.items()},
        "neighbours_as_numpy": float((np.sort(order) == np.sort(rows[some])).mean()),
        "cosine_short_of_numpys_at_most": float(f"{max(0.0, float((least - reached).max())):.1g}"),
        "gflop_a_second": round(n * n * d / ours.wall / 1e9),
    }


def perceptrons(n: int, d: int) -> dict[str, Any]:
    """Seconds to one validation loss, and accuracy on scikit-learn's own data."""
    make = registry.load(registry.PROBES, "mlp")
    loaders = {"digits": load_digits, "breast cancer": load_breast_cancer, "wine": load_wine}
    accuracy = {}
    for name, load in loaders.items():
        x, y = load(return_X_y=True)
        accuracy[name] = {
            "embedstore": scored(make(), x, y),
            "scikit-learn": scored(MLPClassifier((128,), random_state=0), x, y),
        }
        print(f"  {name} {accuracy[name]}", flush=True)
    return {"accuracy": accuracy, "to_one_loss": to_one_loss(make, n, d)}


def scored(head: Any, x: Rows, y: NDArray[Any]) -> dict[str, float]:
    """Accuracy over five seeds of five folds, and the seconds they took."""
    piped = make_pipeline(StandardScaler(), head)
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=5, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        taken, scores = timed(lambda: cross_val_score(piped, x, y, cv=folds))
    return {"accuracy": round(float(scores.mean()), 4), "seconds": round(taken.wall, 1)}


def to_one_loss(make: Any, n: int, d: int) -> dict[str, Any]:
    """Seconds to the higher of the two lowest validation losses, with the same layers and rate."""
    x, y = embeddings(n, d)
    x = StandardScaler().fit_transform(x).astype(np.float32)
    a, b = train_test_split(np.arange(n), test_size=0.1, stratify=y, random_state=0)
    peer = MLPClassifier((128,), batch_size=128, random_state=0)
    clock, theirs = 0.0, []
    for _ in range(12):
        epoch, _ = timed(lambda: peer.partial_fit(x[a], y[a], classes=np.unique(y)))
        clock += epoch.wall
        theirs.append((clock, log_loss(y[b], peer.predict_proba(x[b]))))
    head = make(max_epochs=12, learning_rate=0.001)
    once, _ = timed(lambda: head.fit(x, y))
    held = head.validation_losses_
    # all epochs were gone through twice or less: once to look, once for good
    taken = once.wall * len(held) / (len(held) + int(np.argmin(held)) + 1)
    ours = [(taken * (i + 1) / len(held), loss) for i, loss in enumerate(held)]
    target = max(min(loss for _, loss in ours), min(loss for _, loss in theirs))
    reached = {
        who: next(t for t, loss in curve if loss <= target)
        for who, curve in (("embedstore", ours), ("scikit-learn", theirs))
    }
    return {
        "rows": n,
        "columns": d,
        "loss": round(target, 4),
        "seconds": {who: round(t, 2) for who, t in reached.items()},
        "times_faster": round(reached["scikit-learn"] / reached["embedstore"], 2),
        "lowest": {
            "embedstore": round(min(loss for _, loss in ours), 4),
            "scikit-learn": round(min(loss for _, loss in theirs), 4),
        },
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--only", default="sweep,knn,mlp")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    parts = given.only.split(",")
    torch.set_num_threads(given.threads)
    found: dict[str, Any] = {}
    with threadpool_limits(given.threads):
        if "sweep" in parts:
            size = (4000, 128) if given.quick else (20_000, 512)
            found["sweep"] = sweep(*size, True)
        if given.large:
            found["sweep, large"] = sweep(100_000, 768, False)
        if "knn" in parts:
            found["knn"] = neighbours(10_000 if given.quick else 100_000, 512)
        if "mlp" in parts:
            found["mlp"] = perceptrons(2000 if given.quick else 20_000, 512)
    name = "1 thread" if given.threads == 1 else f"{given.threads} threads"
    found = {f"{k}, {name}": {**v, "load_after": os.getloadavg()[0]} for k, v in found.items()}
    print(json.dumps(found, indent=1))
    if not given.quick:
        before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps({**before, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

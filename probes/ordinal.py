"""Proportional odds: one direction in the vectors, and a threshold between each two classes.

McCullagh 1980, "Regression models for ordinal data": ``P(y <= j) = sigmoid(theta_j - x @ w)``. The
right head for grades such as BI-RADS density: it uses their order, has one weight a column, and
moving along w never lowers the odds of a higher grade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit

from embedstore.classifier import (
    Answer,
    Doubles,
    Split,
    VectorClassifier,
    above_zero,
    points,
    require,
    row_weights,
    standardised,
    warn_unless,
    whole,
)


class OrdinalProbe(VectorClassifier):
    """Cumulative logit with an L2 penalty; the classes' order is that of their sorted labels.

    Minimises the sum of -log P(y), each row by its class weight, plus ``||w||^2 / (2 C)``, the
    thresholds free.

    Parameters
    ----------
    C
        Inverse strength of the penalty, as the logistic head's.
    class_weight
        None; "balanced", so that each class counts the same; or what each class counts for.
    tol
        What may be left to gain, as a share of the penalised loss.
    max_iter
        Iterations of L-BFGS.

    Attributes
    ----------
    coef_
        (d,) weights.
    thresholds_
        (k - 1,), rising.
    """

    default_grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "C": tuple(float(f"{c:.3g}") for c in np.logspace(-6, 3, 10))
    }

    def __init__(
        self,
        C: float = 0.01,
        class_weight: str | Mapping[Any, float] | None = None,
        tol: float = 1e-8,
        max_iter: int = 1000,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    def __sklearn_tags__(self) -> Any:
        """Ask scikit-learn's checks not to score it on classes that have no order."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> OrdinalProbe:
        """Fit (n, d) vectors to (n,) labels."""
        vectors, codes = self._read(X, y)
        (self.coef_, self.thresholds_, iterations) = self._way(vectors, codes, self.classes_)[0]
        warn_unless(np.array([iterations < self.max_iter]), self.max_iter)
        self.n_iter_ = max(iterations, 1)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) to (n, k): differences of the cumulative probabilities."""
        return _probabilities(self._seen(X).astype(np.float64) @ self.coef_, self.thresholds_)

    def fit_grid(
        self, X: NDArray[Any], y: NDArray[Any], splits: Sequence[Split], grid: Mapping[str, Any]
    ) -> list[list[Answer]]:
        """Answer the tested side of each split at each point of a grid, each C from the last.

        Parameters and result as `LogisticProbe.fit_grid`.
        """
        if set(grid) - {"C"}:
            raise ValueError(f"the ordinal head's grid is of C, not of {', '.join(grid)}")
        Cs = [point.get("C", self.C) for point in points(grid)]
        vectors, codes = self._read(X, y)
        answers: list[list[Answer]] = [[] for _ in Cs]
        for train, test in splits:
            rows = standardised(vectors, train)
            kept, own = np.unique(codes[train], return_inverse=True)
            found = self._way(rows[train], own, self.classes_[kept], Cs)
            for of_point, (coef, thresholds, _) in zip(answers, found, strict=True):
                p = _probabilities(rows[test].astype(np.float64) @ coef, thresholds)
                of_point.append((p, self.classes_[kept]))
        return answers

    def _way(
        self,
        vectors: NDArray[Any],
        codes: NDArray[np.intp],
        classes: NDArray[Any],
        Cs: Sequence[float] = (),
    ) -> list[tuple[Doubles, Doubles, int]]:
        """Weights, thresholds and iterations for each C, the weaker penalty from the stronger."""
        require("tol", self.tol, above_zero(self.tol), "a number above 0")
        require("max_iter", self.max_iter, whole(self.max_iter, 1), "a whole number from 1 up")
        asked = list(Cs) or [self.C]
        for C in asked:
            require("C", C, above_zero(C), "a number above 0")
        rows = vectors.astype(np.float64)
        centre = rows.mean(axis=0)
        scores, basis = _axes(rows - centre)
        weights = row_weights(codes, classes, self.class_weight)
        likelihood = _Likelihood(scores, codes, weights, len(classes))
        at = likelihood.start()
        found: list[Any] = [None] * len(asked)
        for i in np.argsort(asked, kind="stable"):
            at, iterations = likelihood.fitted(at, asked[i], self.tol, self.max_iter)
            w = at[: -(len(classes) - 1)] @ basis
            found[i] = (w, _thresholds(at[-(len(classes) - 1) :]) + centre @ w, iterations)
        return found


class _Likelihood(NamedTuple):
    """Of weights on `scores` (n, r) and of thresholds, as the first and the logs of the gaps."""

    scores: Doubles
    codes: NDArray[np.intp]
    weights: Doubles
    k: int

    def start(self) -> Doubles:
        """No weights, and thresholds that give every row the classes' shares."""
        share = np.bincount(self.codes, self.weights, self.k).cumsum()[:-1] / self.weights.sum()
        theta = np.log(share / (1 - share))
        return np.concatenate([np.zeros(self.scores.shape[1]), theta[:1], np.log(np.diff(theta))])

    def fitted(self, at: Doubles, C: float, tol: float, max_iter: int) -> tuple[Doubles, int]:
        """Minimise from `at`, in unknowns scaled by the curvature there; also the iterations."""
        _, _, curvature = self.loss(at)
        n = self.scores.shape[1]
        scale = np.ones(len(at))
        scale[:n] = 1 / np.sqrt(curvature @ self.scores**2 + 1 / C)
        scale[n:] = 1 / np.sqrt(self.weights.sum())

        def objective(unknown: Doubles) -> tuple[float, Doubles]:
            place = unknown * scale
            loss, slope, _ = self.loss(place)
            slope[:n] += place[:n] / C
            return loss + (place[:n] ** 2).sum() / (2 * C), slope * scale

        value, _ = objective(at / scale)
        options = {
            "maxiter": max_iter,
            "maxfun": 4 * max_iter,
            "maxcor": 30,
            "ftol": 0.01 * tol,
            "gtol": np.sqrt(tol * value / len(at)),
        }
        found = minimize(objective, at / scale, jac=True, method="L-BFGS-B", options=options)
        return found.x * scale, int(found.nit)

    def loss(self, at: Doubles) -> tuple[float, Doubles, Doubles]:
        """Sum of -log P, its slope, and (n,) its curvature along each row's score.

        ``P(a, b) = sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))``, a the
        threshold above and b the one below, so that no digits are lost far out.
        """
        n = self.scores.shape[1]
        theta = _thresholds(at[n:])
        z = self.scores @ at[:n]
        edges = np.concatenate([[-np.inf], theta, [np.inf]])
        above, below = edges[self.codes + 1] - z, edges[self.codes] - z
        gaps = np.diff(theta)
        inner = np.bincount(self.codes, self.weights, self.k)[1:-1]
        loss = (self.weights * (np.logaddexp(0, -above) + np.logaddexp(0, below))).sum()
        loss -= (inner * np.log(-np.expm1(-gaps))).sum()
        over, under = self.weights * expit(-above), self.weights * expit(below)
        by_theta = np.zeros(self.k - 1)
        by_theta -= np.bincount(self.codes, over, self.k)[:-1]
        by_theta += np.bincount(self.codes, under, self.k)[1:]
        by_gap = by_theta[::-1].cumsum()[::-1]  # theta_j is the first and all gaps before it
        by_gap[1:] = (by_gap[1:] - inner / np.expm1(gaps)) * gaps
        curvature = over * expit(above) + under * expit(-below)
        return loss, np.concatenate([self.scores.T @ (over - under), by_gap]), curvature


def _thresholds(at: Doubles) -> Doubles:
    steps: Doubles = np.concatenate([at[:1], np.exp(at[1:])]).cumsum()
    return steps


def _axes(centred: Doubles) -> tuple[Doubles, Doubles]:
    """Principal axes: scores (n, r), uncorrelated, and an orthonormal basis (r, d)."""
    tall = len(centred) > centred.shape[1]
    spectrum, vectors = np.linalg.eigh(centred.T @ centred if tall else centred @ centred.T)
    kept = spectrum > max(spectrum[-1], 1e-300) * max(centred.shape) * np.finfo(np.float64).eps
    kept[-1] = True
    if tall:
        return centred @ vectors[:, kept], vectors[:, kept].T
    root = np.sqrt(np.maximum(spectrum[kept], 0))
    basis: Doubles = (vectors[:, kept] / np.where(root > 0, root, 1)).T @ centred
    return vectors[:, kept] * root, basis


def _probabilities(z: Doubles, thresholds: Doubles) -> Doubles:
    """(n,) scores and (k - 1,) thresholds to (n, k); `expit` of both tails keeps small ones."""
    edges = np.concatenate([[-np.inf], thresholds, [np.inf]]) - z[:, None]
    low, high = expit(edges), expit(-edges)
    # a difference of what is near 1 is taken on the other side, where it is near 0
    right = edges[:, :-1] > 0
    p: Doubles = np.where(right, high[:, :-1] - high[:, 1:], low[:, 1:] - low[:, :-1])
    p /= p.sum(axis=1, keepdims=True)
    return p

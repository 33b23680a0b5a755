"""Multinomial logistic regression with an L2 penalty: the linear probe."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted, validate_data


class LogisticProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Linear probe, by scikit-learn's solver.

    Parameters
    ----------
    C
        Inverse strength of the penalty, as in scikit-learn. The default suits standardised vectors
        of some hundred dimensions and few images; it is far below scikit-learn's 1.0, at which
        such vectors are fitted without error.
    class_weight
        None, or "balanced": each class counts the same.
    max_iter
        Iterations of L-BFGS.

    Attributes
    ----------
    coef_, intercept_
        (k, d) and (k,) weights; (1, d) and (1,) for two classes.
    """

    def __init__(
        self, C: float = 0.01, class_weight: str | None = None, max_iter: int = 1000
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: ArrayLike) -> LogisticProbe:
        """Fit (n, d) vectors to (n,) labels."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        self.model_ = LogisticRegression(
            C=self.C, class_weight=self.class_weight, max_iter=self.max_iter
        ).fit(X, y)
        self.classes_ = self.model_.classes_
        self.coef_ = self.model_.coef_
        self.intercept_ = self.model_.intercept_
        self.n_iter_ = self.model_.n_iter_
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) to (n, k) probabilities, columns as `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        answered: NDArray[Any] = self.model_.predict_proba(X)
        return answered

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) to (n,) labels."""
        answer = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[answer]
        return labels

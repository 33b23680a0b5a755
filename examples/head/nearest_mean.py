"""The nearest class mean, as a head of embedstore in a package of its own."""

import numpy as np

from embedstore.classifier import VectorClassifier, softmax


class NearestMean(VectorClassifier):
    """Probabilities fall with the mean squared distance to each class's mean."""

    default_grid = {"sharpness": (0.1, 1.0, 10.0)}  # what --sweep tries

    def __init__(self, sharpness=1.0):
        self.sharpness = sharpness

    def fit(self, X, y):
        """Learn the mean of each class; X (n, d), y (n,)."""
        vectors, codes = self._read(X, y)
        self.means_ = np.stack([vectors[codes == c].mean(axis=0) for c in np.unique(codes)])
        return self

    def predict_proba(self, X):
        """(n, classes), each row of sum 1."""
        gaps = ((self._seen(X)[:, None] - self.means_) ** 2).mean(axis=2)
        return softmax(-self.sharpness * gaps)

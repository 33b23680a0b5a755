"""Zero-shot: each class by the vector of its description, nothing learnt.

Radford et al. 2021 (arXiv 2103.00020): softmax of the cosine between image and text over the
temperature the model was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedstore.blocks import Blocks
from embedstore.classifier import VectorClassifier, above_zero, require, softmax, text_matrix
from embedstore.types import unit_rows


class ZeroShotProbe(VectorClassifier):
    """Classes by given vectors; `fit` only checks that every label has one.

    Parameters
    ----------
    class_vectors
        Label to (d,) vector of its description, by the text side of the images' model.
    temperature
        What cosines are divided by before the softmax; 0.01 is CLIP's.

    Attributes
    ----------
    classes_
        All labels that have a vector.
    vectors_
        (k, d) their vectors, of length 1.
    """

    standardize = False
    takes_blocks = True
    needs_text = True

    def __init__(
        self, class_vectors: Mapping[Any, ArrayLike] | None = None, temperature: float = 0.01
    ) -> None:
        self.class_vectors = class_vectors
        self.temperature = temperature

    def fit(self, X: ArrayLike | Blocks, y: ArrayLike) -> ZeroShotProbe:
        """Check that (n, d) vectors and (n,) labels are of the same kind as the class vectors."""
        require("temperature", self.temperature, above_zero(self.temperature), "more than 0")
        vectors, _ = self._read(X, y)
        if not self.class_vectors:
            raise ValueError("class_vectors is None; give the vector of each class's description")
        text_matrix(self.class_vectors, self.classes_, vectors.shape[1])
        self.classes_ = np.unique(np.array(list(self.class_vectors)))
        self.vectors_ = text_matrix(self.class_vectors, self.classes_, vectors.shape[1])
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) vectors as the model gave them to (n, k) probabilities."""
        cosines = unit_rows(self._seen(X)) @ self.vectors_.T
        return softmax(cosines.astype(np.float64) / self.temperature)

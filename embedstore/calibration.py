"""Temperature scaling: probabilities that mean what they say.

Guo et al. 2017, "On calibration of modern neural networks" (arXiv 1706.04599): logits are divided
by one number, so that no answer changes, only how sure it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedstore.fitted import Answers

_LEAST = 1e-12
_RANGE = 20.0


def fit_temperature(answers: Answers, truth: NDArray[np.intp]) -> float:
    """Find the temperature of least log loss, between 1/20 and 20.

    Parameters
    ----------
    answers
        (n, k) probabilities of images the head has not seen.
    truth
        (n,) class numbers.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(answers, float(np.exp(log_temperature)))
        return float(-np.log(np.maximum(scaled[rows, truth], _LEAST)).mean())

    bound = np.log(_RANGE)
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))


def apply_temperature(answers: Answers, temperature: float) -> Answers:
    """(n, k) probabilities to the power of 1 / temperature, rows summing to 1 again."""
    logits = np.log(np.maximum(answers, _LEAST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled: Answers = powers / powers.sum(axis=1, keepdims=True)
    return scaled

"""Division and means where some cells hold nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ratio(top: NDArray[np.float64], bottom: NDArray[Any]) -> NDArray[np.float64]:
    """Divide; NaN where `bottom` is 0."""
    shares: NDArray[np.float64] = np.full_like(top, np.nan)
    np.divide(top, bottom, out=shares, where=bottom > 0)
    return shares


def mean_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average each row of (b, k) over what is not NaN; NaN where all is."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1))

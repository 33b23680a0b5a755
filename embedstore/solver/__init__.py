"""Multinomial logistic regression with an L2 penalty: every C and every fold of a sweep together.

The minimum is scikit-learn's: for each fold and C, the sum over its training rows of weight times
log loss, plus ``||W||^2 / (2 C)``, the intercept free. How it gets there:

- Folds differ in their rows and in the scale of their columns. Both are cheap: one centred copy of
  the vectors, sorted by the folds a row trains, serves all folds in one product, and a column's
  scale is a factor on its weights (`rows`).
- Unknowns are taken where the curvature is diagonal and known: rotated by the eigenvectors of the
  Gram matrix, classes less one in those of their covariance. At the start, where every row has the
  class shares for probabilities, that diagonal is the Hessian itself (`coordinates`).
- From there L-BFGS, all folds in one batch, along the Cs from the strongest penalty to the weakest.
  How a gradient changed over a step, less the penalty's share in it, belongs to the data alone and
  stays true at the next C: nothing is forgotten, and most Cs take a few passes (`path`).
- A C is done when half the squared gradient in the metric of that diagonal, about what is left to
  gain, falls below `tol` of the loss.
- Products are in the precision of the vectors (float32 or float64), sums over rows in float64.

Fewer rows than columns: a fold's rows span all there is to find, and it is solved in that span.
"""

from __future__ import annotations

from embedstore.solver.sweep import Solution, folds_at_once, solve, standard_scale
from embedstore.solver.threads import crew, one_thread

__all__ = ["Solution", "crew", "folds_at_once", "one_thread", "solve", "standard_scale"]

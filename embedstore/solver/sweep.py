"""Every C and fold: who can go together, and back to the columns as they were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from embedstore.blocks import Blocks, part
from embedstore.solver.coordinates import Coordinates
from embedstore.solver.path import MEMORY, Path
from embedstore.solver.rows import Rows
from embedstore.solver.streamed import StreamedRows
from embedstore.solver.threads import Crew, crew

Doubles = NDArray[np.float64]

THREAD_VALUES = 2**18
"""So many values of the vectors are worth a thread."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Fitted weights: logits of fold f at C c are ``(x - mean[f]) / scale[f] @ coef[f, c].T``.

    Attributes
    ----------
    coef, intercept
        (F, C, k, d) and (F, C, k), which the logits add; both sum to zero over the classes. A class
        that a fold does not train has weights 0 and intercept -inf.
    mean, scale
        (F, d): 0 and 1 unless standardised.
    loss
        (F, C): the penalised loss reached.
    n_iter
        (F, C): passes over the rows.
    converged
        (F, C): whether `tol` was met.
    """

    coef: Doubles
    intercept: Doubles
    mean: Doubles
    scale: Doubles
    loss: Doubles
    n_iter: NDArray[np.intp]
    converged: NDArray[np.bool_]

    def logits(self, vectors: NDArray[Any], fold: int) -> Doubles:
        """(n, d) to (C, n, k), by the weights of one fold."""
        coef = self.coef[fold] / self.scale[fold]
        columns = torch.from_numpy(coef.reshape(-1, coef.shape[2]).T)
        # torch's product: inside a crew it keeps to one thread, as numpy's does not
        flat = torch.from_numpy(np.array(vectors, dtype=np.float64)) @ columns
        logits: Doubles = flat.numpy().reshape(-1, *coef.shape[:2]).swapaxes(0, 1)
        logits += (self.intercept[fold] - coef @ self.mean[fold])[:, None]
        return logits


class Request(NamedTuple):
    """What is asked of all folds; `Cs` rising."""

    Cs: Doubles
    standardize: bool
    tol: float
    max_iter: int
    device: str


def solve(
    vectors: NDArray[Any] | Blocks,
    codes: NDArray[np.intp],
    weights: NDArray[Any],
    Cs: Sequence[float],
    standardize: bool = False,
    offset: Doubles | None = None,
    tol: float = 1e-7,
    max_iter: int = 1000,
    device: str = "cpu",
) -> Solution:
    """Minimise the penalised loss of every fold at every C.

    Parameters
    ----------
    vectors
        (n, d), finite. Products are in float64 if the vectors are, else in float32. `Blocks` are
        read anew for each pass, unless the rows that train some fold fit in memory.
    codes
        (n,) classes, 0 to k-1.
    weights
        (F, n): what each row counts for in each fold, 0 where the fold does not train on it.
    standardize
        Centre each column and divide it by its standard deviation over the fold's rows.
    offset
        (n, k): log-odds known beforehand, to which the fitted ones are added.
    tol
        What may be left to gain, as a share of the penalised loss; in float32 1e-8 at least.
    max_iter
        Passes for one C of one fold.

    Raises
    ------
    ValueError
        A fold trains fewer than two classes.
    """
    k = int(codes.max()) + 1
    if isinstance(vectors, Blocks):
        used = np.flatnonzero(weights.any(axis=0))
        taken = vectors.take(used).settled()
        if isinstance(taken, np.ndarray):
            vectors, codes, weights = taken, codes[used], weights[:, used]
            offset = None if offset is None else offset[used]
    weights = np.asarray(weights, np.float32 if isinstance(vectors, Blocks) else np.float64)
    present = np.stack([(weights[:, codes == c] > 0).any(axis=1) for c in range(k)], axis=1)
    if (alone := present.sum(axis=1) < 2).any():
        raise ValueError(f"fold {int(np.flatnonzero(alone)[0])} trains fewer than two classes")
    order = np.argsort(Cs, kind="stable")
    request = Request(np.asarray(Cs, dtype=np.float64)[order], standardize, tol, max_iter, device)
    answer = _blank(len(weights), len(order), k, vectors.shape[1])
    # what has no more rows than columns is solved in a span of its own
    few = (weights > 0).sum(axis=1) <= vectors.shape[1]
    kinds = np.column_stack([present, np.where(few, np.arange(len(few)) + 1, 0)])
    most = vectors.shape[0] * vectors.shape[1] // THREAD_VALUES if device == "cpu" else 1
    with crew(most) as hands:
        for kind in np.unique(kinds, axis=0):
            folds = np.flatnonzero((kinds == kind).all(axis=1))
            classes = np.flatnonzero(kind[:-1])
            inside = np.flatnonzero(np.isin(codes, classes))
            every = len(inside) == len(codes)  # no copy of all of them
            own = weights if len(folds) == len(weights) else weights[folds]
            found = (_in_span if kind[-1] else _together)(
                vectors if every else part(vectors, inside),
                np.searchsorted(classes, codes if every else codes[inside]),
                own if every else own[:, inside],
                None if offset is None else offset[np.ix_(inside, classes)],
                request,
                hands,
            )
            _place(answer, found, folds, classes, order)
    return answer


def folds_at_once(d: int, k: int, Cs: int, n: int = 0) -> int:
    """How many folds `solve` should be given at once, so that it stays within a gigabyte.

    Of `n` rows that are many more than the weights, their part counts, too.
    """
    values = (k - 1) * (d + 1) * (2 * MEMORY + 2 * Cs + 10) + n
    return max(1, 2**27 // values)


def standard_scale(mean: Doubles, deviation: Doubles) -> Doubles:
    """Take 1 for constant columns, which come out as rounding noise, not as an exact zero."""
    constant = deviation <= 1e-6 * np.abs(mean)
    return np.where(constant | (deviation == 0), 1.0, deviation)


def _together(
    vectors: NDArray[Any] | Blocks,
    codes: NDArray[np.intp],
    weights: Doubles,
    offset: Doubles | None,
    request: Request,
    crew: Crew,
) -> Solution:
    rows: Rows
    if isinstance(vectors, Blocks):
        single = weights.astype(np.float32, copy=False)
        rows = StreamedRows(vectors, codes, single, offset, request.device, crew)
    else:
        rows = Rows(vectors, codes, weights, offset, request.device, crew)
    centre = rows.centre.cpu().numpy()
    mean, scale = np.zeros((len(weights), len(centre))), np.ones((len(weights), len(centre)))
    if request.standardize:
        moved, deviation = (m.cpu().numpy() for m in rows.moments())
        mean = centre + moved
        scale = standard_scale(mean, deviation)
    coordinates = Coordinates(rows, torch.as_tensor(scale).to(rows.device), None)
    path = _gone(rows, coordinates, request)
    v, b = _weights(path, coordinates)
    intercept = b + np.einsum("fcmd,fd->fcm", v, mean - centre)
    return _solution(v * scale[:, None, None], intercept, mean, scale, path)


def _in_span(
    vectors: NDArray[Any] | Blocks,
    codes: NDArray[np.intp],
    weights: Doubles,
    offset: Doubles | None,
    request: Request,
    crew: Crew,
) -> Solution:
    """Solve one fold of no more rows than columns, in an orthonormal basis of its rows."""
    used = weights[0] > 0
    x = vectors[used].astype(np.float64)
    mean, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
    if request.standardize:
        mean = x.mean(axis=0)
        scale = standard_scale(mean, x.std(axis=0))
        x = (x - mean) / scale
    centre = np.average(x, axis=0, weights=weights[0, used])
    x -= centre
    spectrum, left = np.linalg.eigh(x @ x.T)
    kept = spectrum > max(spectrum[-1], 1e-300) * len(x) * np.finfo(np.float64).eps
    kept[-1] = True
    root = np.sqrt(np.maximum(spectrum[kept], 0))
    basis = (left[:, kept] / np.where(root > 0, root, 1)).T @ x
    known = None if offset is None else offset[used]
    rows = Rows(left[:, kept] * root, codes[used], weights[:, used], known, request.device, crew)
    shape = (1, len(root))
    coordinates = Coordinates(
        rows,
        torch.ones(shape, dtype=torch.float64, device=rows.device),
        torch.as_tensor(root**2 * weights[0, used].mean()).to(rows.device),
    )
    path = _gone(rows, coordinates, request)
    v, b = _weights(path, coordinates)
    w = v @ basis
    intercept = b - v @ rows.centre.cpu().numpy() - w @ centre
    return _solution(w, intercept, mean[None], scale[None], path)


def _gone(rows: Rows, coordinates: Coordinates, request: Request) -> Path:
    Cs = torch.as_tensor(request.Cs).to(rows.device)
    path = Path(rows, coordinates, Cs, request.tol, request.max_iter)
    path.run()
    return path


def _weights(path: Path, coordinates: Coordinates) -> tuple[Doubles, Doubles]:
    """(F, C, m, d) and (F, C, m), for the columns of the solver's rows."""
    each = [coordinates.weights(at) for at in path.at.unbind(dim=1)]
    v, b = (torch.stack(part, dim=1).cpu().numpy() for part in zip(*each, strict=True))
    return v, b


def _solution(v: Doubles, b: Doubles, mean: Doubles, scale: Doubles, path: Path) -> Solution:
    """Add the last class, against which the others were taken, and centre over the classes."""
    coef = np.concatenate([v, np.zeros_like(v[:, :, :1])], axis=2)
    intercept = np.concatenate([b, np.zeros_like(b[:, :, :1])], axis=2)
    return Solution(
        coef - coef.mean(axis=2, keepdims=True),
        intercept - intercept.mean(axis=2, keepdims=True),
        mean,
        scale,
        path.loss.cpu().numpy(),
        path.passes.cpu().numpy(),
        path.converged.cpu().numpy(),
    )


def _blank(folds: int, Cs: int, k: int, d: int) -> Solution:
    return Solution(
        np.zeros((folds, Cs, k, d)),
        np.full((folds, Cs, k), -np.inf),
        np.zeros((folds, d)),
        np.ones((folds, d)),
        np.zeros((folds, Cs)),
        np.zeros((folds, Cs), dtype=np.intp),
        np.zeros((folds, Cs), dtype=bool),
    )


def _place(
    answer: Solution,
    found: Solution,
    folds: NDArray[np.intp],
    classes: NDArray[np.intp],
    order: NDArray[np.intp],
) -> None:
    """Put what some folds found, Cs rising, where `solve` was asked for it."""
    answer.mean[folds], answer.scale[folds] = found.mean, found.scale
    answer.coef[np.ix_(folds, order, classes)] = found.coef
    answer.intercept[np.ix_(folds, order, classes)] = found.intercept
    answer.loss[np.ix_(folds, order)] = found.loss
    answer.n_iter[np.ix_(folds, order)] = found.n_iter
    answer.converged[np.ix_(folds, order)] = found.converged

"""The contracts of heads and backbones, as tests for those who write one.

In a test of your own::

    from embedstore.testing import check_backbone, check_probe

    def test_my_head():
        check_probe(MyHead)

    def test_my_backbone():
        check_backbone(load)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from embedstore.classifier import Split, points, standardised
from embedstore.errors import BackboneError
from embedstore.types import BackboneRequest, Spec

NAMES = np.array(["dense", "fatty", "mixed"])


def check_probe(make: Callable[..., Any], scikit_learn: bool = True, **settings: Any) -> None:
    """Check that a head does what embedstore asks of it.

    Parameters
    ----------
    make
        The head's class, or a function that returns a new head. One with ``needs_text`` is given
        `class_vectors`.
    scikit_learn
        Run scikit-learn's `check_estimator` too; not for heads that need text, whose class vectors
        cannot suit all its data.
    settings
        Parameters to make the head with.

    Raises
    ------
    AssertionError
        The head breaks the contract; the message says where.
    """
    x, y = _cohort()
    if getattr(make, "needs_text", False):
        settings = {"class_vectors": _texts(x, y), **settings}
    elif scikit_learn:
        check_estimator(make(**settings), on_skip=None)
    head = make(**settings)
    for check in (_answers, _repeats, _bad_vectors, _hard_shapes, _one_class, _grid):
        check(head, x, y)


def check_backbone(load: Callable[[BackboneRequest], Any], weights: str = "") -> None:
    """Check that a backbone does what embedstore asks of it.

    Parameters
    ----------
    load
        The loader, as its entry point names it.
    weights
        What stands after ``NAME@``.

    Raises
    ------
    AssertionError
        The backbone breaks the contract; the message says where.
    """
    import torch

    one, two = (load(BackboneRequest("mine", weights)) for _ in range(2))
    spec = one.spec
    _must(isinstance(spec, Spec), "spec is an embedstore.Spec")
    _must(spec.key == two.spec.key, "loading twice gives Specs of two keys")
    _must(all(spec.recipe.size), "spec.recipe says no size; fill in what the model wants to see")
    channels = 1 if spec.recipe.colour == "grey" else 3
    images = torch.rand(3, channels, *spec.recipe.size, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    with torch.inference_mode():
        vectors, again = one.encode_image(images), two.encode_image(images)
        alone = one.encode_image(images[1:2])
    _must(torch.equal(images, before), "encode_image changes the images it is given")
    _must(tuple(vectors.shape) == (3, spec.dim), f"encode_image gives (b, {spec.dim}), spec.dim")
    _must(bool(torch.isfinite(vectors).all()), "vectors are not finite")
    _must(torch.allclose(vectors, again, atol=1e-5), "loading twice gives two answers")
    _must(torch.allclose(vectors[1:2], alone, atol=1e-4), "a vector depends on what else is asked")
    _texts_or_refusal(one, spec)


def _texts_or_refusal(backbone: Any, spec: Spec) -> None:
    try:
        said = backbone.encode_text(["a", "b"])
    except BackboneError:
        return
    _must(tuple(said.shape) == (2, spec.dim), f"encode_text gives (m, {spec.dim})")


def _must(good: Any, otherwise: str) -> None:
    if not good:
        raise AssertionError(otherwise)


def _cohort(n: int = 90, d: int = 8) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Three classes that can be told apart, but not without error."""
    rng = np.random.default_rng(0)
    codes = np.arange(n) % 3
    centres = rng.normal(size=(3, d))
    return (1.5 * centres[codes] + rng.normal(size=(n, d))).astype(np.float32), NAMES[codes]


def _texts(x: NDArray[np.float32], y: NDArray[np.str_]) -> dict[str, NDArray[np.float32]]:
    return {name: x[y == name].mean(axis=0) for name in NAMES.tolist()}


def _fitted(head: Any, x: NDArray[Any], y: NDArray[Any]) -> Any:
    fresh = clone(head)
    before = x.copy()
    _must(fresh.fit(x, y) is fresh, "fit must return the head")
    _must((x == before).all(), "fit changed the vectors it was given")
    return fresh


def _answers(head: Any, x: NDArray[Any], y: NDArray[Any]) -> None:
    """Probabilities by class that are better than the shares, whatever the batch."""
    fitted = _fitted(head, x, y)
    _must(fitted.classes_.tolist() == NAMES.tolist(), "classes_ must be the sorted labels")
    p = fitted.predict_proba(x)
    _must(p.shape == (len(x), 3), f"predict_proba gave {p.shape} for {len(x)} rows of 3 classes")
    _must((p >= 0).all(), "a probability is below 0")
    _must(np.allclose(p.sum(axis=1), 1, atol=1e-5), "probabilities do not sum to 1")
    _must((fitted.predict(x) == NAMES[p.argmax(axis=1)]).all(), "predict is not the most probable")
    _must((fitted.predict(x) == y).mean() > 0.6, "it learnt nothing from classes that stand apart")
    some = fitted.predict_proba(x[7:9])
    _must(np.allclose(some, p[7:9], atol=1e-5), "a row's answer depends on the rows beside it")


def _repeats(head: Any, x: NDArray[Any], y: NDArray[Any]) -> None:
    one, two = (_fitted(head, x, y).predict_proba(x) for _ in range(2))
    _must((one == two).all(), "two fits to the same data differ; take a seed as a parameter")


def _bad_vectors(head: Any, x: NDArray[Any], y: NDArray[Any]) -> None:
    for bad in (np.nan, np.inf):
        broken = x.copy()
        broken[3, 2] = bad
        _refused(f"vectors with {bad}", lambda v=broken: clone(head).fit(v, y))  # type: ignore[misc]


def _hard_shapes(head: Any, x: NDArray[Any], y: NDArray[Any]) -> None:
    """Constant columns, and a class of which there is one row."""
    flat = x.copy()
    flat[:, 1] = 0.1
    rare = np.concatenate([[0], np.flatnonzero(y != y[0])])
    for what, vectors, labels in (("a constant column", flat, y), ("a lone row", x[rare], y[rare])):
        p = _fitted(head, vectors, labels).predict_proba(vectors)
        _must(np.isfinite(p).all(), f"probabilities are not numbers with {what}")


def _one_class(head: Any, x: NDArray[Any], y: NDArray[Any]) -> None:
    """Refused in one line, or answered with that class."""
    alone = np.full(len(y), NAMES[0])
    try:
        fitted = clone(head).fit(x, alone)
    except ValueError as error:
        _must("class" in str(error), f"one class alone is refused without saying so: {error}")
        return
    _must((fitted.predict(x) == NAMES[0]).all(), "trained on one class, it answers another")


def _grid(head: Any, x: NDArray[Any], y: NDArray[Any]) -> None:
    """`default_grid` names parameters, and `fit_grid` gives what one fit after another gives."""
    grid = {name: list(values)[:2] for name, values in getattr(head, "default_grid", {}).items()}
    if unknown := set(grid) - set(head.get_params()):
        raise AssertionError(f"default_grid has {unknown}, which are no parameters")
    if not hasattr(head, "fit_grid"):
        return
    lacking = (np.flatnonzero(y != NAMES[2]), np.arange(10))
    splits = [*_halves(len(y)), lacking]
    found = clone(head).fit_grid(x * 3 + 1, y, splits, grid)
    _must(len(found) == len(points(grid)), f"{len(found)} answers to {len(points(grid))} points")
    for of_point, point in zip(found, points(grid), strict=True):
        _same(head, x * 3 + 1, y, splits, point, of_point)


def _same(
    head: Any,
    x: NDArray[Any],
    y: NDArray[Any],
    splits: Sequence[Split],
    point: dict[str, Any],
    found: Sequence[tuple[NDArray[Any], NDArray[Any]]],
) -> None:
    for (p, classes), (train, test) in zip(found, splits, strict=True):
        rows = standardised(x, train) if getattr(head, "standardize", True) else x
        alone = clone(head).set_params(**point).fit(rows[train], y[train])
        _must(list(classes) == list(alone.classes_), f"fit_grid's classes differ at {point}")
        close = np.allclose(p, alone.predict_proba(rows[test]), atol=2e-3)
        _must(close, f"fit_grid and fit differ at {point}")


def _halves(n: int) -> Iterator[Split]:
    side = np.arange(n) // 3 % 2 == 0
    for train in (side, ~side):
        yield np.flatnonzero(train), np.flatnonzero(~train)


def _refused(what: str, act: Callable[[], object]) -> None:
    try:
        act()
    except ValueError as error:
        _must(str(error), f"{what} are refused without a word")
        return
    raise AssertionError(f"{what} are taken without a word")

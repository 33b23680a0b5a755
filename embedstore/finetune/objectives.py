"""What a fine-tune makes smaller, and the head on vectors that its last layer is in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from embedstore.heads import load_heads
from embedstore.types import Floats

__all__ = ["Contrastive", "CrossEntropy", "Objective", "Ordinal", "contrastive_loss"]


class Objective(nn.Module):
    """A last layer over (b, d) vectors for k classes."""

    head = ""
    """The head on vectors that answers as this does once it has learnt."""

    def log_probabilities(self, vectors: torch.Tensor) -> torch.Tensor:
        """(b, d) to (b, k)."""
        raise NotImplementedError

    def loss(self, vectors: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """(b, d) vectors and (b, k) what each shall answer, by weight, to the mean loss."""
        return -(wanted * self.log_probabilities(vectors)).sum(dim=1).mean()

    def start_from(self, head: Any, mean: Floats, scale: Floats) -> None:
        """Take the weights of the fitted head, whose vectors were standardised by these, (d,)."""
        raise NotImplementedError

    def as_head(self) -> Any:
        """Return the head, fitted to class numbers, that takes vectors as the backbone gives."""
        raise NotImplementedError

    def settle(self) -> None:
        """Keep in it all that its answers need, once it has learnt."""


class CrossEntropy(Objective):
    """A linear layer and the softmax."""

    head = "logistic"

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def log_probabilities(self, vectors: torch.Tensor) -> torch.Tensor:
        """(b, d) to (b, k)."""
        scores: torch.Tensor = self.linear(vectors)
        return scores.float().log_softmax(dim=1)

    @torch.no_grad()
    def start_from(self, head: Any, mean: Floats, scale: Floats) -> None:
        """Take a fitted logistic head's weights."""
        coef, intercept = head.coef_, head.intercept_
        if len(coef) == 1:  # two classes: scores of the second alone
            coef, intercept = (np.concatenate([-a / 2, a / 2]) for a in (coef, intercept))
        coef, intercept = _unscaled(coef, intercept, mean, scale)
        self.linear.weight.zero_()
        self.linear.bias.fill_(-30.0)  # of a class the probe has not seen
        rows = torch.as_tensor(head.classes_, dtype=torch.long)
        coef, intercept = coef - coef.mean(axis=0), intercept - intercept.mean()
        self.linear.weight[rows] = torch.as_tensor(coef, dtype=torch.float32)
        self.linear.bias[rows] = torch.as_tensor(intercept, dtype=torch.float32)

    def as_head(self) -> Any:
        """Return a logistic head."""
        weight, bias = (p.detach().double().cpu().numpy() for p in self.linear.parameters())
        if len(weight) == 2:
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        return _made(
            self.head,
            coef_=weight,
            intercept_=bias,
            classes_=np.arange(self.linear.out_features),
            n_iter_=np.array([1]),
            n_features_in_=self.linear.in_features,
        )


class Ordinal(Objective):
    """Proportional odds: ``P(y <= j) = sigmoid(theta_j - v @ w)`` (McCullagh 1980)."""

    head = "ordinal"

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, dim) * 0.01)  # (1, d): weights decay
        # the first threshold, and the logarithms of the gaps between them
        self.first = nn.Parameter(torch.tensor([-1.0]))
        self.gaps = nn.Parameter(torch.full((max(classes - 2, 0),), 0.0))

    def thresholds(self) -> torch.Tensor:
        """(k - 1,), rising."""
        return torch.cat([self.first, self.first + self.gaps.exp().cumsum(dim=0)])

    def log_probabilities(self, vectors: torch.Tensor) -> torch.Tensor:
        """(b, d) to (b, k): log of sigmoid(a) sigmoid(-b) (1 - exp(b - a)), a above and b below."""
        theta, z = self.thresholds(), vectors.float() @ self.weight.float().T
        above = functional.pad(functional.logsigmoid(theta - z), (0, 1))
        below = functional.pad(functional.logsigmoid(z - theta), (1, 0))
        between = torch.log(-torch.expm1(-(theta[1:] - theta[:-1]).clamp(min=1e-6)))
        return above + below + functional.pad(between, (1, 1))

    @torch.no_grad()
    def start_from(self, head: Any, mean: Floats, scale: Floats) -> None:
        """Take a fitted ordinal head's weights."""
        coef = head.coef_ / scale
        theta = head.thresholds_ + coef @ mean
        # a grade the probe has not seen has no room between two thresholds, or is far out
        edges = np.concatenate([[theta[0] - 30], theta, [theta[-1] + 30]])
        below = np.searchsorted(head.classes_, np.arange(len(self.gaps) + 1), side="right")
        theta = edges[below]
        self.weight.copy_(torch.as_tensor(coef, dtype=torch.float32)[None])
        self.first.fill_(float(theta[0]))
        gaps = np.log(np.maximum(np.diff(theta), 1e-6))
        self.gaps.copy_(torch.as_tensor(gaps, dtype=torch.float32))

    def as_head(self) -> Any:
        """Return an ordinal head."""
        theta = self.thresholds().detach().double().cpu().numpy()
        return _made(
            self.head,
            coef_=self.weight[0].detach().double().cpu().numpy(),
            thresholds_=theta,
            classes_=np.arange(len(theta) + 1),
            n_iter_=1,
            n_features_in_=self.weight.shape[1],
        )


class Contrastive(Objective):
    """Images against the sentences of all classes, both ways, by cosine.

    The text side is a module that takes (m, length) tokens to (m, d) vectors; without one the
    sentences' vectors stay as they are.

    Parameters
    ----------
    sentences
        (m, d) vectors.
    of
        (m,) the class each speaks of.
    scale
        What cosines are multiplied by to begin with, the inverse of a temperature.
    """

    head = "zeroshot"
    sentences: torch.Tensor
    of: torch.Tensor
    tokens: torch.Tensor | None

    def __init__(
        self,
        sentences: torch.Tensor,
        of: Sequence[int],
        scale: float,
        text: nn.Module | None = None,
        tokens: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.text = text
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(scale))))
        self.register_buffer("sentences", sentences.float())
        self.register_buffer("of", torch.as_tensor(of, dtype=torch.long))
        self.register_buffer("tokens", tokens, persistent=False)

    def said(self) -> torch.Tensor:
        """(m, d) unit vectors of the sentences, as the text side now has them."""
        vectors = self.sentences if self.text is None else self.text(self.tokens)
        return functional.normalize(vectors.float(), dim=1)

    def _classes(self, said: torch.Tensor) -> torch.Tensor:
        """(k, d) unit vectors of the classes: the mean of their sentences'."""
        k = int(self.of.max()) + 1
        means = torch.zeros(k, said.shape[1], device=said.device).index_add(0, self.of, said)
        return functional.normalize(means, dim=1)

    def log_probabilities(self, vectors: torch.Tensor) -> torch.Tensor:
        """(b, d) to (b, k)."""
        seen = functional.normalize(vectors.float(), dim=1)
        cosines = seen @ self._classes(self.said()).T
        return (self.log_scale.exp() * cosines).log_softmax(dim=1)

    def loss(self, vectors: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Let images find their class's sentences and sentences their class's images."""
        said = self.said()
        seen = functional.normalize(vectors.float(), dim=1)
        with torch.no_grad():  # the weight, as CLIP does: beyond a bound in the loss nothing learns
            self.log_scale.clamp_(max=float(np.log(100)))
        scale = self.log_scale.exp()
        return contrastive_loss(scale * seen @ said.T, wanted[:, self.of])

    def start_from(self, head: Any, mean: Floats, scale: Floats) -> None:
        """Leave it: the sentences are the start."""

    @torch.no_grad()
    def settle(self) -> None:
        """Keep the sentences' vectors in place of the text side."""
        self.sentences, self.text = self.said(), None

    @torch.no_grad()
    def as_head(self) -> Any:
        """Return a zero-shot head of the sentences' vectors."""
        vectors = self._classes(self.said()).double().cpu().numpy()
        temperature = float(1 / self.log_scale.exp())
        return _made(
            self.head,
            {"temperature": temperature},
            vectors_=vectors,
            classes_=np.arange(len(vectors)),
            n_features_in_=vectors.shape[1],
        )


def contrastive_loss(
    logits: torch.Tensor, wanted: torch.Tensor, known: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross-entropy of rows and columns, (n, m), against all positives by their weight.

    CLIP's symmetric loss (Radford et al. 2021, arXiv 2103.00020) with several positives (Khosla et
    al. 2020, arXiv 2004.11362). Pairs that are not `known`, (n, m) bool, are left out; so is a row
    or column without a positive.
    """
    sides = []
    for turned in (False, True):
        scores, positive = (logits.T, wanted.T) if turned else (logits, wanted)
        weights = positive.to(scores.dtype)
        if known is not None:
            scores = scores.masked_fill(~(known.T if turned else known), -1e4)
        total = weights.sum(dim=1)
        some = total > 0
        mean = (scores.log_softmax(dim=1) * weights).sum(dim=1)[some] / total[some]
        # a small batch may hold no true sentence at all
        sides.append(-mean.mean() if some.any() else scores.sum() * 0)
    return (sides[0] + sides[1]) / 2


def _unscaled(coef: Any, intercept: Any, mean: Floats, scale: Floats) -> tuple[Any, Any]:
    """Weights over standardised vectors as weights over the vectors themselves."""
    plain = coef / scale
    return plain, intercept - plain @ mean


def _made(name: str, parameters: Mapping[str, Any] | None = None, **learnt: Any) -> Any:
    (head,) = load_heads([name])
    made: Callable[..., Any] = head
    fitted = made(**(parameters or {}))
    vars(fitted).update(learnt)
    return fitted

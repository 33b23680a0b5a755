"""A perceptron with one or two hidden layers: what a line cannot part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from torch import Tensor, nn

from embedstore.blocks import Blocks
from embedstore.classifier import (
    Doubles,
    VectorClassifier,
    above_zero,
    require,
    row_weights,
    softmax,
    whole,
)
from embedstore.solver import one_thread

Data = list[Any]
"""(n, d) vectors, a `Tensor` or `Blocks`, and tensors of (n,) classes and of (n,) weights."""


class MLPProbe(VectorClassifier):
    """ReLU layers with dropout, trained by AdamW for as many epochs as a part held back gains.

    Once these are known, it is trained anew on all rows for as many.

    Parameters
    ----------
    hidden_layer_sizes
        Units of each hidden layer.
    dropout
        Share of the units left out of each training step.
    weight_decay, learning_rate
        AdamW's.
    batch_size
        Rows of a training step.
    max_epochs
        Times the training rows are gone through at most.
    patience
        Epochs without a gain after which it stops looking for one.
    validation_fraction
        Share of each class held back to see that; the training loss is watched where a class has
        too few rows.
    class_weight
        None; "balanced", so that each class counts the same; or what each class counts for.
    random_state
        Seed: the same on one machine gives the same weights.

    Attributes
    ----------
    weights_, biases_
        Of each layer, (in, out) and (out,) float32.
    validation_losses_
        Loss of the part held back, by epoch.
    """

    takes_blocks = True
    default_grid: ClassVar[Mapping[str, Sequence[Any]]] = {
        "hidden_layer_sizes": ((64,), (256,)),
        "weight_decay": (0.01, 0.1, 1.0),
    }

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (128,),
        dropout: float = 0.2,
        weight_decay: float = 0.01,
        learning_rate: float = 0.002,
        batch_size: int = 128,
        max_epochs: int = 200,
        patience: int = 10,
        validation_fraction: float = 0.1,
        class_weight: str | Mapping[Any, float] | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: ArrayLike | Blocks, y: ArrayLike) -> MLPProbe:
        """Train on (n, d) vectors and (n,) labels."""
        self._check()
        vectors, codes = self._read(X, y)
        counts = row_weights(codes, self.classes_, self.class_weight)
        rows = vectors
        if not isinstance(vectors, Blocks):
            rows = torch.tensor(vectors, dtype=torch.float32)
        data = [rows, torch.as_tensor(codes), torch.as_tensor(counts, dtype=torch.float32)]
        seed = int(check_random_state(self.random_state).randint(2**31))
        train, held = self._parted(codes, seed)
        # what torch's generator gives afterwards is not changed by a fit
        with torch.random.fork_rng(devices=[]), one_thread():
            torch.manual_seed(seed)
            net = self._net(rows.shape[1], len(self.classes_))
            looked = self._train(net, _taken(data, train), _taken(data, held))
            self.validation_losses_ = looked
            torch.manual_seed(seed)
            net = self._net(rows.shape[1], len(self.classes_))
            self._train(net, data, None, int(np.argmin(looked)) + 1)
        layers = [layer for layer in net if isinstance(layer, nn.Linear)]
        self.weights_ = [layer.weight.detach().numpy().T.copy() for layer in layers]
        self.biases_ = [layer.bias.detach().numpy().copy() for layer in layers]
        self.n_iter_ = len(self.validation_losses_)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) to (n, k) probabilities, columns as `classes_`."""
        rows: Doubles = self._seen(X).astype(np.float64)
        for weights, biases in zip(self.weights_[:-1], self.biases_[:-1], strict=True):
            rows = np.maximum(rows @ weights + biases, 0)
        return softmax(rows @ self.weights_[-1] + self.biases_[-1])

    def _net(self, d: int, k: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for size in self.hidden_layer_sizes:
            layers += [nn.Linear(d, size), nn.ReLU(), nn.Dropout(self.dropout)]
            d = size
        return nn.Sequential(*layers, nn.Linear(d, k))

    def _parted(self, codes: NDArray[np.intp], seed: int) -> tuple[Tensor, Tensor]:
        """Row numbers to train on and to hold back; all for both where a class has too few."""
        every = np.arange(len(codes))
        held = int(len(codes) * self.validation_fraction)
        if held < len(self.classes_) or np.bincount(codes).min() < 2:
            return torch.as_tensor(every), torch.as_tensor(every)
        parts = train_test_split(every, test_size=held, stratify=codes, random_state=seed)
        return torch.as_tensor(parts[0]), torch.as_tensor(parts[1])

    def _train(
        self,
        net: nn.Sequential,
        train: Data,
        held: Data | None,
        epochs: int | None = None,
    ) -> list[float]:
        """Step through the epochs; stop when `held` no longer gains, and return its losses."""
        optimizer = torch.optim.AdamW(
            net.parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        losses: list[float] = []
        for _ in range(epochs or self.max_epochs):
            net.train()
            for batch in _batches(len(train[0]), self.batch_size):
                optimizer.zero_grad()
                some = [_in_memory(part) for part in _taken(train, batch)]
                _loss(net, some).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            if held is None:
                continue
            net.eval()
            with torch.no_grad():
                losses.append(_loss_of_all(net, held))
            if not np.isfinite(losses[-1]):
                raise ValueError(
                    f"the loss is {losses[-1]} after {len(losses)} epochs; give a learning_rate "
                    f"below {self.learning_rate}, or standardise the vectors"
                )
            if len(losses) - 1 - int(np.argmin(losses)) >= self.patience:
                break
        return losses

    def _check(self) -> None:
        sizes = self.hidden_layer_sizes
        good = isinstance(sizes, Sequence) and 1 <= len(sizes) <= 2
        good = good and all(whole(s, 1) for s in sizes)
        require("hidden_layer_sizes", sizes, good, "one or two whole numbers, such as (128,)")
        require("dropout", self.dropout, 0 <= self.dropout < 1, "0 up to less than 1")
        decay = self.weight_decay
        require("weight_decay", decay, decay == 0 or above_zero(decay), "0 or more")
        rate = self.learning_rate
        require("learning_rate", rate, above_zero(rate), "a number above 0")
        for name in ("batch_size", "max_epochs", "patience"):
            value = getattr(self, name)
            require(name, value, whole(value, 1), "a whole number from 1 up")
        share = self.validation_fraction
        require("validation_fraction", share, 0 < share < 1, "a share between 0 and 1")


def _batches(n: int, size: int) -> Iterator[Tensor]:
    """Yield shuffled row numbers in even batches."""
    yield from torch.randperm(n).tensor_split(max(1, -(-n // size)))


def _taken(data: Data, rows: Tensor) -> Data:
    """Those rows of each part; of `Blocks` nothing is read yet."""
    return [p.take(rows.numpy()) if isinstance(p, Blocks) else p[rows] for p in data]


def _in_memory(part: Tensor | Blocks) -> Tensor:
    return torch.from_numpy(part[:]) if isinstance(part, Blocks) else part


def _loss_of_all(net: nn.Sequential, data: Data) -> float:
    """Weighted mean cross-entropy, of `Blocks` block by block."""
    rows, codes, counts = data
    if not isinstance(rows, Blocks):
        return float(_loss(net, [rows, codes, counts]))
    total = 0.0
    for start, block in rows.blocks():
        some = slice(start, start + len(block))
        own = [torch.from_numpy(block), codes[some], counts[some]]
        total += float(_loss(net, own)) * float(counts[some].sum())
    return total / float(counts.sum())


def _loss(net: nn.Sequential, data: list[Tensor]) -> Tensor:
    """Weighted mean cross-entropy."""
    rows, codes, counts = data
    each = nn.functional.cross_entropy(net(rows), codes, reduction="none")
    return (each * counts).sum() / counts.sum()

"""The linear probe of arXiv 2506.13964, as its code has it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import train_test_split
from torch import nn

from embedstore.classifier import Doubles, VectorClassifier, softmax
from embedstore.solver import one_thread


class StudyLinear(VectorClassifier):
    """One linear layer on vectors as they are, by AdamW, until a part held back stops gaining.

    The layer of the best epoch is kept. As in the study the part is held back by image.

    Attributes
    ----------
    coef_, intercept_
        (k, d) and (k,) weights.
    validation_losses_
        Smoothed cross-entropy of the part held back, by epoch.
    """

    standardize = False

    def __init__(
        self,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.01,
        label_smoothing: float = 0.1,
        batch_size: int = 64,
        max_epochs: int = 200,
        patience: int = 10,
        validation_fraction: float = 0.15,
        random_state: int = 0,
    ) -> None:
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> StudyLinear:
        """Train on (n, d) vectors and (n,) labels."""
        vectors, codes = self._read(X, y)
        rows = torch.tensor(np.asarray(vectors), dtype=torch.float32)
        truth = torch.as_tensor(codes)
        learn, held = self._parted(codes)
        # what torch's generator gives afterwards is not changed by a fit
        with torch.random.fork_rng(devices=[]), one_thread():
            torch.manual_seed(self.random_state)
            layer = nn.Linear(rows.shape[1], len(self.classes_))
            best, self.validation_losses_ = self._train(layer, rows, truth, learn, held)
        self.coef_ = best["weight"].numpy().copy()
        self.intercept_ = best["bias"].numpy().copy()
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) to (n, k) probabilities, columns as `classes_`."""
        rows: Doubles = self._seen(X).astype(np.float64)
        return softmax(rows @ self.coef_.T + self.intercept_)

    def _parted(self, codes: NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor]:
        """Row numbers to learn from and to hold back; all for both where a class has too few."""
        every = np.arange(len(codes))
        held = int(len(codes) * self.validation_fraction)
        if held < len(self.classes_) or np.bincount(codes).min() < 2:
            return torch.as_tensor(every), torch.as_tensor(every)
        learn, rest = train_test_split(
            every, test_size=held, stratify=codes, random_state=self.random_state
        )
        return torch.as_tensor(learn), torch.as_tensor(rest)

    def _train(
        self,
        layer: nn.Linear,
        rows: torch.Tensor,
        truth: torch.Tensor,
        learn: torch.Tensor,
        held: torch.Tensor,
    ) -> tuple[dict[str, torch.Tensor], list[float]]:
        criterion = nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)
        optimizer = torch.optim.AdamW(
            layer.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        best, losses = copy.deepcopy(layer.state_dict()), list[float]()
        for _ in range(self.max_epochs):
            for batch in torch.split(learn[torch.randperm(len(learn))], self.batch_size):
                optimizer.zero_grad()
                criterion(layer(rows[batch]), truth[batch]).backward()
                optimizer.step()
            with torch.no_grad():
                losses.append(float(criterion(layer(rows[held]), truth[held])))
            if losses[-1] == min(losses):
                best = copy.deepcopy(layer.state_dict())
            if len(losses) - 1 - int(np.argmin(losses)) >= self.patience:
                break
        return best, losses

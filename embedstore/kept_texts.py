"""The sentences a store keeps, with their vectors by the text side of a Spec.

::

    S.zarr/texts/<Spec.key>/
      sentence              (m,) string, each once
      vectors               (m, d) float32, as the backbone gave them

They are written through `embedstore.writer`, as all else is, and serve one Spec only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.arrays import Arrays
from embedstore.chunks import Layout
from embedstore.types import Floats, Spec

FOLDER = "texts"


@dataclass(frozen=True, slots=True)
class Texts(Mapping[str, Floats]):
    """Sentence to its (d,) vector.

    Attributes
    ----------
    sentences
        m of them, each once.
    vectors
        (m, d) float32, not normalised; perhaps memory-mapped and read-only.
    """

    sentences: Sequence[str]
    vectors: NDArray[Any]
    _places: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find each sentence's place."""
        places = {sentence: at for at, sentence in enumerate(self.sentences)}
        object.__setattr__(self, "_places", places)

    def __getitem__(self, sentence: str) -> Floats:
        """Return one vector."""
        vector: Floats = self.vectors[self._places[sentence]]
        return vector

    def __iter__(self) -> Iterator[str]:
        """Go through the sentences."""
        return iter(self._places)

    def __len__(self) -> int:
        """Count the sentences."""
        return len(self._places)

    def __contains__(self, sentence: object) -> bool:
        """Say whether a sentence has a vector."""
        return sentence in self._places

    def places(self, sentences: Iterable[str]) -> tuple[int, ...]:
        """Return the row of each sentence in `vectors`."""
        return tuple(self._places[s] for s in sentences)


def layouts(spec: Spec) -> tuple[Layout, Layout]:
    """Return the layouts of a Spec's sentences and of their vectors."""
    prefix = f"{FOLDER}/{spec.key}"
    return Layout(f"{prefix}/sentence", "string"), Layout(
        f"{prefix}/vectors", "float32", (spec.dim,)
    )


def read_texts(store: Arrays, spec: Spec) -> Texts:
    """Return what a store keeps of a Spec; perhaps nothing.

    Raises
    ------
    StoreError
        A chunk is missing or damaged.
    """
    sentence, vectors = layouts(spec)
    if sentence.name not in store.arrays:
        return Texts((), np.empty((0, spec.dim), np.float32))
    mapped = store.mapped(vectors.name)
    rows = store.array(vectors.name) if mapped is None else mapped
    return Texts(store.array(sentence.name).tolist(), rows)

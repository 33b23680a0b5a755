"""Sentences to vectors, each encoded once: what a store keeps is not encoded again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedstore.embed import text_side
from embedstore.errors import BackboneError, StoreError
from embedstore.kept_texts import Texts, layouts
from embedstore.prompts.lengths import check_lengths
from embedstore.store import Store
from embedstore.types import Backbone, Floats, Spec, unit_rows
from embedstore.writer import Writer

BATCH = 64
SECONDS = 5.0
"""Between commits: what a killed run loses at most."""

_WITNESSES = 8
_ALIKE = 0.999
_NOT_KEPT = "the vectors of sentences are not kept"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors of sentences, the model's logit scale (None where it has none), and what to say."""

    texts: Texts
    logit_scale: float | None
    encoded: int
    notes: tuple[str, ...] = ()


def encode_texts(
    store: Store,
    spec: Spec,
    sentences: Iterable[str],
    model: str = "",
    device: str = "auto",
    on_progress: Progress = lambda done, total: None,
    seconds: float = SECONDS,
) -> Encoded:
    """Return vectors of sentences by the text side of a Spec, and keep those that are new.

    Where the store keeps all of them the model is not even loaded. A store that cannot be written
    stays as it is, and a note says so.

    Parameters
    ----------
    model
        ``NAME[@WEIGHTS]`` or a folder; by default the Spec's own name.
    on_progress
        Is told of sentences encoded, and to encode.

    Raises
    ------
    BackboneError
        There is no text side, the model cannot be had, or a vector is not finite.
    SpecMismatch
        `model` is another one.
    UsageError
        A sentence is longer than the model reads.
    """
    wanted = dict.fromkeys(sentences)
    kept, known = store.texts(spec), store.provenance[spec.key].get("text")
    if known is not None and not model and all(s in kept for s in wanted):
        return Encoded(kept, known["logit_scale"], 0)
    backbone = text_side(spec, model, device)
    notes = []
    if not check_lengths(backbone, (s for s in wanted if s not in kept)):
        notes.append(f"{spec.backbone} does not say how long a sentence it reads: none was checked")
    scale = getattr(backbone, "logit_scale", None)
    with _sink(store, spec, seconds) as sink:
        kept = sink.begin(kept, backbone, {"logit_scale": scale})
        fresh = [s for s in wanted if s not in kept]
        for start in range(0, len(fresh), BATCH):
            some = fresh[start : start + BATCH]
            sink.put(some, _vectors(backbone, some))
            on_progress(start + len(some), len(fresh))
        texts = sink.end()
    return Encoded(texts, scale, len(fresh), (*notes, *sink.notes))


def _vectors(backbone: Backbone, sentences: Sequence[str]) -> Floats:
    with torch.inference_mode():
        found: Floats = backbone.encode_text(list(sentences)).float().cpu().numpy()
    if not np.isfinite(found).all():
        bad = sentences[int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])]
        raise BackboneError(f"{backbone.spec.backbone}: the vector of {bad!r} is not finite")
    return found


def _made_alike(kept: Texts, backbone: Backbone) -> bool:
    """Say whether some of the kept vectors are what the backbone gives now.

    The weights are the Spec's, which leaves the tokenizer's files and the text tower's
    configuration: with others the same weights would read other words.
    """
    if not len(kept):
        return True
    some = np.unique(np.linspace(0, len(kept) - 1, _WITNESSES).astype(int))
    now = unit_rows(_vectors(backbone, [kept.sentences[i] for i in some.tolist()]))
    return bool(((now * unit_rows(kept.vectors[some])).sum(axis=1) > _ALIKE).all())


@dataclass(slots=True)
class _Sink:
    """Where fresh vectors go: into the store with every commit, else into memory."""

    store: Store
    spec: Spec
    seconds: float
    writer: Writer | None
    notes: list[str]
    _kept: Texts = field(init=False)
    _waiting: list[tuple[Sequence[str], Floats]] = field(default_factory=list)
    _due: bool = False  # something to commit
    _done: bool = False  # a commit of ours is there
    _committed: float = field(default_factory=time.monotonic)

    def begin(self, kept: Texts, backbone: Backbone, said: dict[str, Any]) -> Texts:
        """Return what is kept and of use, others' latest work too; note what is said of texts."""
        self._kept = kept
        if self.writer is not None:
            now = self.writer.store()
            self._kept = now.texts(self.spec)
            self._due = now.provenance[self.spec.key].get("text") != said
            self.writer.note_text(self.spec, said)
        if not _made_alike(self._kept, backbone):
            self._forget()
        return self._kept

    def _forget(self) -> None:
        self.notes.append(
            f"the {len(self._kept)} sentences kept before were read by another tokenizer or text "
            f"tower of the same weights: they are not used"
        )
        if self.writer is not None:
            for layout in layouts(self.spec):
                self.writer.rewrite(layout.name, ())
            self._due = True
        self._kept = Texts((), self._kept.vectors[:0])

    def put(self, sentences: Sequence[str], vectors: Floats) -> None:
        """Take some in; commit now and then."""
        self._waiting.append((sentences, vectors))
        self._due = True
        if time.monotonic() - self._committed >= self.seconds:
            self._commit()

    def end(self) -> Texts:
        """Commit the rest; return all there is."""
        self._commit()
        if not self._waiting:
            return self._kept
        new = [s for some, _ in self._waiting for s in some]
        rows: list[NDArray[Any]] = [self._kept.vectors, *(rows for _, rows in self._waiting)]
        return Texts([*self._kept.sentences, *new], np.concatenate(rows))

    def _commit(self) -> None:
        if self.writer is None or not self._due:
            return
        try:
            for sentences, vectors in self._waiting:
                named, of_them = layouts(self.spec)
                self.writer.extend(named, [np.array(sentences, dtype=object)])
                self.writer.extend(of_them, [vectors])
            self.writer.commit()
            self._waiting, self._due, self._done = [], False, True
        except StoreError as error:
            self.writer = None
            self.notes.append(f"{_NOT_KEPT}: {error}")
        if self._done:
            self._kept = Store.open(self.store.path).texts(self.spec)
        self._committed = time.monotonic()


@contextmanager
def _sink(store: Store, spec: Spec, seconds: float) -> Iterator[_Sink]:
    """Hold the store's lock where it can be had."""
    writer = Writer(store.path)
    try:
        writer.__enter__()
    except StoreError as error:
        yield _Sink(store, spec, seconds, None, [f"{_NOT_KEPT}: {error}"])
        return
    try:
        yield _Sink(store, spec, seconds, writer, [])
    finally:
        writer.__exit__(None, None, None)

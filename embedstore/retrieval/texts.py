"""Does a text find its images, and an image its text? As CLIP's retrieval tests ask.

``recall@k`` is the share of queries with something of their own among the first k (Radford et al.
2021, arXiv 2103.00020; Karpathy and Fei-Fei 2015), the median rank that of the first of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedstore.errors import UsageError
from embedstore.metrics import Draws
from embedstore.protocol import labelled
from embedstore.results import Score
from embedstore.retrieval.labels import without_nan
from embedstore.retrieval.measures import Values, by_chance, measured
from embedstore.retrieval.ranking import rankings
from embedstore.retrieval.scores import Drawn, drawn, resamples, scores
from embedstore.retrieval.task import DRAWN, MOST
from embedstore.splits import linked
from embedstore.types import Backbone, Embeddings, Floats, Spec, unit_rows

FEWEST = 10
"""Sets of texts that share no patient, below which resampling them says nothing."""

_BATCH = 64
_NAN = float("nan")

Show = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Direction:
    """Texts asking for images, or images for texts.

    `n_drawn` is how many sets of queries were resampled: those that share no patient.
    """

    n_queries: int
    n_candidates: int
    n_drawn: int
    metrics: Mapping[str, Score]


@dataclass(frozen=True, slots=True)
class TextReport:
    """How well the two sides of a model find each other, by the texts of a column."""

    spec: Spec
    column: str
    k: tuple[int, ...]
    text_to_image: Direction
    image_to_text: Direction
    n_patients: int
    seed: int
    seconds: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them; what is not a number is None."""
        return without_nan(asdict(self)) | {"spec": self.spec.to_dict() | {"key": self.spec.key}}


@dataclass(frozen=True, slots=True)
class AskedTexts:
    """Which column's texts, to which depths; `queries` and `seed` as in `Asked`."""

    column: str
    ks: tuple[int, ...] = (10,)
    queries: int | None = None
    seed: int = 0


def text_vectors(backbone: Backbone, texts: Sequence[str]) -> Floats:
    """Return the (m, d) unit vectors of texts; `BackboneError` where there is no text side."""
    with torch.inference_mode():
        parts = [
            backbone.encode_text(list(texts[start : start + _BATCH])).float().cpu().numpy()
            for start in range(0, len(texts), _BATCH)
        ]
    return unit_rows(np.concatenate(parts))


def judge_texts(
    embeddings: Embeddings, backbone: Backbone, asked: AskedTexts, show: Show = lambda *_: None
) -> TextReport:
    """Rank all images for each distinct text, and all texts for each image.

    Raises
    ------
    UsageError
        There is no such column, or a k is more than there are images.
    DataError
        No text is known, or vectors hold NaN.
    BackboneError
        The model has no text side.
    """
    began = time.monotonic()
    embeddings.spec.require(backbone.spec)
    kept, texts, unknown = labelled(embeddings, asked.column)
    if max(asked.ks) > len(kept):
        raise UsageError(f"-k {max(asked.ks)}: there are {len(kept)} images with a text; give less")
    distinct, of = np.unique(texts, return_inverse=True)
    if len(distinct) < 2:
        raise UsageError(f"{asked.column} has one text: every image found is its own")
    patients = linked(kept)
    vectors, unit = text_vectors(backbone, distinct.tolist()), kept.unit()
    alone = _alone(of, patients)
    asking = _some(np.arange(len(distinct)), np.arange(len(distinct)), asked)
    images = _some(np.arange(len(kept)), patients, asked)
    to_image = _direction(vectors[asking], asking, unit, of, alone[asking], asked, show)
    shallow = tuple(k for k in asked.ks if k < len(distinct))
    ks = shallow or (1,)
    numbers = np.arange(len(distinct))
    less = AskedTexts(asked.column, ks, seed=asked.seed)
    to_text = _direction(unit[images], of[images], vectors, numbers, patients[images], less, show)
    notes = _notes(asked, unknown, len(distinct), ks, to_image)
    if len(images) < len(kept) or len(asking) < len(distinct):
        notes += (f"queries drawn at random, seed {asked.seed}: not all asked",)
    return TextReport(
        embeddings.spec,
        asked.column,
        asked.ks,
        to_image,
        to_text,
        len(np.unique(patients)),
        asked.seed,
        time.monotonic() - began,
        notes,
    )


def _alone(of: NDArray[np.intp], patients: NDArray[np.intp]) -> NDArray[np.intp]:
    """(m,) number of the set each text is in: with those that share a patient, and so on."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    texts, people = int(of.max()) + 1, int(patients.max()) + 1
    edges = (np.ones(len(of), dtype=bool), (of, texts + patients))
    _, sets = connected_components(coo_array(edges, shape=(texts + people,) * 2), directed=False)
    found: NDArray[np.intp] = sets[:texts].astype(np.intp)
    return found


def _some(rows: NDArray[np.intp], groups: NDArray[np.intp], asked: AskedTexts) -> NDArray[np.intp]:
    """Keep all, or whole groups drawn at random, the first of them in any case."""
    most = asked.queries or (len(rows) if len(rows) <= MOST else DRAWN)
    if len(rows) <= most:
        return rows
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(asked.seed).permutation(len(sizes))
    fits = np.cumsum(sizes[order]) <= most
    fits[0] = True
    return rows[np.isin(number, order[fits])]


def _direction(
    queries: Floats,
    own: NDArray[np.intp],
    corpus: Floats,
    of: NDArray[np.intp],
    groups: NDArray[np.intp],
    asked: AskedTexts,
    show: Show,
) -> Direction:
    """Ask every query for what has its number: `own` (q,) and `of` (n,) numbers of texts."""
    total = np.bincount(of)[own].astype(np.intp)
    parts: list[Values] = []
    for part, rows in rankings(queries, corpus):
        parts.append(measured(of[rows] == own[part, None], total[part], asked.ks))
        show(part.stop, len(queries))
    values = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
    chance = by_chance(np.full(len(queries), len(corpus)), total, asked.ks)
    found = _scores(values, chance, groups, asked.seed)
    several = len(np.unique(groups))
    if several < FEWEST:
        found = {n: Score(s.value, _NAN, _NAN, s.floor, floors=s.floors) for n, s in found.items()}
    return Direction(len(queries), len(corpus), several, found)


def _scores(
    values: Values, chance: Values, groups: NDArray[np.intp], seed: int
) -> dict[str, Score]:
    """Score the means of all but the rank, and the median of that."""
    draws = resamples(groups, seed)
    means = {_named(n): v for n, v in values.items() if n != "rank"}
    every = drawn(means, np.zeros(len(groups), dtype=np.intp), draws)
    boot, left_out = (
        {n: of[n] for n in means} | {"median_rank": weighted_median(values["rank"], drawing)}
        for of, drawing in zip((every.boot, every.left_out), draws, strict=True)
    )
    floors = {_named(n): float(v.mean()) for n, v in chance.items()}
    floors["median_rank"] = float(np.median(chance["rank"]))
    return scores(Drawn(boot, left_out), floors)


def _named(name: str) -> str:
    return name.replace("hit@", "recall@")


def weighted_median(values: NDArray[np.float64], draws: Draws) -> NDArray[np.float64]:
    """(q,) values to their (b,) medians, each value as often as its patient was drawn."""
    order = np.argsort(values, kind="stable")
    ordered, patient = values[order], draws.patient[order]
    out = np.full(len(draws), _NAN)
    for some in draws.blocks((1 << 22) // len(values)):
        often = np.cumsum(draws.weights[some][:, patient], axis=1, dtype=np.int64)
        count = often[:, -1:]
        known = count[:, 0] > 0  # nothing is left where the only patient is left out
        # the middle two of the drawn values, which are one where their number is odd
        low, high = ((often <= m).sum(axis=1)[known] for m in ((count - 1) // 2, count // 2))
        out[some][known] = (ordered[low] + ordered[high]) / 2
    return out


def _notes(
    asked: AskedTexts, unknown: int, texts: int, ks: tuple[int, ...], to_image: Direction
) -> tuple[str, ...]:
    notes = []
    if unknown:
        notes.append(f"{unknown} images without {asked.column} are not there to be found")
    if ks != asked.ks:
        notes.append(f"there are {texts} texts, so images ask for theirs to k = {max(ks)} only")
    if to_image.n_drawn < FEWEST:
        notes.append(
            f"no interval for texts as queries: they fall into {to_image.n_drawn} "
            f"set{'s' if to_image.n_drawn > 1 else ''} that share no patient, and resampling so "
            f"few says nothing"
        )
    return tuple(notes)

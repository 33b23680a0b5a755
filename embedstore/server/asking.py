"""A search from the question to the cases."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import UsageError
from embedstore.queries import asked, places_of_files, places_of_patients
from embedstore.search import Asked, Hits, Per, Searcher
from embedstore.server import schemas
from embedstore.server.cases import cases
from embedstore.server.labels import agreement, mates
from embedstore.server.pictures import Pictures
from embedstore.server.reading import Read
from embedstore.server.snapshot import Snapshot
from embedstore.server.together import Together
from embedstore.types import Floats, Spec

MANY = 20
"""Different values of a label, above which it is compared with chance only where it is marked."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What searches have in common that are worked out together."""

    snapshot: Snapshot
    spec: Spec
    k: int
    where: str = ""
    per: Per = "image"
    same_patient: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A (d,) vector, and the places in the vectors of what is not to be answered."""

    vector: Floats
    own: NDArray[np.intp]
    rows: Sequence[int] = ()


Searches = Together[Kind, Question, Hits]


def searches() -> Searches:
    """Return what works out searches that come at the same time together."""
    return Searches(_search)


def _search(kind: Kind, questions: Sequence[Question]) -> list[Hits]:
    searcher = kind.snapshot.searcher(kind.spec)
    several = Asked(np.stack([q.vector for q in questions]), [q.own for q in questions])
    found = searcher.search(several, kind.k, kind.where, kind.per, kind.same_patient)
    return [
        Hits(found.cosines[i : i + 1], found.rows[i : i + 1], found.ids[i : i + 1], *rest)
        for i, rest in enumerate([(found.kind, found.notes)] * len(questions))
    ]


def of_samples(searcher: Searcher, ids: Sequence[str], unlike: Sequence[str]) -> Question:
    """Ask for what is like these samples and unlike those.

    Raises
    ------
    UsageError
        There is no such sample.
    """
    made = asked(searcher, [list(ids)], unlike=unlike)
    return Question(made.vectors[0], made.own[0], searcher.rows[searcher.places_of(ids)].tolist())


def of_upload(
    snapshot: Snapshot,
    spec: Spec,
    read: Read,
    vector: Floats,
    patient: str,
    same_patient: bool = False,
) -> Question:
    """Ask for what is like a new image; copies of its file are left out, and its patient.

    Raises
    ------
    UsageError
        `patient` is named and not in the store.
    """
    searcher = snapshot.searcher(spec)
    own = places_of_files(searcher, np.frombuffer(read.digest, dtype=np.uint8)[None])
    theirs = places_of_patients(searcher, [patient or read.patient])
    if patient and not len(theirs):
        raise UsageError(f"no patient {patient!r} in the store; leave it out")
    return Question(vector, own if same_patient else np.union1d(own, theirs))


def answer(
    snapshot: Snapshot,
    spec: Spec,
    together: Searches,
    pictures: Pictures,
    question: Question,
    how: schemas.Asked,
) -> schemas.Answer:
    """Search, and describe what was found.

    Raises
    ------
    UsageError
        The filter or the label is none.
    DataError
        Fewer than k are left to choose from.
    """
    began = time.perf_counter()
    if how.label:
        snapshot.store.column_array(how.label)
    kind = Kind(snapshot, spec, how.k, how.where.strip(), how.per, how.same_patient)
    hits = together.ask(kind, question)
    searcher = snapshot.searcher(spec)
    rows = hits.rows[0]
    own = searcher.place_of[list(question.rows)]
    wanted = _agreed(snapshot, spec, how.label, own)
    made = [cases(snapshot, spec, pictures, question.rows)] if len(question.rows) else [[]]
    made.append(
        cases(snapshot, spec, pictures, rows.tolist(), hits.cosines[0].tolist(), how.label, wanted)
    )
    return schemas.Answer(
        commit=snapshot.store.commit,
        backbone=spec.key,
        asked=made[0],
        cases=made[1],
        summary=_summary(snapshot, spec, searcher, question, rows, how.label),
        notes=[*snapshot.notes(spec), *hits.notes],
        index=hits.kind,
        milliseconds=round(1000 * (time.perf_counter() - began), 2),
    )


def _agreed(snapshot: Snapshot, spec: Spec, label: str, own: NDArray[np.intp]) -> str:
    """Return the one value that the query's own samples have of a label, else ""."""
    if not label or not len(own):
        return ""
    codes = snapshot.codes(spec, label)
    values = {codes.value(int(place)) for place in own} - {""}
    return values.pop() if len(values) == 1 else ""


def _summary(
    snapshot: Snapshot,
    spec: Spec,
    searcher: Searcher,
    question: Question,
    rows: NDArray[np.intp],
    label: str,
) -> list[str]:
    left_out = mates(searcher, question.own)
    found, mine = searcher.place_of[rows], searcher.place_of[list(question.rows)].tolist()
    lines = []
    for name in dict.fromkeys((*snapshot.store.labels, *filter(None, [label]))):
        codes = snapshot.codes(spec, name)
        if name == label or len(codes.values) <= MANY:
            lines.append(agreement(codes, found, left_out, mine))
    return [str(line) for line in lines if line is not None]

"""``embedstore search``: cases like this one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedstore.cli_choices import one_spec
from embedstore.cli_console import err, one_of, out, say, tell_failures
from embedstore.cli_index import Backbone, Engine
from embedstore.cli_probe_options import AsJson, StorePath, Verify
from embedstore.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedstore.answering import Agreement, Mix
    from embedstore.search import Asked, Hits, Per, Searcher
    from embedstore.showing import Answer
    from embedstore.store import Store
    from embedstore.types import Pixels, Spec

Ids = Annotated[
    list[str] | None,
    typer.Option("--id", help="The image to start from; several make one query."),
]
Unlike = Annotated[
    list[str] | None,
    typer.Option("--unlike", metavar="ID", help="An image that the answers shall not be like."),
]
Exam = Annotated[str, typer.Option(help="Start from all images of an exam, as one query.")]
Images = Annotated[
    list[Path] | None,
    typer.Option("--image", help="A file to start from, DICOM too; several make one query."),
]
OfPatient = Annotated[
    str,
    typer.Option("--patient", help="Whose --image it is, so that the same patient is left out."),
]
Texts = Annotated[
    list[str] | None,
    typer.Option("--text", help="A description to start from; several count as their mean."),
]
Vectors = Annotated[
    Path | None,
    typer.Option(metavar="FILE.npy", help="Vectors to start from, (m, d): m queries."),
]
Model = Annotated[
    str,
    typer.Option(
        help="NAME, NAME@WEIGHTS or folder that embeds --image and --text; by default the vectors' "
        "own by name."
    ),
]
Where = Annotated[
    str, typer.Option(help="A filter on the table: \"view == 'MLO' and vendor != 'Hologic'\".")
]
PerWhat = Annotated[str, typer.Option("--per", help="One answer per image, exam or patient.")]
SamePatient = Annotated[
    bool,
    typer.Option("--include-same-patient", help="Let images of the same patient be found."),
]
Exact = Annotated[
    bool, typer.Option("--exact", help="Compare every vector, though there is an index.")
]
LabelNames = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        help="A label to compare with that of the neighbours; by default all, in stores of up to "
        "200,000 images.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", help="Write the answers with their pictures: .html or .png."
    ),
]


def search(
    store: StorePath,
    sample: Ids = None,
    exam: Exam = "",
    image: Images = None,
    text: Texts = None,
    vectors: Vectors = None,
    unlike: Unlike = None,
    k: Annotated[int, typer.Option("-k", "--neighbours", help="How many.", min=1)] = 10,
    backbone: Backbone = "",
    where: Where = "",
    per: PerWhat = "image",
    include_same_patient: SamePatient = False,
    patient: OfPatient = "",
    model: Model = "",
    exact: Exact = False,
    engine: Engine = "",
    label: LabelNames = None,
    html: Html = None,
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Find the cases most like an image, an exam, a file or a description, of other patients."""
    from embedstore.store import Store

    one_of("--per", per, ("image", "exam", "patient"))
    given = {"--id": sample, "--exam": exam, "--image": image, "--text": text, "--vectors": vectors}
    source = [option for option, value in given.items() if value]
    if len(source) != 1:
        said = f"not {' and '.join(source)}" if source else "nothing to start from is given"
        raise UsageError(f"give one of {', '.join(given)}; {said}")
    if unlike and source[0] in {"--image", "--text", "--vectors"}:
        raise UsageError(f"--unlike goes with --id and --exam, not with {source[0]}")
    if patient and not image:
        raise UsageError("--patient says whose --image it is, and none is given")
    if html:
        from embedstore.report.cases import check_target

        check_target(html)
    opened = Store.open(store, verify)
    spec = one_spec(opened, backbone, bool(text))
    for name in label or ():
        opened.column_array(name)
    if where:
        from embedstore.where import parse

        parse(where)
    searcher = opened.searcher(spec, exact)
    query = _Query(opened, spec, searcher, include_same_patient, html is not None)
    if image:
        query.of_images(image, patient, model)
    elif text:
        query.of_text(text, model)
    elif vectors:
        query.of_vectors(vectors)
    else:
        query.of_samples(sample or _images_of(opened, searcher, exam), unlike or (), exam)
    assert query.asked is not None
    way: Per = per  # type: ignore[assignment]
    ask = searcher.search
    if engine:
        from embedstore.engine import Engine as Opened

        ask = partial(Opened.open(opened, spec, engine).search, searcher)
    hits = ask(query.asked, k, where, way, include_same_patient, exact)
    _show(opened, searcher, query, hits, label, html, as_json)


def _images_of(store: Store, searcher: Searcher, exam: str) -> list[str]:
    """Return the ids of the images of an exam, as the hospital or the store names it."""
    import numpy as np

    from embedstore.privacy import alias_of

    rows = np.sort(searcher.rows[searcher.there])
    exams = store.array("samples/exam", rows)
    found = rows[exams == alias_of(store.path, exams.tolist())(exam)]
    if not len(found):
        raise UsageError(f"{store.path}: no exam {exam!r} among the images embedded")
    ids: list[str] = store.array("samples/id", found).tolist()
    return ids


@dataclass(slots=True)
class _Query:
    """What is asked, from whichever source, and how it is called."""

    store: Store
    spec: Spec
    searcher: Searcher
    include_same_patient: bool
    with_pictures: bool
    titles: Sequence[str] = ()
    asked: Asked | None = None
    rows: Sequence[Sequence[int]] = ()
    pictures: Sequence[Pixels | str] = ()

    def of_samples(self, ids: Sequence[str], unlike: Sequence[str], exam: str) -> None:
        from embedstore.queries import asked

        title = f"exam {exam}" if exam else " and ".join(ids)
        self.titles = [title + (f", not {' and '.join(unlike)}" if unlike else "")]
        self.asked = asked(self.searcher, [list(ids)], unlike=unlike)
        self.rows = [self.searcher.rows[self.searcher.places_of(ids)].tolist()]

    def of_text(self, sentences: Sequence[str], model: str) -> None:
        from embedstore.embed import embed_text
        from embedstore.search import Asked

        if not all(s.strip() for s in sentences):
            raise UsageError("--text is empty")
        self.titles = [" and ".join(f'"{s}"' for s in sentences)]
        self.asked = Asked(embed_text(sentences, self.spec, model)[None])

    def of_vectors(self, file: Path) -> None:
        from embedstore.search import Asked

        found = _read_vectors(file)
        self.titles = [f"{file.name} row {n}" for n in range(len(found))]
        self.asked = Asked(found)

    def of_images(self, files: Sequence[Path], patient: str, model: str) -> None:
        """Embed the files as the store's images were, and leave their patient and copies out."""
        import numpy as np

        from embedstore.embed import embed_images
        from embedstore.queries import like_and_unlike, places_of_files
        from embedstore.search import Asked
        from embedstore.seen import seen
        from embedstore.types import Sample

        for file in files:
            if not file.is_file():
                raise UsageError(f"{file}: no such file")
        samples = [Sample(str(n), file.resolve()) for n, file in enumerate(files)]
        precision = str(self.store.provenance[self.spec.key]["precision"])
        with TemporaryDirectory() as folder:
            made, summary = embed_images(samples, Path(folder), self.spec, precision, model)
            tell_failures(summary.failures)
            if summary.failures:
                raise DataError(f"{len(summary.failures)} of {len(files)} images cannot be used")
            read = made.read(self.spec.key)
            if self.with_pictures:
                self.pictures = seen(made, self.spec, made.rows_of(self.spec).tolist())
        vector = like_and_unlike(np.asarray(read.vectors), read.vectors[:0])
        own = places_of_files(self.searcher, read.digests)
        if not self.include_same_patient:
            own = np.union1d(own, _places_of_patients(self.searcher, files, patient))
        self.titles = [" and ".join(file.name for file in files)]
        self.asked = Asked(vector[None], [own])


def _read_vectors(file: Path) -> NDArray[np.floating[Any]]:
    import numpy as np

    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{file}: not an array of numbers (.npy): {error}") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise UsageError(f"{file}: not an array of numbers (.npy)")
    found = found[None] if found.ndim == 1 else found
    if found.ndim != 2 or not len(found):
        raise UsageError(f"{file}: holds an array {found.shape}; queries are (m, d)")
    return found.astype(np.float32)


def _places_of_patients(
    searcher: Searcher, files: Sequence[Path], patient: str
) -> NDArray[np.intp]:
    """Return where the store has images of the files' patients: as said, or by DICOM's tags."""
    from embedstore.errors import ImageError
    from embedstore.images.dicom_tags import tags
    from embedstore.queries import places_of_patients

    if patient:
        found = places_of_patients(searcher, [patient])
        if not len(found):
            path = searcher.store.path
            raise UsageError(f"{path}: no patient {patient!r}; leave --patient out")
        return found
    named = set()
    for file in files:
        with suppress(ImageError):  # not DICOM: it says nothing of the patient
            named.add(tags(file).patient_id)
    return places_of_patients(searcher, named)


def _show(
    store: Store,
    searcher: Searcher,
    query: _Query,
    hits: Hits,
    labels: list[str] | None,
    html: Path | None,
    as_json: bool,
) -> None:
    from embedstore.answering import LARGE, agreement, plain, values_of
    from embedstore.report.search_table import cases_table

    assert query.asked is not None
    shown = labels or (store.labels if len(store) <= LARGE else ())
    values = {name: values_of(store, searcher, name) for name in shown}
    nothing = searcher.rows[:0]
    answers: list[Answer] = []
    for number, title in enumerate(query.titles):
        own = query.asked.own[number] if query.asked.own else nothing
        rows = query.rows[number] if query.rows else ()
        found_rows = hits.rows[number]
        compared = [agreement(searcher, n, values[n], found_rows, own, rows) for n in shown]
        found: list[Agreement | Mix] = [c for c in compared if c is not None]
        answers.append((title, plain(store, hits, number), found))
    said = [*store.notes(searcher.spec), *hits.notes]
    if html:
        marked = shown[0] if labels or len(shown) == 1 else ""
        _draw(store, searcher, query, hits, answers, said, marked, html)
    if as_json:
        queries = [
            {"query": title, "cases": cases, "agreement": [asdict(a) for a in found]}
            for title, cases, found in answers
        ]
        print(json.dumps({"index": hits.kind, "notes": said, "queries": queries}, indent=2))
        return
    for title, cases, found in answers:
        out.print(cases_table(title, cases, store.labels))
        for line in found:
            say(out, str(line))
    for note in said:
        say(err, f"note: {note}")
    if html:
        say(out, str(html))


def _draw(
    store: Store,
    searcher: Searcher,
    query: _Query,
    hits: Hits,
    answers: Sequence[Answer],
    notes: Sequence[str],
    label: str,
    file: Path,
) -> None:
    from embedstore.report.cases import save
    from embedstore.showing import page

    command = " ".join(["embedstore", *sys.argv[1:]])
    rows, pictures = query.rows or [()] * len(answers), query.pictures
    save(page(store, searcher, hits, answers, rows, pictures, notes, label, command), file)

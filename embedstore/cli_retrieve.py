"""``embedstore retrieve-eval``: quality of retrieval as a number."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedstore.cli_choices import specs_of
from embedstore.cli_console import err, one_of, out, say
from embedstore.cli_probe_options import AsJson, Backbones, StorePath, Verify
from embedstore.errors import DataError, UsageError

if TYPE_CHECKING:
    from embedstore.retrieval import Against, Asked, Judged
    from embedstore.retrieval.texts import AskedTexts, TextReport
    from embedstore.store import Store
    from embedstore.types import Backbone, Embeddings, Spec

Label = Annotated[
    str, typer.Option(help="The column whose values say what is alike: a neighbour is right by it.")
]
Depths = Annotated[
    str, typer.Option("-k", "--neighbours", help="How many of the first count, comma-separated.")
]
Order = Annotated[
    str,
    typer.Option(help="Classes in clinical order, comma-separated: nDCG counts near misses then."),
]
Level = Annotated[
    str,
    typer.Option(
        help="What is found: image, or a view, breast, exam or patient by the mean of its images."
    ),
]
SamePatient = Annotated[
    bool,
    typer.Option(
        "--include-same-patient", help="Let images of the same patient count: what a leak is worth."
    ),
]
Queries = Annotated[
    int | None,
    typer.Option(
        help="Draw patients with at most so many queries; by default 5000 beyond 20000 images.",
        min=1,
    ),
]
Seed = Annotated[int, typer.Option(help="Of that draw and of the intervals.", min=0)]
Text = Annotated[
    str,
    typer.Option(
        metavar="COLUMN",
        help="A column of sentences: do they find their images, and images their sentence?",
    ),
]
TextBackbone = Annotated[
    str,
    typer.Option(
        help="NAME or NAME@WEIGHTS that reads --text; by default the vectors' own by name."
    ),
]
PerQuery = Annotated[
    Path | None,
    typer.Option(metavar="FILE.csv", help="Write each query's metrics and neighbours' labels."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a --per-query file that is there.")]


def retrieve_eval(
    store: StorePath,
    label: Label = "",
    k: Depths = "10",
    backbone: Backbones = None,
    order: Order = "",
    level: Level = "image",
    include_same_patient: SamePatient = False,
    text: Text = "",
    text_backbone: TextBackbone = "",
    queries: Queries = None,
    seed: Seed = 0,
    per_query: PerQuery = None,
    force: Force = False,
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Score how well neighbours from other patients share a label, or texts find their images."""
    from embedstore.levels import LEVELS
    from embedstore.retrieval import Asked, compare
    from embedstore.retrieval.per_query import refuse_file, save
    from embedstore.retrieval.texts import AskedTexts
    from embedstore.store import Store

    one_of("--level", level, LEVELS)
    ks = _depths(k)
    _refuse_together(label, text, level, text_backbone, order, per_query)
    if per_query:
        refuse_file(per_query, force)
    opened = Store.open(store, verify)
    for column in filter(None, (label, text)):
        opened.column(column)
    specs = specs_of(opened, backbone)
    classes = tuple(c.strip() for c in order.split(",") if c.strip())
    asked = Asked(label, ks, classes, level, include_same_patient, queries, seed)
    able = _with_text(specs, backbone, text_backbone) if text else []
    judged = _judged(opened, specs, asked) if label else []
    texts = _texts(opened, specs, able, AskedTexts(text, ks, queries, seed)) if text else []
    against = []
    if len(judged) > 1:
        names = list(judged[0].report.metrics)
        drawn = zip(_names(specs).values(), (one.drawn for one in judged), strict=True)
        against = compare(dict(drawn), names)
    if per_query:
        save(judged, per_query, force)
    if as_json:
        print(json.dumps(_plain(judged, against, texts), indent=2))
        return
    _print(judged, against, texts, specs)


def _depths(text: str) -> tuple[int, ...]:
    """Take ``1,5,10`` apart, ascending."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise UsageError(f"-k takes whole numbers from 1 up, such as 1,5,10; not {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def _refuse_together(
    label: str, text: str, level: str, text_backbone: str, order: str, per_query: Path | None
) -> None:
    """Refuse options that do not go together."""
    for option, column in (("--label", label), ("--text", text)):
        if column in {"id", "group"}:
            raise UsageError(f"{option} {column} says who an image is of, not what it shows")
    if not label and not text:
        raise UsageError("give --label COLUMN, --text COLUMN, or both")
    if text and level != "image":
        raise UsageError(f"--text is of images: leave --level {level} or --text out")
    if text_backbone and not text:
        raise UsageError("--text-backbone reads the sentences of --text: give that too")
    if not label and (order or per_query):
        option = "--order" if order else "--per-query"
        raise UsageError(f"{option} is of a --label: give that too")


def _common(opened: Store, specs: Sequence[Spec]) -> tuple[Callable[[Spec], Embeddings], int]:
    """Return what reads a Spec's vectors of the images that have one of each, and how many not."""
    import numpy as np

    every = opened.array("samples/id", opened.rows_of(*specs))
    if not len(every):
        raise DataError(f"{opened.path}: no image has a vector of each; choose with --backbone")

    def read(spec: Spec) -> Embeddings:
        embeddings = opened.read(spec)
        return embeddings.take(np.isin(embeddings.ids, every))

    return read, max(opened.count(spec) for spec in specs) - len(every)


def _judged(opened: Store, specs: Sequence[Spec], asked: Asked) -> list[Judged]:
    """Put the same queries to the vectors of each backbone."""
    from dataclasses import replace

    from embedstore.report.progress import progress
    from embedstore.retrieval import judge, pose
    from embedstore.retrieval.labels import noted

    read, less = _common(opened, specs)
    lacking = (f"{less} images without a vector of each backbone left out",) if less else ()
    out_of, task = [], None
    for spec in specs:
        posed, unit = pose(read(spec), asked)
        # who is the same patient, and what is asked, is taken from the first
        task = task or posed
        with progress(err, f"ranking by {spec.backbone}", "queries") as show:
            one = judge(replace(task, notes=posed.notes), unit, spec, show)
        out_of.append(noted(one, (*lacking, *opened.notes(spec))))
    return out_of


def _with_text(
    specs: Sequence[Spec], chosen: list[str] | None, text_backbone: str
) -> list[tuple[Spec, Backbone]]:
    """Load the models that have a text side; one asked for by name must have it."""
    from embedstore.embed import text_side

    able = [spec for spec in specs if spec.text]
    if not able or (chosen not in (None, ["all"]) and len(able) < len(specs)):
        without = ", ".join(spec.backbone for spec in specs if not spec.text)
        raise UsageError(f"--text: {without} has no text side; choose one with --backbone")
    return [(spec, text_side(spec, text_backbone)) for spec in able]


def _texts(
    opened: Store, specs: Sequence[Spec], able: Sequence[tuple[Spec, Backbone]], asked: AskedTexts
) -> list[TextReport]:
    """Ask by text."""
    from dataclasses import replace

    from embedstore.report.progress import progress
    from embedstore.retrieval.texts import judge_texts

    lacking = tuple(f"{spec.backbone} has no text side" for spec in specs if not spec.text)
    found = []
    for spec, loaded in able:
        with progress(err, f"texts by {spec.backbone}", "queries") as show:
            one = judge_texts(opened.read(spec), loaded, asked, show)
        found.append(replace(one, notes=one.notes + lacking + opened.notes(spec)))
    return found


def _plain(
    judged: Sequence[Judged], against: Sequence[Against], texts: Sequence[TextReport]
) -> dict[str, Any]:
    from dataclasses import asdict

    from embedstore.retrieval.labels import without_nan

    return {
        "reports": [one.report.to_dict() for one in judged],
        "differences": [without_nan(asdict(one)) for one in against],
        "texts": [one.to_dict() for one in texts],
    }


def _names(specs: Sequence[Spec]) -> Mapping[str, str]:
    from embedstore.report.retrieval_table import named

    return named({spec.key: spec.backbone for spec in specs})


def _print(
    judged: Sequence[Judged],
    against: Sequence[Against],
    texts: Sequence[TextReport],
    specs: Sequence[Spec],
) -> None:
    from embedstore.report.retrieval_table import difference_table, retrieval_table, text_table

    names = _names(specs)
    for one in judged:
        out.print(retrieval_table(one.report, names[one.report.spec.key]))
    if against:
        first = judged[0].report
        out.print(difference_table(against, names[first.spec.key], list(first.metrics)))
    for about in texts:
        out.print(text_table(about, names[about.spec.key]))
    notes = [note for one in judged for note in one.report.notes]
    notes += [note for about in texts for note in about.notes]
    for note in dict.fromkeys(notes):
        say(out, f"note: {note}")

"""``embedstore study``: everything compared on one table and one split, to one page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from embedstore import cli_study_options as given
from embedstore.cli_console import err, one_of, out, say
from embedstore.errors import EmbedstoreError, UsageError
from embedstore.places import place

if TYPE_CHECKING:
    from embedstore.study.findings import Findings
    from embedstore.study.plan import Study
    from embedstore.study.results import Result
    from embedstore.study.work import Piece

MARK = ".embedstore-study"
"""The file that makes a folder a study's, so that no other is written into."""


def study(
    source: given.Source,
    to: given.To = None,
    recipe: given.Protocol = "",
    label: given.Label = "",
    title: given.Title = "",
    backbone: given.Backbones = None,
    head: given.Heads = None,
    prompts: given.Prompts = None,
    finetune: given.Finetunes = None,
    set_: given.Settings = None,
    order: given.Order = "",
    split: given.SplitFrom = "",
    folds: given.Folds = None,
    test_share: given.TestShare = 0.0,
    seed: given.Seed = 0,
    level: given.Level = "",
    grouping: given.Groupings = None,
    by: given.By = None,
    metric: given.Metric = "",
    reference: given.Reference = "",
    label_fraction: given.Fractions = "",
    sweep: given.Sweep = True,
    audit: given.Audit = True,
    map_: given.Map = True,
    device: given.Device = "auto",
) -> None:
    """Compare backbones, heads, prompts and fine-tunes on one split, and write one page."""
    from embedstore.study.plan import read, study_of

    one_of("--device", device, ("auto", "cpu", "cuda", "mps"))
    said: dict[str, Any] = {
        "label": label,
        "title": title,
        "backbones": backbone,
        "heads": head,
        "prompts": [_prompts(text) for text in prompts or []],
        "finetune": [{"backbone": b, "settings": _settings(set_)} for b in finetune or []],
        "order": _listed(order),
        "split": split,
        "folds": folds,
        "test_share": test_share,
        "seed": seed,
        "level": level,
        "grouping": [_listed(text) for text in grouping or []],
        "by": by,
        "metric": metric,
        "reference": reference,
        "label_fractions": _shares(label_fraction),
    }
    values = {name: value for name, value in said.items() if value}
    values |= {k: False for k, on in (("sweep", sweep), ("audit", audit), ("map", map_)) if not on}
    if recipe:
        _protocol(recipe, source, to or Path("study"), values, set_, device)
        return
    if set_ and not finetune:
        raise UsageError("--set is of fine-tunes; give --finetune BACKBONE")
    if source.suffix == ".toml":
        if values:
            name = min(values)
            raise UsageError(f"{source} says all: write {name} there instead of the option")
        asked, folder = read(source), to or source.with_suffix("")
    else:
        kind = "store" if (source / "zarr.json").exists() else "manifest"
        asked = study_of({kind: str(source), **values}, "study:")
        folder = to or Path("study")
    with _held(folder):
        _run(asked, folder, device)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _shares(text: str) -> list[float]:
    try:
        return [float(part) for part in _listed(text)]
    except ValueError as error:
        raise UsageError(
            f"--label-fraction takes shares such as 0.1,0.5,1; not {text!r}"
        ) from error


def _prompts(text: str) -> dict[str, str]:
    backbone, _, name = text.partition("=")
    if not backbone or not name:
        raise UsageError(f"--prompts takes BACKBONE=SET, not {text!r}")
    return {"backbone": backbone, "set": name}


def _settings(given: Sequence[str] | None) -> dict[str, str]:
    found = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, not {text!r}")
        found[name.strip()] = value.strip()
    return found


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the study's folder for the length of a block; refuse one that is something else.

    A block that fails before it writes anything leaves no folder behind.
    """
    from embedstore.lock import write_lock

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give --out a folder of its own")
    there = [p.name for p in folder.iterdir()] if folder.exists() else []
    if there and MARK not in there:
        raise UsageError(f"{folder}: holds {min(there)!r}; give --out a folder of its own")
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    try:
        with write_lock(folder / ".lock"):
            yield
    finally:
        if not there and [p.name for p in folder.iterdir()] == [MARK]:
            (folder / MARK).unlink()
            with suppress(OSError):  # another may have put something there meanwhile
                for one in made:
                    one.rmdir()


def _run(asked: Study, folder: Path, device: str) -> None:
    from embedstore.store import Store
    from embedstore.study import pieces as make
    from embedstore.study.collect import CONTENDING, collect
    from embedstore.study.work import Bench

    store = Store.open(_extracted(asked, folder, device))
    cast = make.cast_of(asked, store)
    table = make.table_of(asked, store, cast)
    split = make.split_of(asked, table)
    how = make.protocol_of(asked, split)
    bench = Bench(store, asked.label, how, folder / "runs", device)
    pieces = make.pieces_of(asked, bench, cast)
    make.reference_of(asked.reference, [p.name for p in pieces if p.kind in CONTENDING])
    make.keep_split(split, table, folder / "split.json")
    results, failures = carry_out(pieces, folder / "results")
    findings = collect(asked, store, cast, table, pieces, results, failures)
    finish(findings, folder, failures)


def _extracted(asked: Study, folder: Path, device: str) -> Path:
    """Return the store; of a table or folder, extract it into the study's folder."""
    from embedstore.cli_extract import extract

    if asked.store:
        return place(asked.store)
    made = folder / "store.zarr"
    _checked(asked, made)
    columns = [f"{role}={name}" for role, name in asked.columns.items()]
    for name in asked.recipes or ("mammography",):
        recipe, _, resize = name.partition("+")
        extract(
            Path(asked.manifest),
            made,
            list(asked.named),
            recipe,
            resize,
            column=columns,
            device=device,
            keep_pixels=True,
        )
    return made


def _checked(asked: Study, store: Path) -> None:
    """Refuse what cannot be carried out before images are embedded, and not after."""
    from embedstore.study import before

    before.check(asked)
    if not store.exists():  # columns may have been added to it since
        before.check_manifest(asked, Path(asked.manifest))


def carry_out(pieces: Sequence[Piece], folder: Path) -> tuple[dict[str, Result], list[str]]:
    """Do what is not done; return results by the pieces' stems, and what failed in a line each."""
    from embedstore.report.progress import progress
    from embedstore.study import work

    results: dict[str, Result] = {}
    failures: list[str] = []
    for number, piece in enumerate(pieces, 1):
        said = f"[{number} of {len(pieces)}] {piece.kind} {piece.name}"
        if found := work.done(piece, folder):
            say(err, f"{said}: done before")
            results[piece.stem] = found
            continue
        say(err, said)
        try:
            with progress(err, piece.kind, piece.unit) as show:
                results[piece.stem] = work.do(piece, folder, show)
        except Exception as error:  # noqa: BLE001 - one contender must not take the others down
            failures.append(f"{piece.kind} {piece.name} failed: {_told(error)}")
            say(err, failures[-1])
    return results, failures


def _told(error: Exception) -> str:
    text = str(error) if isinstance(error, EmbedstoreError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def finish(findings: Findings, folder: Path, failures: Sequence[str]) -> None:
    """Write the page, the JSON and the tables; exit with 1 where a piece failed."""
    from embedstore.output import put
    from embedstore.report.study_page import html
    from embedstore.study import tables

    if not findings.contenders:
        say(err, "error: no contender came to a result")
        raise typer.Exit(1)
    texts = {
        "report.json": json.dumps(tables.plain(findings), indent=1, default=str) + "\n",
        "ledger.md": tables.markdown(findings),
        "ledger.tex": tables.latex(findings),
        "report.html": html(findings),
    }
    for name, text in texts.items():
        with put(folder / name, replace=True) as fresh:
            fresh.write_text(text, encoding="utf-8")
    out.print(_table(findings))
    for failure in failures:
        say(out, failure)
    say(out, f"{folder / 'report.html'}; report.json, ledger.md and ledger.tex beside it")
    if failures:
        raise typer.Exit(1)


def _table(findings: Findings) -> Any:
    """Show the ledger, on a terminal's width: the first metrics and what sets them apart."""
    from rich.markup import escape
    from rich.table import Table

    from embedstore.study import tables

    heading, *body = tables.rows(findings)
    kept = [0, 1, 2, *range(len(heading) - 5, len(heading) - 2)]
    table = Table(title=escape(findings.title), show_lines=False)
    for at in kept:
        table.add_column(escape(heading[at]), overflow="fold")
    for row in body:  # intervals stand below their values, so that names have room
        table.add_row(*(escape(row[at].replace(" [", "\n[")) for at in kept))
    return table


def _protocol(
    name: str,
    source: Path,
    folder: Path,
    values: dict[str, Any],
    settings: Sequence[str] | None,
    device: str,
) -> None:
    """Set a study's protocol beside the corrected one."""
    from embedstore.study import recipe as both
    from embedstore.study.plan import study_of

    one_of("--recipe", name, (both.STUDY,))
    for option in ("heads", "split", "reference", "label_fractions"):
        if option in values:
            raise UsageError(f"--recipe {name} says that itself: leave {option} out")
    (clip, *more) = values.pop("backbones", ["biomedclip"])
    (tuned, *others) = [f["backbone"] for f in values.pop("finetune", [])] or ["convnext_base"]
    wordings = [p["set"] for p in values.pop("prompts", [])] or ["birads-density"]
    if more or others or len(wordings) > 1:
        raise UsageError(f"--recipe {name} takes one --backbone, one --finetune and one --prompts")
    kind = "store" if (source / "zarr.json").exists() else "manifest"
    if not {"folds", "test_share"} & set(values):
        values["test_share"] = 0.2
    values |= {
        kind: str(source),
        "backbones": [clip],
        "prompts": [{"backbone": clip, "set": wordings[0]}],
        "finetune": [{"backbone": tuned, "settings": _settings(settings)}],
    }
    plan = study_of(values, "study:")
    asked = replace(
        plan, recipes=both.RECIPES, title=plan.title or f"{plan.label}: {both.PAPER} and corrected"
    )
    with _held(folder):
        if kind == "manifest":
            _extract_both(asked, folder / "store.zarr", clip, tuned, device)
            source = folder / "store.zarr"
        _run_both(asked, source, folder, device)


def _extract_both(asked: Study, store: Path, clip: str, tuned: str, device: str) -> None:
    """Embed by both protocols, and by each choice of the study's alone."""
    from embedstore.cli_extract import extract
    from embedstore.study import recipe as both

    table = Path(asked.manifest)
    _checked(asked, store)
    columns = [f"{role}={name}" for role, name in asked.columns.items()]
    for names, name in (
        ([clip, tuned], both.CORRECTED),
        ([clip, tuned], both.STUDY),
        ([clip], both.SQUASHED),
    ):
        recipe, _, resize = name.partition("+")
        extract(
            table, store, names, recipe, resize, column=columns, device=device, keep_pixels=True
        )
    both.unnormalised(store, clip, device)


def _run_both(asked: Study, source: Path, folder: Path, device: str) -> None:
    from embedstore.store import Store
    from embedstore.study import pieces as make
    from embedstore.study import recipe as both
    from embedstore.study.collect import collect
    from embedstore.study.work import Bench

    store = Store.open(source)
    vectors = both.both_of(asked, store)
    table = make.table_of(asked, store, vectors.cast)
    split, other = make.split_of(asked, table), both.by_image(asked, table)
    how = make.protocol_of(asked, split)
    right = Bench(store, asked.label, how, folder / "runs", device)
    leaking = replace(right, how=replace(how, split=other, allow_leak=True))
    planned = both.pieces_of(asked, right, leaking, vectors)
    make.keep_split(split, table, folder / "split.json")
    make.keep_split(other, table, folder / "split-by-image.json")
    every = [*planned.contending, *(piece for _, piece in planned.choices)]
    results, failures = carry_out(every, folder / "results")
    asked = replace(asked, reference=both.REFERENCE)
    findings = collect(asked, store, vectors.cast, table, planned.contending, results, failures)
    finish(both.with_choices(findings, planned, results), folder, failures)

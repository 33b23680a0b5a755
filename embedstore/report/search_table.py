"""What a search found, and what an index is, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from embedstore.index import EXACT
from embedstore.saved_index import Made


def cases_table(query: str, cases: Sequence[dict[str, Any]], labels: Sequence[str]) -> Table:
    """One row for each case, as `answering.plain` gives them, with its labels."""
    table = Table(title=f"most like {escape(query)}")
    for column in ("rank", "id", "cosine", "patient", "view", *map(escape, labels)):
        table.add_column(column)
    for case in cases:
        side = f"{case['laterality']} {case['view']}".strip()
        values = [case["labels"][name] for name in labels]
        known = (case["patient"] or "unknown", side, *values)
        row = [str(case["rank"]), case["id"], f"{case['cosine']:.4f}", *known]
        table.add_row(*map(escape, row))
    return table


def index_table(backbone: str, made: Made, done: str) -> Table:
    """Say what an index is, how good it is and what it takes."""
    table = Table(title=f"index of {escape(backbone)}: {done}", show_header=False)
    table.add_row("kind", escape(made.kind))
    table.add_row("vectors", str(made.rows))
    if made.kind == EXACT:
        table.add_row("recall", "1: every vector is compared")
    else:
        table.add_row("recall@10", f"{made.recall:.4f} of {made.queries} queries")
        table.add_row("effort", f"probes {made.probes}, {made.widen} proposals for each answer")
        table.add_row("disk" if made.on_disk else "memory", f"{made.bytes / 1e6:.1f} MB")
    table.add_row("made in", f"{made.seconds:.1f} s")
    return table

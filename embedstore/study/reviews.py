"""An audit as a piece of work."""

from __future__ import annotations

from embedstore.audit import Questions, audit
from embedstore.study.results import Result
from embedstore.study.work import Bench, Piece, Show
from embedstore.types import Spec


def review(bench: Bench, spec: Spec) -> Piece:
    """Make a piece of the audit of a Spec's vectors and the study's split."""
    key = bench.key("audit", spec)

    def do(show: Show) -> Result:
        found = audit(bench.store, spec, Questions(bench.label, bench.split), show)
        return Result({"audit": found.to_dict()})

    return Piece("audit", f"{spec.backbone} {spec.key}", spec, key, "steps", do)

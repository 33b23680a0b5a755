"""The papers that go with a release say what is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_security_names_is_there() -> None:
    rows = [r for r in (ROOT / "SECURITY.md").read_text().splitlines() if r.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/test_\w+\.py)::(test_\w+)`", row)
        assert named, f"nothing checks: {row[:60]}"
        for file, test in named:
            tree = ast.parse((ROOT / file).read_text())
            found = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
            assert test in found, f"{file}::{test}"

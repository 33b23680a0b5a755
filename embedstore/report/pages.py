"""What pages share: their files in the package, templates that escape, hashes for their policy."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup


@cache
def template(name: str) -> Template:
    """Return a template of this package; everything it is given is escaped."""
    environment = Environment(
        loader=PackageLoader("embedstore.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["allowed"] = allowed
    return environment.get_template(name)


def page_file(name: str) -> Markup:
    """Read a style or script of this package, to stand in a page as it is."""
    return Markup(files("embedstore.report").joinpath(name).read_text(encoding="utf-8"))


def allowed(text: str) -> str:
    """Return what a Content-Security-Policy lets a style or script pass by: ``'sha256-…'``."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"

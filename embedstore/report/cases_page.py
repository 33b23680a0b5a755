"""The page of a search: one HTML file that needs no other, no script and no network."""

from __future__ import annotations

import base64
import hashlib
import io
from functools import cache
from importlib.resources import files

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from PIL import Image

from embedstore.report.answers import Page
from embedstore.types import Pixels

MARK = "<!-- embedstore search -->"
"""What a page begins with, so that nothing but an earlier page is ever replaced."""


def html(page: Page) -> str:
    """Render the page; everything from the store is escaped."""
    style = _file("cases.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _template().render(
        mark=MARK, page=page, style=style, style_digest=digest, data_uri=data_uri
    )


def data_uri(picture: Pixels) -> str:
    """Encode (h, w) or (h, w, 3) uint8 as a PNG in a ``data:`` address."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_file("cases.html"))


def _file(name: str) -> str:
    return files("embedstore.report").joinpath(name).read_text(encoding="utf-8")

"""The page of a search: one HTML file that needs no other, no script and no network."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from embedstore.report.answers import Page
from embedstore.report.pages import page_file, template
from embedstore.types import Pixels

MARK = "<!-- embedstore search -->"
"""What a page begins with, so that nothing but an earlier page is ever replaced."""


def html(page: Page) -> str:
    """Render the page; everything from the store is escaped."""
    return template("cases.html").render(
        mark=MARK, page=page, style=page_file("cases.css"), data_uri=data_uri
    )


def data_uri(picture: Pixels) -> str:
    """Encode (h, w) or (h, w, 3) uint8 as a PNG in a ``data:`` address."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"

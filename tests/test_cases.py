"""The page and the sheet of a search, read by a parser and an image reader."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import resource
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_view import located

from embedstore.errors import StoreError, UsageError
from embedstore.report import cases_sheet
from embedstore.report.cases import Case, Origin, Page, Query, check_target, save

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</style></bdi></title><iframe src=//example.org>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1) & &lt;b&gt;",
    "\u202etxt.exe\u2028",
    "naïve 乳房",
)
ORIGIN = Origin(
    "S.zarr", 7, "biomedclip", "0123456789ab", "mammography", "embedstore search S.zarr"
)


def pictures(n: int, shape: tuple[int, ...] = (40, 30)) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    return [rng.integers(0, 256, shape).astype(np.uint8) for _ in range(n)]


def case(rank: int, picture: Any, **changes: Any) -> Case:
    facts = (("density", "ABCD"[rank % 4]),)
    made = Case(rank, 1 - rank / 100, f"film{rank}", f"pat{rank}", "MLO", "L", facts, picture, True)
    return replace(made, **changes)


def page(cases: int = 3, **changes: Any) -> Page:
    asked, *found = pictures(cases + 1)
    query = Query(
        "film0", (asked,), (("density", "A"),), tuple(case(n, p) for n, p in enumerate(found, 1))
    )
    return replace(Page(ORIGIN, (query,), "density", ("2 of 3 agree", "by chance 1.1")), **changes)


class Parsed(HTMLParser):
    """Every tag with its attributes, every text with the tags it lies in."""

    EMPTY = frozenset({"meta", "img", "br", "link", "base"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self._open), data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def inside(self, tag: str) -> list[str]:
        return [text for tags, text in self.texts if tag in tags]

    def all_text(self) -> str:
        return " ".join(" ".join(t for tags, t in self.texts if "style" not in tags).split())


def parsed(given: Page, folder: Path) -> Parsed:
    save(given, folder / "out.html")
    return Parsed((folder / "out.html").read_text(encoding="utf-8"))


def hostile_page() -> Page:
    given, names = page(), iter(HOSTILE * 20)

    def some() -> tuple[tuple[str, str], ...]:
        return ((next(names), next(names)),)

    found = tuple(
        case(
            n,
            next(names) if n % 2 else pictures(n)[0],
            id=next(names),
            patient=next(names),
            view=next(names),
            laterality=next(names),
            labels=some(),
            agrees=(True, False, None)[n % 3],
        )
        for n in range(1, 9)
    )
    queries = tuple(Query(t, (pictures(1)[0], next(names)), some(), found) for t in HOSTILE)
    origin = Origin(next(names), 1, *(next(names) for _ in range(4)))
    return replace(
        given, origin=origin, queries=queries, label=next(names), summary=HOSTILE, notes=HOSTILE
    )


@pytest.mark.parametrize("given", [page(), hostile_page()], ids=["usual", "hostile"])
def test_nothing_is_fetched_and_nothing_runs(given: Page, tmp_path: Path) -> None:
    found = parsed(given, tmp_path)
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    allowed = {"a", "bdi", "body", "dd", "div", "dl", "dt", "h1", "h2", "h3", "head", "header"}
    allowed |= {"html", "img", "li", "main", "meta", "nav", "ol", "p", "section", "span", "style"}
    assert {tag for tag, _ in found.tags} <= allowed | {"title", "ul"}
    for tag, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in {"style", "srcset", "action", "formaction", "background"}
            if name == "src":
                assert tag == "img"
                assert str(value).startswith("data:image/png;base64,")
            if name == "href":
                assert str(value)[:1] == "#"
                assert str(value)[1:] in ids
    (style,) = found.inside("style")
    assert not re.search(r"url\(|@import|expression", style)
    (policy,) = (a["content"] for a in found.of("meta") if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = [rule.strip() for rule in str(policy).split(";")]
    assert rules[0] == "default-src 'none'"
    assert f"style-src 'sha256-{digest}'" in rules
    assert "img-src data:" in rules
    assert not re.search("unsafe|https?:|script-src", str(policy))


def test_what_is_in_the_store_is_shown_as_text(tmp_path: Path) -> None:
    given = hostile_page()
    found = parsed(given, tmp_path)
    isolated = found.inside("bdi")
    for query in given.queries:
        for one in query.cases:
            assert {one.id, one.patient, f"{one.laterality} {one.view}"} <= set(isolated)
            assert {t for pair in one.labels for t in pair} <= set(isolated)
    assert set(HOSTILE) <= set(isolated)
    assert {str(a["alt"]) for a in found.of("img")} >= {
        f"Case {c.rank}, {c.id}, as the model sees it" for c in given.queries[0].cases[1::2]
    }
    assert 49 not in {int(n) for n in re.findall(r"\d+", " ".join(isolated))}


def test_pictures_come_out_pixel_for_pixel(tmp_path: Path) -> None:
    colour = pictures(1, (20, 31, 3))[0]
    mirrored = pictures(1, (300, 200))[0][:, ::-1]  # not contiguous
    query = Query("q", (colour, mirrored), (), (case(1, pictures(2)[0]), case(2, colour)))
    found = parsed(Page(ORIGIN, (query,)), tmp_path)
    expected = [colour, mirrored, pictures(2)[0], colour]
    for attributes, pixels in zip(found.of("img"), expected, strict=True):
        data = base64.b64decode(str(attributes["src"]).partition(",")[2], validate=True)
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)
        assert (attributes["height"], attributes["width"]) == tuple(map(str, pixels.shape[:2]))


def test_the_page_says_what_made_it_and_what_was_found(tmp_path: Path) -> None:
    reason = "no such file: films/film2.png"
    given = page(cases=3, notes=("the index is of an earlier commit",))
    first, second, third = given.queries[0].cases
    found = (first, replace(second, picture=reason, agrees=False), replace(third, agrees=None))
    given = replace(given, queries=(replace(given.queries[0], cases=found),))
    said = parsed(given, tmp_path).all_text()
    for part in (
        *("biomedclip", "0123456789ab", "mammography", "S.zarr, commit 7"),
        *("embedstore search S.zarr", "2 of 3 agree", "by chance 1.1", "the index is of an"),
        *("1. film1 ✓ same density similarity : 0.990", f"No picture: {reason} ✗ other density"),
        *("? density: not known", "view : L MLO patient : pat3"),
    ):
        assert re.sub(r"\s", "", part.replace(" : ", "")) in re.sub(r"\s", "", said), part


def test_a_screen_reader_finds_its_way(tmp_path: Path) -> None:
    given = page()
    given = replace(given, queries=given.queries * 3)
    found = parsed(given, tmp_path)
    assert found.of("html") == [{"lang": "en"}]
    assert found.inside("title") == ["Cases like 3 queries"]
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all(str(a["alt"]).strip() for a in found.of("img"))
    assert [tag for tag, _ in found.tags if tag in {"header", "main", "nav"}] == [
        *("header", "main", "nav")
    ]
    ids = {a["id"] for _, a in found.tags if "id" in a}
    sections = found.of("section") + found.of("nav")
    assert {a["aria-labelledby"] for a in sections} <= ids
    body = next(n for n, (tag, _) in enumerate(found.tags) if tag == "body")
    assert found.tags[body + 1] == ("a", {"class": "skip", "href": "#query-1"})


def colours(style: str) -> Iterator[dict[str, str]]:
    """Yield the colours of the light and of the dark scheme."""
    for block in re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL):
        yield dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block))


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_told_apart_in_both_schemes(tmp_path: Path) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    (style,) = parsed(page(), tmp_path).inside("style")
    schemes = list(colours(style))
    assert len(schemes) == 2
    assert luminance(schemes[0]["ground"]) > 0.5 > luminance(schemes[1]["ground"])
    for scheme in schemes:
        inks = set(scheme) - {"ground", "card", "rim"}
        assert inks == {"ink", "quiet", "agrees", "differs", "link"}
        for ground in (scheme["ground"], scheme["card"]):
            assert all(contrast(scheme[ink], ground) >= 4.5 for ink in inks)
            assert contrast(scheme["rim"], ground) >= 3
    used = set(re.findall(r"#[0-9a-f]{3,8}", style))
    assert used == {c for s in schemes for c in s.values()} | {"#000"}
    rules = re.sub(r"@media print \{.*", "", style, flags=re.DOTALL)
    assert "break-inside: avoid" not in rules
    assert "break-inside: avoid" in style


def opened(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        assert image.info["Software"] == "embedstore search"
        return np.asarray(image)


def rgb(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("shape", "times"), [((224, 224), 1), ((300, 250), 1), ((56, 40), 4), ((240, 240, 3), 1)]
)
def test_the_sheet_has_every_picture(shape: tuple[int, ...], times: int, tmp_path: Path) -> None:
    made = pictures(10, shape)
    found = tuple(case(n, p) for n, p in enumerate(made[3:], 1))
    save(Page(ORIGIN, (Query("q", tuple(made[:3]), (), found),), "density"), tmp_path / "out.png")
    drawn = opened(tmp_path / "out.png")
    large = [rgb(p).repeat(times, 0).repeat(times, 1) for p in made]
    places = [located(drawn, p) for p in large]
    lefts, tops = [x for _, x in places], [y for y, _ in places]
    assert len({lefts[n] for n in range(3)}) == 1  # pictures of the query below one another
    assert lefts[3:8] == sorted(set(lefts[3:8]))
    assert len(set(tops[3:8])) == 1
    assert lefts[8:] == lefts[3:5]
    assert tops[8] == tops[9] == tops[1] > tops[0] == tops[3]


def test_a_sheet_without_pictures_is_drawn(tmp_path: Path) -> None:
    given = hostile_page()
    query = Query("words", (), (), (case(1, "the store does not keep the path"),))
    for queries in ((query,), given.queries, ()):
        save(replace(given, queries=queries), tmp_path / "out.png")
        drawn = opened(tmp_path / "out.png")
        assert (drawn[-10:] == drawn[0, 0]).all()
        assert (drawn[:, -10:] == drawn[0, 0]).all()
    words = replace(given, queries=(query,))
    assert "the store does not keep the path" in parsed(words, tmp_path).all_text()


def test_a_sheet_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases_sheet, "MOST_CASES", 12)
    given = page(cases=6)
    heights = []
    for count in (1, 2, 40, 80):
        save(replace(given, queries=given.queries * count), tmp_path / "out.png")
        heights.append(opened(tmp_path / "out.png").shape[0])
    assert heights[0] < heights[1] < heights[2] == heights[3] < 1.2 * heights[1]


@pytest.mark.parametrize("suffix", ["html", "png", "PNG"])
def test_an_earlier_one_is_replaced_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out.{suffix}"
    save(page(), out)
    before = out.read_bytes()
    save(page(cases=5), out)
    assert out.read_bytes() != before
    save(page(), out)
    assert out.read_bytes() == before
    film = tmp_path / f"film.{suffix}"
    if suffix == "html":
        film.write_text("<!DOCTYPE html><p>mine")
    else:
        Image.new("L", (20, 20)).save(film)
    link = tmp_path / f"link.{suffix}"
    link.symlink_to("nowhere")
    kept = film.read_bytes()
    for target in (film, link):
        for refuse in (check_target, lambda path: save(page(), path)):
            with pytest.raises(UsageError, match="is there and no earlier search made it"):
                refuse(target)
    assert film.read_bytes() == kept
    folder = tmp_path / f"folder.{suffix}"
    folder.mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        save(page(), folder)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("name", ["out", "out.pdf", "out.htm", "out.png.txt"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.html or \.png"):
        save(page(), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    out, (soft, hard) = tmp_path / f"out.{suffix}", resource.getrlimit(resource.RLIMIT_FSIZE)
    save(page(), out)
    before = out.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot be written: .*too large"):
            save(page(cases=9), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert out.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [out.name]

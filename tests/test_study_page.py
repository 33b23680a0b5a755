"""The page of a study, in a parser, and in headless Chromium where there is one."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import auc, roc_curve
from study_findings import HOW, contender, score, together, vectors, whole
from threadpoolctl import threadpool_limits

from embedstore.audit.findings import Section
from embedstore.probes.logistic import LogisticProbe
from embedstore.protocol import Protocol
from embedstore.report.roc import roc
from embedstore.report.sprite import sprite
from embedstore.report.study_page import MARK, html
from embedstore.report.svg import Scale, Style
from embedstore.study.findings import Choice, Findings, Map

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</style></bdi></title></svg><iframe src=//example.org></iframe>",
    "{{ 7 * 7 }}{% raw %}",
    "\u202etxt.exe\u2028 תג",
    "]]> --> & &lt;b&gt;",
    "x" * 300,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Matrices this small take twice as long on two threads."""
    with threadpool_limits(1):
        yield


class Element:
    """A tag with its attributes, its text and what it holds."""

    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag, self.attributes = tag, attributes
        self.inside: list[Element | str] = []

    def all(self, tag: str, **wanted: str) -> list[Element]:
        """Every element of that tag below, with those attributes; `class_` is one of them."""
        found = []
        for child in (c for c in self.inside if isinstance(c, Element)):
            classes = str(child.attributes.get("class") or "").split()
            fits = all(
                v in classes if k == "class_" else child.attributes.get(k) == v
                for k, v in wanted.items()
            )
            found += [child] if child.tag == tag and fits else []
            found += child.all(tag, **wanted)
        return found

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.inside)


class Parsed(HTMLParser):
    """The tree of a page, every element closed."""

    EMPTY = frozenset({"meta", "img", "br", "link", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert self._open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        element = Element(tag, dict(attrs))
        self._open[-1].inside.append(element)
        if tag not in self.EMPTY:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].inside.append(data)


def parsed(findings: Findings) -> Element:
    return Parsed(html(findings)).root


@pytest.fixture(scope="module")
def page() -> Element:
    return parsed(whole())


def section(page: Element, name: str) -> Element:
    return next(iter(page.all("section", **{"aria-labelledby": name})))


def number(text: str) -> float:
    return float(text.strip().replace("−", "-").replace(",", ""))


def numbers(text: str) -> list[float]:
    return [number(found) for found in re.findall(r"[+−]?\d[\d,]*(?:\.\d+)?", text)]


def body_rows(table: Element) -> list[list[Element]]:
    rows = [row for body in table.all("tbody") for row in body.all("tr")]
    return [[c for c in row.inside if isinstance(c, Element)] for row in rows]


# figures


def test_the_ledger_has_every_contender_and_its_reports_figures(page: Element) -> None:
    findings = whole()
    (table,) = page.all("table", class_="ledger")
    metrics = ["auroc", "accuracy", "balanced_accuracy", "macro_f1", "quadratic_kappa"]
    metrics.append("C+D: auroc")
    rows = {row[0].all("bdi")[0].text: row for row in body_rows(table)}
    assert set(rows) == {c.name for c in findings.contenders}
    for one in findings.contenders:
        cells = rows[one.name]
        for cell, metric in zip(cells[2:], metrics, strict=False):
            s = one.report.metrics[metric]
            assert numbers(cell.text) == pytest.approx([s.value, s.low, s.high], abs=6e-4)
        *_, difference, seconds, labels, trained = cells
        found = findings.compared.get(one.name)
        if found is None:
            assert difference.text.strip() == "reference"
        else:
            d = found.differences["auroc"]
            wanted = [d.value, d.low, d.high, found.p_holm["auroc"]]
            assert numbers(difference.text) == pytest.approx(wanted, abs=6e-4)
        assert numbers(labels.text) == [one.report.n_train, one.report.n_train_patients]
        assert number(trained.text) == one.trained
        if one.seconds < 10:
            assert numbers(seconds.text) == pytest.approx([one.seconds], abs=0.06)
    assert rows["convnext_tiny/fine-tune"][-3].text == "1\u00a0h 11\u00a0min"
    (foot,) = table.all("tfoot")
    floors = [number(c.text) for c in foot.all("td", class_="num")[: len(metrics)]]
    report = findings.contenders[0].report
    assert floors == pytest.approx([report.metrics[m].floor for m in metrics], abs=6e-4)


def test_the_ledger_is_ordered_by_the_metric_of_the_study() -> None:
    for metric, best_first in (("auroc", -1), ("macro_f1", -1), ("log_loss", 1)):
        findings = replace(whole(), metric=metric)
        (table,) = parsed(findings).all("table", class_="ledger")
        wanted = sorted(
            findings.contenders, key=lambda c: best_first * c.report.metrics[metric].value
        )
        names = [row[0].all("bdi")[0].text for row in body_rows(table)]
        assert names == [c.name for c in wanted]


def test_interval_plots_stand_where_the_figures_are(page: Element) -> None:
    """All rows have one scale: places are one line through values."""
    findings = whole()
    (table,) = page.all("table", class_="ledger")
    values, places = [], []
    for row in body_rows(table):
        name = row[0].all("bdi")[0].text
        s = next(c.report.metrics["auroc"] for c in findings.contenders if c.name == name)
        (whisker,) = row[1].all("path", class_="whisker")
        ends = [float(x) for x in re.findall(r"[\d.]+", str(whisker.attributes["d"]))][:4:2]
        (point,) = row[1].all("path", class_="point")
        (floor,) = row[1].all("path", class_="floor-line")
        middle = re.findall(r"[\d.]+", str(point.attributes["transform"]))[0]
        edge = re.findall(r"[\d.]+", str(floor.attributes["d"]))[0]
        values += [s.low, s.high, s.value, s.floor]
        places += [*ends, float(middle), float(edge)]
    slope, offset = np.polyfit(values, places, 1)
    assert slope > 0
    np.testing.assert_allclose(np.polyval([slope, offset], values), places, atol=0.11)


def test_confusion_tables_are_the_reports(page: Element) -> None:
    tables = {t.all("caption")[0].text: t for t in page.all("table", class_="confusion")}
    for one in whole().contenders:
        rows = body_rows(tables[one.name])
        for row, counts in zip(rows, one.report.confusion, strict=True):
            found = [numbers(cell.text) for cell in row[1:]]
            assert [n for n, _ in found] == list(counts)
            shares = 100 * np.array(counts) / sum(counts)
            np.testing.assert_allclose([share for _, share in found], shares, atol=0.51)
        framed = [["right" in str(c.attributes["class"]) for c in row[1:]] for row in rows]
        assert framed == np.eye(len(rows), dtype=bool).tolist()


def plotted(chart: Element, name: str) -> np.ndarray:
    """Return the points of a curve in 0..1, by the places of the diagonal's ends."""
    line = next(p for p in chart.all("path", class_="roc") if p.all("title")[0].text == name)
    (diagonal,) = chart.all("path", class_="diagonal")
    xy, ends = (
        np.array(re.findall(r"[\d.]+", str(p.attributes["d"])), float).reshape(-1, 2)
        for p in (line, diagonal)
    )
    return (xy - ends[0]) / (ends[1] - ends[0])


def test_roc_curves_are_scikit_learns(page: Element) -> None:
    findings = whole()
    figures = section(page, "roc").all("figure")
    assert [f.all("h3")[0].text for f in figures] == [
        *(f"{c} against the rest" for c in "ABCD"),
        "C+D against the rest",
    ]
    for figure, positive in zip(figures, ["A", "B", "C", "D", "CD"], strict=True):
        columns = ["ABCD".index(c) for c in positive]
        for one in findings.contenders:
            answered = one.answered
            truth = np.isin(answered.truth, columns)
            p = answered.runs[0][:, columns].sum(axis=1)
            x, y, _ = roc_curve(truth, p, drop_intermediate=False)
            drawn = plotted(figure, one.name)
            # as near as a tenth of a unit of some 300 allows
            assert off_line(np.column_stack([x, y]), drawn) < 4e-4
            assert off_line(drawn, np.column_stack([x, y])) < 4e-4
            assert auc(*drawn.T) == pytest.approx(auc(x, y), abs=2e-3)


def off_line(points: np.ndarray, line: np.ndarray) -> float:
    """Return the largest distance of a point from a line through others."""
    start, along = line[:-1], np.diff(line, axis=0)
    squared = np.maximum((along**2).sum(axis=1), 1e-300)
    t = np.clip((((points[:, None] - start) * along).sum(axis=2)) / squared, 0, 1)
    apart = points[:, None] - (start + t[:, :, None] * along)
    return float(np.sqrt((apart**2).sum(axis=2)).min(axis=1).max())


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_roc_points_are_those_of_roc_curve_also_with_ties(levels: int) -> None:
    rng = np.random.default_rng(levels)
    truth, p = rng.random(300) < 0.3, rng.integers(0, levels, 300) / levels
    wanted = np.column_stack(roc_curve(truth, p, drop_intermediate=False)[:2])
    found = roc(truth, p)
    assert found is not None
    assert set(map(tuple, found.round(12))) <= set(map(tuple, wanted.round(12)))
    assert off_line(wanted, found) < 1e-12
    # no point stands on the line between its neighbours
    (ax, ay), (bx, by) = np.diff(found, axis=0)[:-1].T, np.diff(found, axis=0)[1:].T
    assert np.abs(ax * by - ay * bx).min(initial=1) > 1e-9
    assert roc(np.ones(3, bool), np.arange(3.0)) is None


def test_two_classes_have_one_curve_of_the_second() -> None:
    images = vectors(0.5, "two", patients=40, classes="ab")
    how = Protocol(folds=2)
    found = together([contender("two/l", "probe", images, LogisticProbe, 11, how)], "two/l", how)
    (figure,) = section(parsed(found), "roc").all("figure")
    answered = found.contenders[0].answered
    x, y, _ = roc_curve(answered.truth == 1, answered.runs[0][:, 1])
    assert auc(*plotted(figure, "two/l").T) == pytest.approx(auc(x, y), abs=2e-3)
    assert found.contenders[0].report.metrics["auroc"].value == pytest.approx(auc(x, y))


def test_subgroups_with_few_patients_are_marked_and_no_others(page: Element) -> None:
    table = section(page, "subgroups").all("table", class_="forest")[0]
    marked = {row[1].text: "few patients" in row[3].text for row in body_rows(table)}
    images = vectors(0.1, "any")
    for vendor in np.unique(images.columns["vendor"]):
        patients = len(np.unique(images.groups[images.columns["vendor"] == vendor]))
        assert marked[str(vendor)] == (patients < 20)
    assert set(marked.values()) == {True, False}
    assert not marked["all"]


def test_summary_names_the_best_and_what_it_is_set_against(page: Element) -> None:
    findings = whole()
    best = max(findings.contenders, key=lambda c: c.report.metrics["auroc"].value)
    found, s = findings.compared[best.name], best.report.metrics["auroc"]
    d = found.differences["auroc"]
    text = section(page, "summary").all("p")[0].text
    first, flattered, second, third = re.split(r"(?<=\.) (?=[A-Z])", text.strip())
    assert best.name in first
    assert numbers(first)[1:5] == pytest.approx([s.value, 95, s.low, s.high], abs=6e-4)
    assert "flatters" in flattered
    assert findings.reference in second
    told = [d.value, 95, d.low, d.high, found.p_holm["auroc"], len(findings.compared)]
    assert numbers(second) == pytest.approx(told, abs=6e-4)
    assert numbers(third) == pytest.approx([s.floor, s.value - s.floor], abs=6e-4)
    assert "above this floor" in third


def test_a_best_that_may_be_chance_is_not_praised() -> None:
    noise = vectors(0.0, "noise", patients=40)
    how = replace(HOW, by=())
    found = together([contender("noise/l", "probe", noise, LogisticProbe, 44, how)], "noise/l", how)
    assert found.contenders[0].report.metrics["auroc"].low < 0.5
    text = section(parsed(found), "summary").text
    assert "not shown that anything was learnt" in text
    assert "above this floor" not in text


def test_a_leak_is_said_at_the_top(page: Element) -> None:
    assert "leaks" not in section(page, "summary").text
    findings = whole()
    first = findings.contenders[0]
    leaky = replace(first, report=replace(first.report, leak="2 patients on both sides"))
    shown = parsed(replace(findings, contenders=(leaky, *findings.contenders[1:])))
    (warning,) = section(shown, "summary").all("p", class_="warning")
    assert "2 patients on both sides" in warning.text
    named = [c.name for c in findings.contenders if c.name in warning.text]
    assert named == [first.name]
    rows = body_rows(shown.all("table", class_="ledger")[0])
    assert [("leaks" in r[0].text) for r in rows] == [first.name in r[0].text for r in rows]


def test_unknown_patients_are_said_at_the_top(page: Element) -> None:
    assert "unknown" not in page.all("header")[0].text
    assert "unknown" not in section(page, "summary").text
    shown = parsed(replace(whole(), strangers=37))
    (warning,) = section(shown, "summary").all("p", class_="warning")
    assert "37 of 240 images" in warning.text
    assert "both sides of the split" in warning.text
    assert "unknown for 37" in shown.all("header")[0].text


def test_a_grouping_of_one_class_is_not_drawn_again() -> None:
    figures = section(parsed(replace(whole(), groupings=(("B",), ("C", "D")))), "roc").all("figure")
    assert len(figures) == 5
    for figure in figures:
        titles = [p.all("title")[0].text for p in figure.all("path", class_="roc")]
        assert len(titles) == len(set(titles)) == len(whole().contenders)


def test_a_contender_has_one_colour_and_mark_on_the_whole_page(page: Element) -> None:
    def keys(part: Element) -> dict[str, tuple[str, str]]:
        items = [li for li in part.all("li") if li.all("svg")]
        return {li.all("bdi")[0].text: key(li.all("svg")[0]) for li in items}

    def key(drawn: Element) -> tuple[str, str]:
        mark = drawn.all("path", class_="mark")[0]
        return str(mark.attributes["class"]), str(mark.attributes["d"])

    roc_keys, curve_keys = keys(section(page, "roc")), keys(section(page, "learning"))
    assert len(curve_keys) == 2
    assert {name: roc_keys[name] for name in curve_keys} == curve_keys
    assert len(set(curve_keys.values())) == 2


def test_parity_at_the_first_point_may_take_fewer() -> None:
    findings = whole()
    first = replace(findings.curves[0], parity=float(findings.curves[0].reports[0].n_train))
    told = section(parsed(replace(findings, curves=(first, findings.curves[1]))), "learning")
    assert f"at most {first.reports[0].n_train} labels" in told.all("li")[0].text


def test_parity_stands_on_the_fine_tunes_score(page: Element) -> None:
    findings = whole()
    chart = section(page, "learning").all("svg", class_="chart")[0]
    (ring,) = [c for c in chart.all("circle") if "parity" in str(c.attributes["class"])]
    first = findings.curves[0]
    (line, *_) = chart.all("path", class_="line")
    xy = np.array(re.findall(r"[\d.]+", str(line.attributes["d"])), float).reshape(-1, 2)
    labels = [r.n_train for r in first.reports]
    values = [r.metrics["auroc"].value for r in first.reports]
    along, across = np.polyfit(np.log(labels), xy[:, 0], 1), np.polyfit(values, xy[:, 1], 1)
    tuned = findings.contenders[4].report.metrics["auroc"].value
    assert float(str(ring.attributes["cy"])) == pytest.approx(np.polyval(across, tuned), abs=0.5)
    # whiskers stand a little aside
    at = np.polyval(along, np.log(131.6))
    assert float(str(ring.attributes["cx"])) == pytest.approx(at, abs=2)
    told = [li.text for li in section(page, "learning").all("li")]
    assert "132 labels" in told[0]
    assert "at most" not in told[0]
    assert "not reached" in told[1]


def test_tournaments_show_the_ledgers_metrics_and_say_what_collapsed(page: Element) -> None:
    (found,) = whole().tournaments
    best, collapsed = section(page, "prompts").all("table")
    assert [h.text for h in best.all("th", scope="col")] == [
        "wording",
        "AUROC",
        "macro F1",
        "commonest answer",
    ]
    for table, lines in ((best, found.best), (collapsed, found.collapsed)):
        for row, line in zip(body_rows(table), lines, strict=True):
            assert row[0].text == line.name
            assert numbers(row[1].text) == pytest.approx(line.metrics["auroc"], abs=6e-4)
            assert ("collapsed" in row[3].text) == line.collapsed


def test_audits_tell_the_worst_first(page: Element) -> None:
    findings = section(page, "audit").all("li", class_="finding")
    assert [f.all("strong")[0].text for f in findings] == ["wrong", "look at", "fine"]
    assert len(body_rows(findings[0].all("table")[0])) == 5
    assert "… 2 more" in findings[0].text


def test_choices_are_set_beside_the_corrected_protocol() -> None:
    made = (
        Choice("corrected", score(0.8), None, True),
        Choice("split by image", score(0.9), (0.1, 0.02, 0.18), False),
        Choice("squash", score(0.78), (-0.02, -0.05, 0.01), True),
    )
    table = section(parsed(replace(whole(), choices=made)), "choices").all("table")[0]
    rows = body_rows(table)
    assert numbers(rows[1][2].text) == pytest.approx([0.9, 0.8, 1.0])
    assert numbers(rows[1][3].text) == pytest.approx([0.1, 0.02, 0.18])
    assert numbers(rows[2][3].text) == pytest.approx([-0.02, -0.05, 0.01])
    assert "not of paired draws" in rows[1][4].text
    assert "not of paired draws" not in rows[2][4].text


def test_a_scale_of_ticks_is_round_and_not_crowded() -> None:
    for low, high in ((0.5, 0.97), (-0.2, 1.0), (0.81, 0.83), (0.0, 7.0)):
        ticks = Scale(low, high, 0, 100).ticks(6)
        assert 2 <= len(ticks) <= 6
        assert low - 1e-9 <= ticks[0] < ticks[-1] <= high + 1e-9
        assert np.ptp(np.diff(ticks)) < 1e-9
        assert len(f"{ticks[1] - ticks[0]:g}".replace("0.", "").lstrip("0")) == 1


def test_no_two_styles_of_sixty_four_look_alike_without_colour_and_with() -> None:
    styles = [Style(n) for n in range(64)]
    assert len({(s.colour, s.outline(1)) for s in styles}) == 64
    assert len({(s.dash, s.outline(1)) for s in styles[:8]}) == 8


# pictures


def test_a_sprite_sheet_holds_each_picture_in_its_cell() -> None:
    rng = np.random.default_rng(0)
    films = [np.full((48, 48), level, np.uint8) for level in (30, 90, 150, 210, 250)]
    chosen = rng.integers(0, 5, 40)
    sheet = sprite([films[i] for i in chosen])
    assert sheet is not None
    image = decoded(sheet.uri)
    assert image.shape == (sheet.rows * sheet.side, sheet.columns * sheet.side)
    for i, cell in zip(chosen, sheet.cells, strict=True):
        middle = image[
            cell // sheet.columns * sheet.side + sheet.side // 2,
            cell % sheet.columns * sheet.side + sheet.side // 2,
        ]
        assert abs(int(middle) - (30, 90, 150, 210, 250)[i]) <= 3
    assert len(set(sheet.cells)) == 5
    assert sprite([]) is None


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_a_large_map_of_noise_is_thinned_and_stays_under_ten_megabytes() -> None:
    n = 5000
    rng = np.random.default_rng(0)
    films = tuple(rng.integers(0, 256, (72, 72)).astype(np.uint8) for _ in range(n))
    ids, labels = np.array([f"f{i}" for i in range(n)]), np.array(list("AB"))[np.arange(n) % 2]
    places = rng.random((n, 2)).astype(np.float32)
    one = Map("noise", places, labels, ids, films, "at random")
    text = html(replace(whole(), maps=(one,)))
    assert len(text.encode()) < 10_000_000
    shown = section(Parsed(text).root, "map")
    options = shown.all("div", role="option")
    assert len(options) == 2000
    assert len(shown.all("svg", class_="scatter")[0].all("path", class_="mark")) == 2000
    assert "2,000 of 5,000 images" in shown.text
    # the thumbnail of a point is that of its image: found by its mean, which noise keeps
    sheet = shown.all("svg", class_="thumb")[0].attributes
    side, columns = int(str(sheet["data-side"])), int(str(sheet["data-columns"]))
    image = decoded(str(shown.all("img", id="sheet")[0].attributes["src"]))
    for option in options[::97]:
        film = np.asarray(
            Image.fromarray(films[int(option.text[1:])]).resize((side, side), Image.BILINEAR)
        )
        cell = int(str(option.attributes["data-cell"]))
        top, left = cell // columns * side, cell % columns * side
        drawn = image[top : top + side, left : left + side]
        assert np.corrcoef(drawn.ravel(), film.ravel())[0, 1] > 0.6


# what cannot be seen by all


def test_every_drawing_and_table_has_a_name_and_every_id_is_unique(page: Element) -> None:
    for drawing in page.all("svg"):
        assert drawing.attributes["role"] == "img"
        assert str(drawing.attributes["aria-label"]).strip()
    for table in page.all("table"):
        assert table.all("caption")[0].text.strip()
        assert all(th.attributes.get("scope") for th in table.all("th"))
    ids = re.findall(r'\sid="([^"]+)"', html(whole()))
    assert len(ids) == len(set(ids))
    for of in ("aria-labelledby", "aria-describedby"):
        told = re.findall(rf'{of}="([^"]+)"', html(whole()))
        assert set(told) <= set(ids)
    links = re.findall(r'href="#([^"]+)"', html(whole()))
    assert links
    assert set(links) <= set(ids)


def test_headings_step_down_by_one(page: Element) -> None:
    levels = [int(h) for h in re.findall(r"<h([1-6])", html(whole()))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def rgb(value: str) -> np.ndarray:
    return np.array([int(value[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def luminance(colour: np.ndarray) -> float:
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_that_wcag_asks_for(theme: int, page: Element) -> None:
    """WCAG 2.2: 4.5 for text (1.4.3), 3 for marks (1.4.11)."""
    style = page.all("style")[0].text
    blocks = re.findall(r":root \{([^}]*)\}", style)[:2]
    colours: dict[str, np.ndarray] = {}
    for block in blocks[: theme + 1]:
        found = re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)
        colours |= {k: rgb(v) for k, v in found}
    grounds = [colours["ground"], colours["card"]]
    for name in ("ink", "quiet", "link", "good", "bad"):
        assert min(contrast(colours[name], g) for g in grounds) >= 4.5, name
    for name in ("rim", *(f"c{n}" for n in range(8))):
        assert contrast(colours[name], colours["ground"]) >= 3, name
    share = max(int(n) for n in re.findall(r"var\(--shade\) (\d+)%", style)) / 100
    darkest = share * colours["shade"] + (1 - share) * colours["ground"]
    assert contrast(colours["ink"], darkest) >= 4.5


# what must not get in


def hostile() -> Findings:
    """The whole study with names from hell in every place that holds text."""
    names = iter(HOSTILE * 40)
    findings = whole()
    renamed = {c.name: f"{n} {next(names)}" for n, c in enumerate(findings.contenders)}
    contenders = tuple(
        replace(
            c,
            name=renamed[c.name],
            report=replace(
                c.report,
                classes=HOSTILE[:4],
                leak=next(names),
                subgroups=tuple(
                    replace(g, column=HOSTILE[n // 3], value=next(names))
                    for n, g in enumerate(c.report.subgroups)
                ),
            ),
        )
        for c in findings.contenders
    )
    (audit,), (one,), (prompts,) = findings.audits, findings.maps, findings.tournaments
    wrong = replace(
        audit.sections[1].findings[1],
        text=next(names),
        evidence=tuple({HOSTILE[0]: HOSTILE[1], HOSTILE[6]: HOSTILE[6]} for _ in range(2)),
    )
    labels = np.array(HOSTILE[:4])[np.arange(len(one.ids)) % 4]
    ids = np.array([f"{i} {HOSTILE[i % 7]}" for i in range(len(one.ids))])
    return replace(
        findings,
        title=HOSTILE[2],
        store=HOSTILE[0],
        label=HOSTILE[1],
        classes=HOSTILE[:4],
        split=HOSTILE[6],
        contenders=contenders,
        reference=renamed[findings.reference],
        compared={renamed[k]: v for k, v in findings.compared.items()},
        groupings=(),
        curves=tuple(replace(c, name=next(names)) for c in findings.curves),
        tournaments=(
            replace(
                prompts,
                backbone=HOSTILE[6],
                set=HOSTILE[3],
                best=tuple(
                    replace(w, name=next(names), commonest=next(names)) for w in prompts.best
                ),
            ),
        ),
        audits=(replace(audit, sections=(Section(HOSTILE[5], (wrong,)),), notes=HOSTILE),),
        maps=(replace(one, backbone=HOSTILE[0], labels=labels, ids=ids, how=HOSTILE[2]),),
        methods=HOSTILE,
        citation="\n".join(HOSTILE),
        notes=HOSTILE,
    )


def test_hostile_names_are_text() -> None:
    text = html(hostile())
    root = Parsed(text).root
    plain = parsed(whole())
    for tag in ("script", "img", "iframe", "style", "link", "meta"):
        assert len(root.all(tag)) == len(plain.all(tag))
    for name in HOSTILE:
        assert name in section(root, "notes").text
        assert name in section(root, "citation").text
    assert "49" not in section(root, "notes").text
    names = {row[0].all("bdi")[0].text for row in body_rows(root.all("table", class_="ledger")[0])}
    assert names == {c.name for c in hostile().contenders}


def test_bytes_that_are_no_text_do_not_break_the_page() -> None:
    text = html(replace(whole(), notes=("film\udcff.png",)))
    assert "film\\udcff.png" in text
    assert text.startswith(MARK)


def test_an_empty_study_has_a_page() -> None:
    findings = whole()
    empty = replace(
        findings,
        contenders=(),
        compared={},
        curves=(),
        tournaments=(),
        audits=(),
        maps=(),
        notes=(),
    )
    root = parsed(empty)
    assert not root.all("svg")
    assert "No contender" in section(root, "summary").text


# in a browser


class Opened:
    """A page in the browser, and what it asked for and complained of."""

    def __init__(self, browser: Any, file: Path, **how: Any) -> None:
        self.page = browser.new_page(**how)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_load_state("load")

    def ask(self, code: str) -> Any:
        return self.page.evaluate(code)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    written = {}
    for name, findings in (("whole", whole()), ("hostile", hostile())):
        written[name] = folder / f"{name}.html"
        written[name].write_text(html(findings), encoding="utf-8")
    return written


@pytest.mark.parametrize("name", ["whole", "hostile"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_quietly_asks_for_nothing_and_fits(
    browser: Any, files: dict[str, Path], name: str, width: int
) -> None:
    opened = Opened(browser, files[name], viewport={"width": width, "height": 900})
    opened.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert opened.said == []
    assert [u for u in opened.asked if not u.startswith("data:")] == [files[name].as_uri()]
    wide, room = opened.ask(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide == room == width
    opened.page.close()


def test_the_policy_stops_other_scripts_and_requests(
    browser: Any, files: dict[str, Path], tmp_path: Path
) -> None:
    """So that a mistake in escaping would do nothing."""
    broken = tmp_path / "broken.html"
    bad = "<script>document.title = 'run'</script><img src='http://127.0.0.1:9/x.png'></main>"
    text = files["whole"].read_text(encoding="utf-8")
    broken.write_text(text.replace("</main>", bad), encoding="utf-8")
    opened = Opened(browser, broken)
    assert opened.ask("document.title") == whole().title
    assert any("Content Security Policy" in said for said in opened.said)
    opened.page.close()


def test_dark_and_light_follow_the_reader(browser: Any, files: dict[str, Path]) -> None:
    seen = []
    for scheme in ("light", "dark"):
        opened = Opened(browser, files["whole"], color_scheme=scheme)
        colours = opened.ask("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        ground, ink = (np.array(re.findall(r"\d+", c), float)[:3] / 255 for c in colours)
        seen.append(luminance(ground))
        assert contrast(ground, ink) > 12
        opened.page.close()
    assert seen[0] > 0.8
    assert seen[1] < 0.05


def test_it_prints_with_what_is_folded_away(browser: Any, files: dict[str, Path]) -> None:
    opened = Opened(browser, files["whole"])
    pdf = opened.page.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF-")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 20
    last = "document.querySelector('#ledger ~ details')"
    shown = f"{last}.querySelector('tbody').checkVisibility({{contentVisibilityAuto: true}})"
    assert opened.ask(f"[{last}.open, {shown}]") == [False, False]
    opened.page.emulate_media(media="print", color_scheme="dark")
    # What is folded away is shown with the next frame drawn, not with the medium's change.
    opened.page.wait_for_function(shown)
    assert opened.ask(f"{last}.open") is False
    ground = opened.ask("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    paper = round((297 - 2 * 14) / 25.4 * 96)
    opened.page.set_viewport_size({"width": paper, "height": 1000})
    assert opened.ask("document.querySelector('table.ledger').offsetWidth") <= paper
    opened.page.close()


def test_a_point_shows_its_thumbnail_by_mouse_and_by_keyboard(
    browser: Any, files: dict[str, Path]
) -> None:
    opened = Opened(browser, files["whole"], viewport={"width": 1280, "height": 1000})
    page, label = opened.page, whole().label
    chart = page.locator("svg.scatter")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    one = whole().maps[0]
    apart = np.abs(one.places[:, None] - one.places[None]).max(axis=2) + 9 * np.eye(len(one.ids))
    lonely = int(apart.min(axis=1).argmax())
    inner, edge = 720 - 28, 14
    x, y = one.places[lonely] * [1, -1] + [0, 1]
    scale = box["width"] / 720
    page.mouse.move(box["x"] + (edge + inner * x) * scale, box["y"] + (edge + inner * y) * scale)
    said = page.locator("output")
    assert said.inner_text() == f"{one.ids[lonely]}, {label} {one.labels[lonely]}"
    drawn = page.locator("svg.thumb").screenshot()
    film = one.pictures[lonely] if one.pictures else np.zeros((1, 1))
    seen = np.asarray(Image.open(io.BytesIO(drawn)).convert("L").resize((48, 48)), float)
    assert np.corrcoef(seen.ravel(), film.ravel().astype(float))[0, 1] > 0.9
    listbox = page.locator("[role=listbox]")
    listbox.focus()
    page.keyboard.press("Home")
    first = said.inner_text()
    page.keyboard.press("ArrowDown")
    second = said.inner_text()
    inside = [f"{i}, {label} A" for i in sorted(one.ids[one.labels == "A"].tolist())]
    assert [first, second] == inside[:2]
    active = opened.ask(
        "document.querySelector('[role=listbox]').getAttribute('aria-activedescendant')"
    )
    assert opened.ask(f"document.getElementById('{active}').ariaSelected") == "true"
    assert opened.said == []
    page.close()


def test_every_stop_of_the_tab_key_has_a_name_and_is_seen(
    browser: Any, files: dict[str, Path]
) -> None:
    opened = Opened(browser, files["whole"], viewport={"width": 1280, "height": 900})
    names = []
    for _ in range(200):
        opened.page.keyboard.press("Tab")
        found = opened.ask(
            "(e => e === document.body ? null : ["
            "/^(A|SUMMARY)$/.test(e.tagName) ? e.innerText : e.ariaLabel, "
            "e.tagName, getComputedStyle(e).outlineStyle])(document.activeElement)"
        )
        if found is None:
            break
        names.append(found)
    assert len(names) > 20
    assert all(name and name.strip() for name, _, _ in names)
    assert {outline for _, _, outline in names} == {"solid"}
    assert "DIV" in {tag for name, tag, _ in names if name.startswith("Images of the map")}
    opened.page.close()


def test_it_is_read_without_a_script(browser: Any, files: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(files["whole"].as_uri())
    assert page.locator("output").is_hidden()
    assert page.locator("[role=option]").count() == len(whole().maps[0].ids)
    context.close()

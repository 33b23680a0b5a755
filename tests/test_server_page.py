"""The page of ``embedstore serve`` in headless Chromium, asked as a person would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_process import Films, Served
from text_stores import said
from vector_stores import unit, write

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films.shared(tmp_path_factory)


@pytest.fixture(scope="module")
def server(films: Films) -> Iterator[Served]:
    started = Served(films.path, probes={films.probe.name: films.probe})
    yield started
    started.stop()


class Visit:
    """A page opened by the address that was printed, and all it said and asked meanwhile."""

    def __init__(self, browser: Any, server: Served, width: int = 1280) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900})
        self.context.set_default_timeout(15_000)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.said.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(server.url)
        self.page.wait_for_selector("#backbone option", state="attached")

    def search_by_text(self, words: str) -> list[str]:
        self.page.check("#search-form input[value=text]")
        self.page.fill("#search-form input[name=text]", words)
        return self.submit("#search-form", "#search-results")

    def submit(self, form: str, results: str) -> list[str]:
        self.page.evaluate(f"document.querySelector('{results}').replaceChildren()")
        self.page.click(f"{form} button[type=submit]")
        self.page.wait_for_selector(f"{results} .cases li")
        return self.ids(results)

    def ids(self, results: str) -> list[str]:
        cards = self.page.locator(f"{results} .cases >> nth=0").locator("li")
        found: list[str] = cards.evaluate_all("all => all.map(one => one.dataset.id)")
        return found

    def pictures_shown(self, inside: str) -> bool:
        self.page.locator(f"{inside} img").last.scroll_into_view_if_needed()
        done = f"[...document.querySelectorAll('{inside} img')].every(i => i.complete)"
        while not self.page.evaluate(done):  # the page's policy forbids waiting for a function
            self.page.wait_for_timeout(20)
        found: bool = self.page.evaluate(
            f"[...document.querySelectorAll('{inside} img')].every(i => i.naturalWidth > 0)"
        )
        return found


@pytest.fixture
def visit(browser: Any, server: Served) -> Iterator[Visit]:
    opened = Visit(browser, server)
    yield opened
    opened.context.close()
    assert opened.said == []
    assert all(
        url.startswith((f"http://127.0.0.1:{server.port}/", "data:")) for url in opened.asked
    )


def text_vector(*sentences: str) -> np.ndarray:
    vectors = said(sentences).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_token_leaves_the_address_and_no_script_sees_it(visit: Visit, server: Served) -> None:
    assert server.token not in visit.page.url
    assert not any(server.token in url for url in visit.asked[1:])
    assert visit.page.evaluate("document.cookie") == ""
    (cookie,) = visit.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    visit.page.reload()  # and comes in again
    visit.page.wait_for_selector("#backbone option", state="attached")


def test_search_by_words(visit: Visit, films: Films) -> None:
    (query,) = text_vector("an extremely dense breast")
    assert visit.search_by_text("an extremely dense breast") == films.best(query, 12)
    assert visit.pictures_shown("#search-results")
    assert "12 cases" in visit.page.inner_text("#status")


def test_search_by_a_file(visit: Visit, films: Films) -> None:
    visit.page.check("#search-form input[value=file]")
    visit.page.set_input_files("#search-form input[name=file]", films.table["path"][3])
    found = visit.submit("#search-form", "#search-results")
    assert found == films.best(films.unit[3], 12, films.others(films.patients[3]))
    assert visit.page.get_attribute(".asked img", "src").startswith("data:image/png")
    # where it lay, and what it was called, is not sent
    assert not any("png" in url for url in visit.asked if "/api/" in url)


def test_a_filter_put_together_by_mouse(visit: Visit, films: Films) -> None:
    fields = visit.page.locator("#search-filter")
    fields.get_by_label("Column").select_option("density")
    fields.get_by_label("Value").select_option("D")
    fields.get_by_role("button", name="Add to filter").click()
    fields.get_by_label("Column").select_option("view")
    fields.get_by_label("Value").select_option("MLO")
    fields.get_by_role("button", name="Add to filter").click()
    visit.page.fill("#search-form input[name=k]", "3")
    passing = (np.array(films.density) == "D") & (films.table["view"] == "MLO").to_numpy()
    (query,) = text_vector("a dense breast")
    assert visit.search_by_text("a dense breast") == films.best(query, 3, passing)


def test_a_case_opened_and_closed_by_keyboard(visit: Visit, films: Films) -> None:
    first, *_ = visit.search_by_text("a fatty breast")
    button = visit.page.get_by_role("button", name=f"Open {first}")
    button.focus()
    visit.page.keyboard.press("Enter")
    dialog = visit.page.get_by_role("dialog", name=first)
    dialog.wait_for()
    row = films.ids.index(first)
    assert films.density[row] in dialog.inner_text()
    assert films.patients[row] in dialog.inner_text()
    assert visit.pictures_shown("#case")
    visit.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert button.evaluate("one => one === document.activeElement")


def test_from_a_case_to_cases_like_it(visit: Visit, films: Films) -> None:
    first, *_ = visit.search_by_text("a fatty breast")
    visit.page.get_by_role("button", name=f"Search like {first}").click()
    row = films.ids.index(first)
    expected = films.best(films.unit[row], 12, films.others(films.patients[row]))
    visit.page.wait_for_selector(f"#search-results li:first-child[data-id='{expected[0]}']")
    visit.page.wait_for_selector(".asked")
    assert visit.ids("#search-results") == expected


def test_agreement_is_told_in_words(visit: Visit, films: Films) -> None:
    visit.page.select_option("#search-form select[name=label]", "density")
    visit.page.check("#search-form input[value=ids]")
    visit.page.fill("#search-form textarea[name=ids]", films.ids[5])
    found = visit.submit("#search-form", "#search-results")
    marks = visit.page.locator("#search-results .cases p").all_inner_texts()
    same = [films.density[films.ids.index(i)] == films.density[5] for i in found]
    assert [mark.startswith("✓ same") for mark in marks] == same
    assert [mark.startswith("✗ other") for mark in marks] == [not s for s in same]


def test_a_probe_with_its_cases(visit: Visit, films: Films, server: Served) -> None:
    visit.page.click("nav a[href='#probe']")
    visit.page.fill("#probe-form input[name=id]", films.ids[9])
    visit.submit("#probe-form", "#probe-results")
    answer = server.post("predict", probe="density-probe", id=films.ids[9]).json
    assert f"density: {answer['answer']}" in visit.page.inner_text("#probe-results")
    assert "quadratic κ" in visit.page.inner_text("#probe-about")  # as a report names it
    visit.page.click("nav a[href='#prompts']")
    visit.page.wait_for_selector("#view-prompts:not([hidden])")
    assert visit.page.inner_text("#status") == ""  # what it said was of another view
    visit.page.click("nav a[href='#probe']")
    lists = visit.page.locator("#probe-results .cases")
    for at, side in enumerate(("supporting", "opposing")):
        shown = lists.nth(at).locator("li").evaluate_all("all => all.map(one => one.dataset.id)")
        assert shown == [case["id"] for case in answer[side]]


def test_two_sentences(visit: Visit, films: Films) -> None:
    visit.page.click("nav a[href='#prompts']")
    visit.page.fill("#prompts-form input[name=a]", "a fatty breast")
    visit.page.fill("#prompts-form input[name=b]", "a dense breast")
    visit.submit("#prompts-form", "#prompts-results")
    pair = text_vector("a fatty breast", "a dense breast")
    to_a = films.unit @ pair[0] > films.unit @ pair[1]
    rows = visit.page.locator("#prompts-results tbody tr").all_inner_texts()
    density = np.array(films.density)
    for row, value in zip(rows, "ABCD", strict=True):
        name, a, b, _ = row.split("\t")
        assert (name, int(a), int(b)) == (
            value,
            (to_a & (density == value)).sum(),
            (~to_a & (density == value)).sum(),
        )
    names = visit.page.locator("#prompts-results svg.bars")
    assert all("nearer to A" in (names.nth(n).get_attribute("aria-label") or "") for n in range(4))


def test_the_map_by_keyboard(visit: Visit, films: Films, server: Served) -> None:
    visit.page.click("nav a[href='#map']")
    visit.page.wait_for_selector(f"#map-canvas[data-points='{len(films.ids)}']", timeout=60_000)
    drawn = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v)"
    assert visit.page.locator("#map-canvas").evaluate(drawn)
    assert visit.page.locator("#map-legend li").all_inner_texts() == sorted(set(films.density))
    found = server.get("map").json
    at = dict(zip(found["ids"], zip(found["x"], found["y"], strict=True), strict=True))
    ways = {"ArrowRight": (1, 0), "ArrowLeft": (-1, 0), "ArrowUp": (0, 1), "ArrowDown": (0, -1)}
    looked = visit.page.locator("#map-point dd").first
    visit.page.focus("#map-canvas")
    visit.page.keyboard.press("ArrowUp")
    now, moves = looked.inner_text(), 0
    for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowLeft", "ArrowDown", "ArrowRight"):
        visit.page.keyboard.press(key)
        before, now = now, looked.inner_text()
        along = np.subtract(at[now], at[before]) @ ways[key]
        assert along > 0 or now == before  # there is an edge to every map
        moves += now != before
    assert moves >= 3
    visit.page.keyboard.press("Enter")
    visit.page.get_by_role("dialog", name=now).wait_for()


def test_problems_are_told(visit: Visit, server: Served) -> None:
    visit.page.fill("#search-filter input[name=where]", "weight > 3")
    visit.page.check("#search-form input[value=text]")
    visit.page.fill("#search-form input[name=text]", "a dense breast")
    visit.page.click("#search-form button[type=submit]")
    problem = visit.page.get_by_role("alert")
    problem.wait_for()
    assert "no column 'weight'" in problem.inner_text()
    visit.page.click("nav a[href='#prompts']")  # where it is not the problem
    problem.wait_for(state="hidden")
    visit.said = [s for s in visit.said if "400" not in s]  # the browser's own word on it


def test_without_the_token_there_is_nothing(browser: Any, server: Served) -> None:
    page = browser.new_context().new_page()
    page.goto(f"http://127.0.0.1:{server.port}/#token=wrong")
    page.get_by_role("alert").wait_for()
    assert "token" in page.inner_text("#problem")
    assert page.inner_text("#about") == ""
    page.context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(browser: Any, server: Served, width: int) -> None:
    visit = Visit(browser, server, width)
    visit.page.evaluate(  # a model of a long name
        "document.querySelector('#backbone').add(new Option('wide '.repeat(20), 'other'))"
    )
    visit.search_by_text("a dense breast")
    for view in ("search", "map", "probe", "prompts"):
        visit.page.click(f"nav a[href='#{view}']")
        wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert visit.page.evaluate(wide), view
    visit.context.close()


def test_every_field_and_picture_has_a_name(visit: Visit) -> None:
    visit.search_by_text("a dense breast")
    unnamed = visit.page.evaluate(
        """() => [
          ...[...document.querySelectorAll('input, select, textarea')]
            .filter(f => !f.labels.length || !f.labels[0].textContent.trim()),
          ...[...document.querySelectorAll('img')].filter(i => !i.alt),
          ...[...document.querySelectorAll('button')].filter(b => !b.textContent.trim()),
        ].map(e => e.outerHTML)"""
    )
    assert unnamed == []
    levels = visit.page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].filter(h => h.offsetParent)"
        ".map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


HOSTILE = [
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>1",
    "‮evil",
    "a" * 300,
]


def test_what_the_store_says_is_text(browser: Any, tmp_path: Path) -> None:
    labels = {"<b>label</b>": HOSTILE * 3, "it's": ["a'b", 'a"b', "a\\b"] * 4}
    store = write(tmp_path / "s.zarr", unit(0, 12, 8), groups=HOSTILE * 3, labels=labels)
    server = Served(store.path)
    try:
        visit = Visit(browser, server)
        visit.page.check("#search-form input[value=ids]")
        visit.page.fill("#search-form textarea[name=ids]", "i0")
        visit.page.fill("#search-form input[name=k]", "2")
        fields = visit.page.locator("#search-filter")
        fields.get_by_label("Column").select_option("it's")
        fields.get_by_label("Value").select_option("a\\b")
        fields.get_by_role("button", name="Add to filter").click()
        found = visit.submit("#search-form", "#search-results")
        vectors = unit(0, 12, 8)
        order = np.argsort(-(vectors @ vectors[0]))
        expected = [f"i{j}" for j in order if labels["it's"][j] == "a\\b" and j % 4][:2]
        assert found == expected
        assert "<b>label</b>" in visit.page.inner_text("#search-results")
        visit.page.get_by_role("button", name=f"Open {found[0]}").click()
        visit.page.get_by_role("dialog").wait_for()
        assert visit.page.title() == "s.zarr – embedstore"
        assert visit.page.locator("main b, main script, dialog b").count() == 0
        assert visit.said == []
        visit.context.close()
    finally:
        server.stop()

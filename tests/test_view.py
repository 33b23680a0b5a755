from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from test_dicom import dataset, native

from embedstore import cli_view, readers
from embedstore.cli import _run
from embedstore.errors import ImageError
from embedstore.images.decode import decode
from embedstore.images.prepare import prepare
from embedstore.images.recipe import RECIPES, frame, picture
from embedstore.look import look
from embedstore.report import pen
from embedstore.report.sheet import Panel, Row, Unread, fitted, outlined, sheet

Pixels = np.ndarray[Any, Any]
EXACT = replace(RECIPES["mammography"], exact=True)
GROUND, RIM = (44, 44, 44), (120, 120, 120)
YELLOW = (255, 214, 0)


def breast(height: int = 120, width: int = 96, seed: int = 0) -> Pixels:
    """Draw a textured half ellipse at the left, some way down, on black: (h, w) uint8."""
    y, x = np.mgrid[:height, :width]
    inside = (x / (0.5 * width)) ** 2 + ((y - 0.45 * height) / (0.3 * height)) ** 2 < 1
    noise = np.random.default_rng(seed).normal(150, 15, (height, width))
    return np.where(inside, noise.clip(80, 240), 0).astype(np.uint8)


def saved(path: Path, pixels: Pixels) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def opened(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image)


def on_screen(pixels: Pixels) -> Pixels:
    """Full range of the type to 0..255."""
    return np.rint(pixels / np.iinfo(pixels.dtype).max * 255).astype(np.uint8)


def rgb(pixels: Pixels) -> Pixels:
    return pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1)


def located(whole: Pixels, block: Pixels) -> tuple[int, int]:
    """Find (y, x) of a block of (h, w, 3) pixels by its middle row; it must be there once."""
    middle = len(block) // 2
    key, found = block[middle].tobytes(), []
    for y in range(middle, len(whole) - (len(block) - middle) + 1):
        at = whole[y].tobytes().find(key)
        if at >= 0 and at % 3 == 0:
            top, left = y - middle, at // 3
            area = whole[top : top + len(block), left : left + block.shape[1]]
            found += [(top, left)] if np.array_equal(area, block) else []
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in this process: starting others takes a second or two a test."""
    protected = readers.read_each
    monkeypatch.setattr(readers, "read_each", lambda f, jobs, workers: protected(f, jobs, 0))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = _run(["view", *map(str, arguments)], False)
    output = capsys.readouterr()
    assert output.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", output.err), output.err
    assert "--debug" not in output.err
    return code, output.err


def kinds(folder: Path) -> dict[Path, tuple[Pixels, str]]:
    """Write a file of each kind; the pixels it decodes to by numpy alone, and its laterality."""
    grey = [breast(seed=n) for n in range(7)]
    deep = grey[1].astype(np.uint16) * 200 + 17
    twelve = grey[2].astype(np.uint16) * 16
    colour = np.stack([grey[3], grey[3] // 2, grey[3] // 3], axis=-1)
    stack = np.stack([grey[4][::-1], grey[5]]).astype(np.uint16) * 256
    mono = native(4095 - twelve, 12, PhotometricInterpretation="MONOCHROME1")
    several = native(stack, NumberOfFrames=2, ImageLaterality="L")
    return {
        saved(folder / "eight.png", grey[0]): (grey[0], ""),
        saved(folder / "right.png", grey[6][:, ::-1]): (grey[6][:, ::-1], ""),
        saved(folder / "deep.tif", deep): (deep, ""),
        saved(folder / "colour.png", colour): (colour, ""),
        written(folder / "mono1.dcm", mono): (np.rint(twelve / 4095 * 65535).astype("u2"), ""),
        written(folder / "several.dcm", several): (stack[0], "L"),
    }


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "options", "size", "times"),
    [
        ("mammography", [], 224, 2),
        ("plain", ["--size", "150"], 150, 2),
        ("molina2025", ["--size", "500"], 500, 1),
    ],
)
def test_the_third_picture_has_the_pixels_the_model_sees(
    name: str, options: list[str], size: int, times: int, tmp_path: Path
) -> None:
    recipe = replace(RECIPES[name], exact=True, size=(size, size))
    files = kinds(tmp_path)
    to = tmp_path / "s.png"
    arguments = ["view", *map(str, files), "--to", str(to), "--exact", "--recipe", name, *options]
    assert _run(arguments, False) == 0
    whole = opened(to)
    lefts, below = set(), 0
    for pixels, laterality in files.values():
        seen = on_screen(picture(recipe, frame(recipe, pixels, laterality)))
        block = np.kron(rgb(seen), np.ones((times, times, 1), dtype=np.uint8))
        top, left = located(whole[below:], block)
        below += top + len(block)
        lefts.add(left)
    assert lefts == {280 * 2 + 20 * 3}
    assert whole.shape[1] == 620 + max(448, size * times) + 20


def dashes(panel: Pixels) -> tuple[int, int, int, int]:
    """Left, top, right and bottom (outside) of what is drawn in yellow on (h, w, 3) pixels."""
    y, x = np.nonzero((panel == YELLOW).all(axis=-1))
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_box_surrounds_the_breast_where_it_lies_on_the_film(
    mirrored: bool, tmp_path: Path
) -> None:
    pixels = breast(1200, 960)[:, :: -1 if mirrored else 1]
    row = look(saved(tmp_path / "film.png", pixels), 0, EXACT)
    scale = 280 / 960
    y, x = np.nonzero(pixels)
    margin = 0.01 * (y.max() - y.min())
    ends = (x.min() - margin, y.min() - margin, x.max() + margin, y.max() + margin)
    wanted = np.clip(np.array(ends) * scale, 0, [280, 350, 280, 350])
    drawn = dashes(outlined(row.original.pixels, row.box))
    np.testing.assert_allclose(drawn, wanted, atol=2)


@pytest.mark.parametrize("level", [0, 90, 255])
def test_the_box_is_told_without_colour_on_any_ground(level: int) -> None:
    ground = np.full((100, 80), level, dtype=np.uint8)
    drawn = outlined(ground, (0.1, 0.2, 0.9, 0.75))
    luma = np.asarray(Image.fromarray(drawn).convert("L")).astype(int)
    # two pixels along each side: x 8 to 72, y 20 to 75
    for line in (luma[20:22, 8:72], luma[73:75, 8:72], luma[20:75, 8:10].T, luma[20:75, 70:72].T):
        for pixels in line:
            assert pixels.max() - pixels.min() > 150
            # and no stretch of one tone is as long as a side
            assert np.diff(np.flatnonzero(np.diff(pixels))).max() <= 6
    untouched = np.ones(ground.shape, dtype=bool)
    untouched[20:75, 8:72] = False
    untouched[22:73, 10:70] = True
    assert (drawn[untouched] == level).all()
    assert (ground == level).all()


def test_the_original_keeps_its_polarity_and_the_crop_is_turned(tmp_path: Path) -> None:
    pixels = 255 - breast()
    row = look(saved(tmp_path / "film.png", pixels), 0, EXACT)
    np.testing.assert_array_equal(row.original.pixels[::2, ::2], pixels)
    kept = frame(EXACT, pixels).kept()
    times = min(280 // kept.shape[1], 448 // kept.shape[0])
    np.testing.assert_array_equal(row.crop.pixels[::times, ::times], kept)
    assert row.crop.pixels[-1, -1] == 0
    assert "turned: the background was bright" in row.crop.caption


def test_sixteen_bits_are_shown_from_the_darkest_to_the_brightest_kept(tmp_path: Path) -> None:
    pixels = breast().astype(np.uint16) * 10 + 300
    pixels[-12:-2, -12:-2] = 65535  # a label, which the recipe sets black
    plain = replace(RECIPES["plain"], exact=True)
    as_type = replace(EXACT, scale="dtype")
    bright = int(breast().max()) * 10 + 300
    for recipe, low, high in [(EXACT, 300, bright), (plain, 300, 65535), (as_type, 0, 65535)]:
        row = look(saved(tmp_path / "film.png", pixels), 0, recipe)
        wanted = np.rint(np.clip((pixels - float(low)) / (high - low), 0, 1) * 255)
        np.testing.assert_array_equal(row.original.pixels[::2, ::2], wanted)
        # the crop is of the same levels: its brightest is the breast's
        inside = wanted if recipe.crop == "none" else wanted[:-12]
        assert row.crop.pixels.max() == inside.max()


def test_a_hot_pixel_leaves_the_three_pictures_equally_bright(tmp_path: Path) -> None:
    film = np.kron(breast(), np.ones((8, 8), dtype=np.uint8)).astype(np.uint16) * 10
    film[400, 100] = 65535
    row = look(saved(tmp_path / "film.png", film), 0, EXACT)
    assert np.median(film[film > 0]) / 65535 * 255 < 10
    middle = [np.median(p.pixels[p.pixels > 10]) for p in (row.original, row.crop, row.seen)]
    assert middle[2] > 20
    np.testing.assert_allclose(middle, middle[2], rtol=0.05)


def test_a_turned_films_original_is_the_negative_of_what_is_kept(tmp_path: Path) -> None:
    film = breast().astype(np.uint16) * 10
    row = look(saved(tmp_path / "film.png", film.max() + 300 - film), 0, EXACT)
    bright = np.rint((1 - film / film.max()) * 255)
    np.testing.assert_allclose(row.original.pixels[::2, ::2], bright, atol=1)


def test_what_is_shown_is_what_extract_would_prepare(tmp_path: Path) -> None:
    film = np.kron(breast(seed=3), np.ones((16, 16), dtype=np.uint8)).astype(np.uint16) * 250
    path = written(tmp_path / "film.dcm", native(film))
    read = set()
    for exact in (True, False):
        recipe = replace(EXACT, exact=exact)
        (wanted,) = prepare(path, 0, [recipe]).pictures
        row = look(path, 0, recipe)
        np.testing.assert_array_equal(row.seen.pixels, on_screen(wanted))
        read.add(next((line for line in row.original.caption if "read at" in line), "in full"))
        assert row.original.caption[1] == "1536 x 1920 pixels, 16 bit"
        cut = re.fullmatch("cut to ([0-9]+) x ([0-9]+) pixels", row.crop.caption[0])
        assert cut
        # of the whole film, whatever it was read at
        np.testing.assert_allclose([int(n) for n in cut.groups()], [783, 1171], atol=24)
    assert read == {"in full", "read at 1/4 of its size"}


def test_the_resolution_told_is_the_one_a_small_breast_was_read_at(tmp_path: Path) -> None:
    film = np.zeros((2400, 2000), dtype=np.uint16)
    film[600:1800, :960] = np.kron(breast(seed=5), np.ones((10, 10), dtype=np.uint16)) * 250
    data = native(film)
    recipe = replace(EXACT, exact=False)
    row = look(written(tmp_path / "film.dcm", data), 0, recipe)
    (part,) = (int(n) for line in row.original.caption for n in re.findall("read at 1/(.)", line))
    assert part < 2400 // 400 // 2 * 2  # less than would do for all of the film
    seen = picture(recipe, frame(recipe, decode(data, halvings=part // 2)))
    np.testing.assert_array_equal(row.seen.pixels, on_screen(seen))


def test_the_frame_asked_for_is_shown(tmp_path: Path) -> None:
    stack = np.stack([breast(seed=n) for n in range(3)])
    path = written(tmp_path / "film.dcm", native(stack, NumberOfFrames=3))
    row = look(path, 2, EXACT)
    np.testing.assert_array_equal(row.original.pixels[::2, ::2], stack[2])
    assert "frame 2 of 0 to 2" in row.original.caption


def test_side_and_view_come_from_the_tags_else_from_the_picture(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        return look(path, 0, EXACT).original.caption[-1]

    left = breast()
    assert said(saved(tmp_path / "l.png", left)) == "L CC from the picture"
    assert said(saved(tmp_path / "r.png", left[:, ::-1])) == "R CC from the picture"
    noise = np.random.default_rng(0).integers(0, 256, (64, 48), dtype=np.uint8)
    assert said(saved(tmp_path / "n.png", noise)) == "side and view not known"
    path = tmp_path / "film.dcm"
    both = native(left, ImageLaterality="R", ViewPosition="MLO")
    assert said(written(path, both)) == "R MLO by the tags"
    side = native(left, ImageLaterality="R")
    assert said(written(path, side)) == "R by the tags, CC from the picture"
    assert said(written(path, native(left, ViewPosition="ML"))) == (
        "ML by the tags, L from the picture"
    )


def test_what_a_centre_crop_cuts_away_is_said(tmp_path: Path) -> None:
    pixels = np.zeros((300, 200), dtype=np.uint8)
    y, x = np.mgrid[:300, :200]
    inside = (x / 80) ** 2 + ((y - 150) / 130) ** 2 < 1
    pixels[inside] = np.random.default_rng(0).normal(150, 10, inside.sum()).clip(90, 230)
    path = saved(tmp_path / "film.png", pixels)
    (line,) = look(path, 0, replace(EXACT, resize="centre-crop")).seen.caption
    found = re.fullmatch(r"the centre crop cuts ([0-9.]+) % of the breast away", line)
    assert found
    # what is kept is a square about the middle, as tall as the breast is wide with its margin
    square = inside.sum(axis=1)[150 - 41 : 150 + 41].sum()
    assert float(found[1]) == pytest.approx(100 * (1 - square / inside.sum()), abs=2)
    assert look(path, 0, EXACT).seen.caption == ()


LONG = ["W" * 250, "1.2.840.113619.2.66.2158408118.16050010109105933.20000." * 3, "a b " * 60]


def test_captions_stay_in_their_column_and_lose_nothing() -> None:
    dark = np.zeros((100, 280), dtype=np.uint8)
    seen = np.zeros((224, 224), dtype=np.uint8)
    for text in [*LONG, "line\nend\ttab", "no text \udcff", "ü é 乳房"]:
        rows = [Row(*[Panel(p, (text, "x")) for p in (dark, dark, seen)], (0, 0, 1, 1))]
        drawn = np.asarray(sheet([*rows, Unread(text, text)], (224, 224), [text]))
        below = located(drawn[:, 620 - 1 :], np.zeros((448, 448, 3), dtype=np.uint8))[0] - 1
        captions = drawn[below + 100 + 4 : below + 100 + 4 + 20 * 7]
        for left, right in ((0, 19), (301, 319), (601, 619), (1069, 1088)):
            gap = captions[:, left:right].reshape(-1, 3)
            assert {tuple(p) for p in gap.tolist()} <= {GROUND, RIM}, text
        assert (drawn[:, 1069:] == GROUND).all()
        assert (drawn[-10:] == GROUND).all()
    for text in LONG:
        lines = pen.wrapped([text], 280, 15)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert max(pen.font(15).getlength(line) for line in lines) <= 280


@pytest.mark.parametrize("shape", [(3000, 2000), (100, 3000), (9, 8), (3000, 61), (448, 280, 3)])
def test_a_picture_is_fitted_whole_and_in_proportion(shape: tuple[int, ...]) -> None:
    small = fitted(np.full(shape, 777, dtype=np.uint16))
    height, width = small.shape[:2]
    assert height <= 448
    assert width <= 280
    assert width * shape[0] == pytest.approx(height * shape[1], rel=0.5 / min(height, width) + 0.01)
    assert height > 448 / 2 or width > 280 / 2
    assert (small == 777).all()
    assert small.dtype == np.uint16


def test_a_file_that_cannot_be_read_has_its_reason_on_the_sheet_and_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # here with reader processes, as the command has them
    good = saved(tmp_path / "good.png", breast())
    bad = written(tmp_path / "bad.png", b"no image")
    gone, to = tmp_path / "gone.dcm", tmp_path / "s.png"
    assert _run(["view", *map(str, (bad, good, gone)), "--to", str(to)], False) == 0
    said = capsys.readouterr()
    assert said.out == f"{to}\n"
    reason = "decode: not an image in a format known here (PNG, JPEG, TIFF, PGM, DICOM)"
    assert said.err.splitlines() == [
        f"failed: {bad}: {reason}",
        f"failed: {gone}: read: No such file or directory",
    ]
    rows = [
        Unread("bad.png", reason),
        look(good, 0, RECIPES["mammography"]),
        Unread("gone.dcm", "read: No such file or directory"),
    ]
    drawn = sheet(rows, (224, 224), ["Recipe mammography, resize pad, window 0"])
    np.testing.assert_array_equal(opened(to), np.asarray(drawn))
    for name in ("bad.png", "gone.dcm"):  # a line of ink each, and none where it is left out
        fewer = [r for r in rows if not (isinstance(r, Unread) and r.name == name)]
        assert sheet(fewer, (224, 224), [""]).height == drawn.height - 2 * 20 - 21


def test_files_go_through_reader_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read_each(function: Callable[..., object], jobs: Any, workers: int) -> Any:
        asked.append((function.__module__, function.__qualname__, workers))
        return (function(*job) for job in jobs)

    monkeypatch.setattr(readers, "read_each", read_each)
    film = saved(tmp_path / "a.png", breast())
    assert _run(["view", str(film), "--to", str(tmp_path / "s.png")], False) == 0
    assert asked in [[("embedstore.look", "look", n)] for n in (1, 2)]


@pytest.mark.usefixtures("here")
def test_where_nothing_can_be_read_there_is_one_line_and_no_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "s.png"
    gone, bad = tmp_path / "gone.png", written(tmp_path / "bad.dcm", b"no image")
    for files, says in [([bad], f"{bad}: decode: not an"), ([gone, bad], "none of 2 files")]:
        code, error = refused(capsys, *files, "--to", to)
        assert code == 1
        assert says in error
        assert not to.exists()
    film = saved(tmp_path / "a.png", breast())
    code, error = refused(capsys, film, "--to", to, "--frame", 1)
    assert code == 1
    assert "only DICOM has several" in error


@pytest.mark.usefixtures("here")
def test_bad_requests_are_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "read_each", None)
    film, other = (saved(tmp_path / n, breast()) for n in ("a.png", "b.png"))
    before = film.read_bytes(), other.read_bytes()
    (tmp_path / "none").mkdir()
    (tmp_path / "folder.png").mkdir()
    sheet_png = tmp_path / "s.png"
    for arguments, says in [
        ([film, "--to", tmp_path / "s.jpg"], "name that ends in .png"),
        ([film, "--to", tmp_path / "nowhere" / "s.png"], "there is no folder"),
        ([film, "--to", film], "is there and is no sheet"),
        ([film, "--to", other], "is there and is no sheet"),
        ([film, "--to", tmp_path / "folder.png"], "is there and is no sheet"),
        ([tmp_path / "none", "--to", sheet_png], "no images in"),
        ([film, "--to", sheet_png, "--recipe", "nope"], "no recipe called 'nope'"),
        ([film, "--to", sheet_png, "--resize", "nope"], "--resize is pad"),
        ([film, "--to", sheet_png, "--size", 7], "--size"),
        ([film, "--to", sheet_png, "--frame", -1], "--frame"),
        (["--to", sheet_png], "Missing argument"),
    ]:
        code, error = refused(capsys, *arguments)
        assert code == 2
        assert says in error
        assert not sheet_png.exists()
    assert (film.read_bytes(), other.read_bytes()) == before


@pytest.mark.usefixtures("here")
def test_an_earlier_sheet_is_replaced_and_is_no_film_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "a.png", breast())
    assert _run(["view", "."], False) == 0
    first = opened(Path("sheet.png")).shape
    assert _run(["view", "."], False) == 0
    assert opened(Path("sheet.png")).shape == first
    saved(tmp_path / "b.png", breast())
    assert _run(["view", "."], False) == 0
    assert len(opened(Path("sheet.png"))) > first[0] + 448


@pytest.mark.usefixtures("here")
def test_a_folder_gives_its_images_known_by_content_the_first_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    films = tmp_path / "films"
    for folder in (films / "inner", films / ".hidden"):
        folder.mkdir(parents=True)
    report = dataset(breast())
    del report.Rows, report.Columns
    report.SOPClassUID = uid.MammographyCADSRStorage
    report.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    del report.PixelData
    report.save_as(films / "a report", enforce_file_format=True)
    written(films / "IM0001", native(breast()))
    for name, kind in (("one", "PNG"), ("two.dat", "JPEG"), ("inner/three", "TIFF"), ("z", "PPM")):
        Image.fromarray(breast()).save(films / name, kind)
    saved(films / ".hidden.png", breast())
    saved(films / ".hidden" / "four.png", breast())
    (films / "manifest.csv").write_text("image\none\n")
    (films / "text.png").write_text("no image")
    (films / "empty.png").touch()
    names = []
    monkeypatch.setattr(
        readers,
        "read_each",
        lambda f, jobs, _: [
            names.append(j[0].relative_to(films).as_posix()) or f(*j) for j in jobs
        ],
    )
    to = tmp_path / "s.png"
    assert _run(["view", str(films), "--to", str(to)], False) == 0
    assert names == ["IM0001", "inner/three", "one", "two.dat", "z"]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cli_view, "MOST_ROWS", 3)
    whole = len(opened(to))
    names.clear()
    assert _run(["view", str(films), "--to", str(to)], False) == 0
    assert names == ["IM0001", "inner/three", "one"]
    # the report stands among the files, for only those shown are looked into
    assert "the first 3 of 6 files" in capsys.readouterr().err
    assert len(opened(to)) < whole - 2 * 448


SECRETS = {
    "PatientName": "Secret^Anna",
    "PatientID": "SECRET-4711",
    "AccessionNumber": "SECRET-ACC",
    "PatientBirthDate": "19520229",
    "InstitutionName": "SECRET Hospital",
    "StudyInstanceUID": "1.2.3.4.5678",
}


@pytest.mark.usefixtures("here")
def test_nothing_of_a_person_is_in_the_sheet_but_the_files_name(tmp_path: Path) -> None:
    folder = tmp_path / "SECRET-folder"
    folder.mkdir()
    path = written(folder / "film.dcm", native(breast(), **SECRETS))
    to = tmp_path / "s.png"
    assert _run(["view", str(path), "--to", str(to)], False) == 0
    data, chunks = to.read_bytes(), {}
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        chunks[kind] = chunks.get(kind, b"") + data[at + 8 : at + 8 + length]
        at += 12 + length
    assert set(chunks) == {b"IHDR", b"tEXt", b"IDAT", b"IEND"}
    assert chunks[b"tEXt"] == b"Software\0embedstore view"
    pixels = zlib.decompress(chunks[b"IDAT"])
    row = look(path, 0, EXACT)
    drawn = " ".join(line for p in (row.original, row.crop, row.seen) for line in p.caption)
    for secret in (*SECRETS.values(), "SECRET", "Anna"):
        assert secret.encode() not in data
        assert secret.encode() not in pixels
        assert secret not in drawn
    assert row.original.caption[0] == "film.dcm"


def test_a_reason_given_for_a_damaged_file_quotes_nothing_of_it(tmp_path: Path) -> None:
    data = native(breast(), **SECRETS)
    for end in (len(data) // 2, 400):
        path = written(tmp_path / "film.dcm", data[:end])
        with pytest.raises(ImageError) as caught:
            look(path, 0, EXACT)
        assert not any(secret in str(caught.value) for secret in SECRETS.values())
        assert "film.dcm" not in str(caught.value)

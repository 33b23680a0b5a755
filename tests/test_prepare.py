"""From a file to the picture a model sees: what is read, and how far that is from all of it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
from conftest import REAL_FILMS
from PIL import Image
from pydicom import uid
from test_dicom import dataset, file, jpeg, multiframe, native

from embedstore.backbones import load_backbone
from embedstore.errors import ImageError
from embedstore.images.decode import DicomImage
from embedstore.images.prepare import LEAST_SHRINKAGE, prepare
from embedstore.images.recipe import RECIPES, apply, tensors
from embedstore.phantoms import films, render
from embedstore.types import Recipe

Grey = np.ndarray[Any, Any]


def large_film(seed: int) -> Grey:
    """Render a film of 1664 x 1280 pixels at 16 bits, with a detector's noise."""
    film = Image.fromarray(render(films(8, seed)[4 * seed % 32], 512))
    smooth = np.asarray(film.resize((1280, 1664), Image.Resampling.BICUBIC), dtype=float)
    noise = np.random.default_rng(seed).normal(0, 80, smooth.shape)
    return np.where(smooth > 12, smooth * 200 + noise, 0).clip(0, 65535).astype(np.uint16)


def encoded(grey: Grey, how: str) -> bytes:
    if how == "native":
        return native(grey)
    if how == "JPEG":
        return jpeg((grey >> 8).astype(np.uint8))
    options = {"reversible": True} if how == "JPEG 2000 lossless" else {"level": 70}
    stream = bytes(imagecodecs.jpeg2k_encode(grey, codecformat="j2k", **options))
    syntax = uid.JPEG2000Lossless if "lossless" in how else uid.JPEG2000
    return file(dataset(grey, 16), syntax, stream)


def levels(picture: Grey) -> Grey:
    return picture.astype(float) / np.iinfo(picture.dtype).max * 255


def both(path: Path, recipe: Recipe) -> tuple[Grey, Grey]:
    """Prepare a file in full and as far as needed."""
    exact, quick = prepare(path, 0, [replace(recipe, exact=True), recipe]).pictures
    return levels(exact), levels(quick)


HOW = ["native", "JPEG", "JPEG 2000 lossless", "JPEG 2000 lossy"]
QUICK = replace(RECIPES["mammography"], exact=False)


@pytest.mark.parametrize("how", HOW)
def test_what_is_left_out_hardly_shows_on_phantoms(how: str, tmp_path: Path) -> None:
    offs = []
    for seed in range(2):
        (tmp_path / "a.dcm").write_bytes(encoded(large_film(seed), how))
        for side in (96, 224, 384):
            exact, quick = both(tmp_path / "a.dcm", replace(QUICK, size=(side, side)))
            offs.append(np.abs(exact - quick).mean())
    assert max(offs) < 4
    assert np.mean(offs) < 1
    assert max(offs) > 0 or how == "native"  # something was left out


def real_films(every: int) -> list[Path]:
    with REAL_FILMS.open() as table:
        return [REAL_FILMS.parent / row["image"] for row in csv.DictReader(table)][::every]


@pytest.mark.skipif(not REAL_FILMS.exists(), reason="the real films are not here")
@pytest.mark.parametrize("how", HOW)
def test_what_is_left_out_hardly_shows_on_real_films(how: str, tmp_path: Path) -> None:
    # moments and spectra hang on a few pixels at the skin line, a network does not
    least = {"statistics": 0.95, "phantom-clip": 0.99}
    backbones = [load_backbone(name) for name in least]
    offs = []
    for film in real_films(27):
        grey = np.asarray(Image.open(film).convert("L")).astype(np.uint16) << 8
        (tmp_path / "a.dcm").write_bytes(encoded(grey, how))
        exact, quick = both(tmp_path / "a.dcm", replace(QUICK, size=(224, 224)))
        offs.append(np.abs(exact - quick).mean())
        for backbone in backbones:
            recipe = replace(backbone.spec.recipe, exact=False)
            pair = prepare(tmp_path / "a.dcm", 0, [replace(recipe, exact=True), recipe]).pictures
            with torch.inference_mode():
                a, b = backbone.encode_image(torch.from_numpy(tensors(recipe, pair)))
            cosine = torch.nn.functional.cosine_similarity(a, b, dim=0).item()
            assert cosine > least[backbone.spec.backbone]
    assert max(offs) < 4
    assert np.mean(offs) < 1.5


@pytest.mark.parametrize("how", HOW)
def test_exact_is_all_of_it(how: str, tmp_path: Path) -> None:
    grey = large_film(1)
    (tmp_path / "a.dcm").write_bytes(encoded(grey, how))
    recipe = replace(QUICK, exact=True, mean=(0.0,), std=(1.0,))
    prepared = prepare(tmp_path / "a.dcm", 0, [recipe]).pictures
    with (tmp_path / "a.dcm").open("rb") as handle:
        whole = DicomImage(handle).pixels()
    np.testing.assert_array_equal(tensors(recipe, prepared)[0], apply(recipe, whole))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the halvings that each decoding was asked for."""
    asked: list[int] = []
    real = DicomImage.pixels

    def pixels(self: DicomImage, frame: int = 0, window: int = 0, halvings: int = 0) -> Grey:
        asked.append(halvings)
        return real(self, frame, window, halvings)

    monkeypatch.setattr(DicomImage, "pixels", pixels)
    return asked


def test_recipes_share_what_is_decoded(tmp_path: Path, decoded: list[int]) -> None:
    (tmp_path / "a.dcm").write_bytes(native(large_film(0)))
    same = [replace(QUICK, size=(96, 96)), replace(QUICK, size=(100, 100), flip="right")]
    prepare(tmp_path / "a.dcm", 0, [*same, replace(QUICK, exact=True)])
    assert sorted(decoded) == [0, 2]  # at a quarter (no less than the 400 it takes to find it)


def test_a_small_breast_is_decoded_more_finely(tmp_path: Path, decoded: list[int]) -> None:
    grey = np.zeros((1664, 1280), np.uint16)
    y, x = np.mgrid[:300, :200]
    grey[700:1000, :200] = np.where(np.hypot(x / 200, (y - 150) / 150) < 1, 40000, 0)
    (tmp_path / "a.dcm").write_bytes(native(grey))
    prepare(tmp_path / "a.dcm", 0, [replace(QUICK, size=(96, 96))])
    assert decoded == [2, 1]
    assert 300 / 4 / 96 < LEAST_SHRINKAGE < 300 / 2 / 96


def test_vectors_do_not_depend_on_the_other_recipes(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(encoded(large_film(2), "JPEG 2000 lossless"))
    recipes = [replace(QUICK, size=(s, s)) for s in (64, 200, 500)]
    together = prepare(tmp_path / "a.dcm", 0, recipes).pictures
    for recipe, picture in zip(recipes, together, strict=True):
        np.testing.assert_array_equal(prepare(tmp_path / "a.dcm", 0, [recipe]).pictures[0], picture)


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    digests = set()
    for seed in range(2):
        path.write_bytes(native(large_film(seed)[::4, ::4]))
        digests.add(prepare(path, 0, [QUICK]).digest)
    assert len(digests) == 2


def test_the_tags_tell_the_side_where_the_picture_does_not(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (64, 64), dtype=np.uint16)
    recipe = replace(RECIPES["plain"], flip="left", resize="squash", size=(64, 64))
    for laterality, wanted in (("L", noise), ("R", noise[:, ::-1]), ("", noise)):
        data = native(noise, ImageLaterality=laterality)
        (tmp_path / f"{laterality}.dcm").write_bytes(data)
        picture = prepare(tmp_path / f"{laterality}.dcm", 0, [recipe]).pictures[0]
        expected = np.rint((wanted - wanted.min()) / np.ptp(wanted) * 65535)
        assert np.abs(picture - expected).max() <= 1


def test_frames_and_windows_are_those_asked_for(tmp_path: Path) -> None:
    windows = {"WindowCenter": [1000, 2000], "WindowWidth": [900, 1200]}
    (tmp_path / "a.dcm").write_bytes(multiframe(**windows))
    recipe = replace(RECIPES["plain"], resize="squash", size=(40, 48), scale="dtype", window=1)
    for frame in (0, 3):
        found = prepare(tmp_path / "a.dcm", frame, [recipe]).pictures[0]
        with (tmp_path / "a.dcm").open("rb") as handle:
            np.testing.assert_array_equal(found, DicomImage(handle).pixels(frame, 1))
    with pytest.raises(ImageError, match="the image has 5"):
        prepare(tmp_path / "a.dcm", 5, [recipe])


@pytest.mark.parametrize(("height", "lost"), [(160, 0.0), (320, 0.5)])
def test_what_a_centre_crop_cuts_away_is_told(height: int, lost: float, tmp_path: Path) -> None:
    film = np.zeros((height, 160), np.uint8)
    film[:, :100] = 150  # a breast as tall as the film; of 320 rows the crop keeps 160
    Image.fromarray(film).save(tmp_path / "a.png")
    recipes = [replace(RECIPES["plain"], size=(80, 80)), replace(QUICK, size=(80, 80))]
    cut, none = prepare(tmp_path / "a.png", 0, recipes).cut
    assert cut == pytest.approx(lost, abs=0.03)
    assert none == 0

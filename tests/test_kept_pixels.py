"""Pictures kept in the store: what they are, and that they spare the second decoding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image
from test_dicom import GREY16, native
from test_extract import PLAN, Sums, plain, run

from embedstore.extract import extract
from embedstore.images.decode import decode
from embedstore.images.recipe import RECIPES, frame, picture
from embedstore.manifest import read_manifest
from embedstore.store import Store
from embedstore.types import Recipe, Sample

MAMMOGRAPHY = replace(RECIPES["mammography"], size=(48, 48))


def other_norm(recipe: Recipe) -> Recipe:
    return replace(recipe, mean=(0.5,) * 3, std=(0.2,) * 3)


@pytest.mark.parametrize("recipe", [plain(48), MAMMOGRAPHY], ids=["plain", "mammography"])
def test_kept_pixels_are_what_the_recipe_makes(films: Path, tmp_path: Path, recipe: Recipe) -> None:
    summary = run(films, tmp_path / "s.zarr", Sums(recipe), keep_pixels=True)
    assert summary.kept == 12
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")[f"pixels/{recipe.pixel_key}/uint8"]
    for row, values in zip(group["rows"][:], group["values"][:], strict=True):
        pixels = decode((films.parent / f"film{row:02d}.png").read_bytes())
        np.testing.assert_array_equal(values, picture(recipe, frame(recipe, pixels)))


def test_the_second_backbone_reads_no_file(films: Path, tmp_path: Path) -> None:
    fresh, store = tmp_path / "fresh.zarr", tmp_path / "s.zarr"
    second = Sums(other_norm(plain(48)))
    run(films, fresh, second)
    run(films, store, Sums(plain(48)), keep_pixels=True)
    samples = read_manifest(films).samples
    for film in films.parent.glob("*.png"):
        film.unlink()
    summary = extract(samples, store, [second], PLAN)
    assert (summary.failures, summary.kept) == ([], 0)
    expected, got = (Store.open(p).read(second.spec) for p in (fresh, store))
    np.testing.assert_array_equal(got.vectors, expected.vectors)
    np.testing.assert_array_equal(got.digests, expected.digests)


def test_another_size_is_decoded_anew(films: Path, tmp_path: Path) -> None:
    run(films, tmp_path / "s.zarr", Sums(plain(48)), keep_pixels=True)
    (films.parent / "film03.png").write_bytes(b"gone")
    summary = run(films, tmp_path / "s.zarr", Sums(plain(32)))
    assert [f.id for f in summary.failures] == ["film03"]


def test_deep_and_colour_pictures_keep_their_kind(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "c.png")
    Image.fromarray(colour[..., 0]).save(tmp_path / "g.png")
    (tmp_path / "d.dcm").write_bytes(native(GREY16))
    samples = [Sample(p.name, p) for p in sorted(tmp_path.iterdir())]
    recipe = plain(32)
    extract(samples, tmp_path / "s.zarr", [Sums(recipe)], PLAN, keep_pixels=True)
    kept = Store.open(tmp_path / "s.zarr").kept(recipe)
    for row, sample in enumerate(samples):
        found = kept.read([row])[0].picture
        expected = picture(recipe, frame(recipe, decode(sample.path.read_bytes())))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    kinds = {p.parent.name for p in (tmp_path / "s.zarr").glob("pixels/*/*/values")}
    assert kinds == {"uint8", "uint16", "uint8x3"}


def test_pixels_can_be_kept_later(films: Path, tmp_path: Path) -> None:
    backbone = Sums(plain(48))
    run(films, tmp_path / "s.zarr", backbone)
    summary = run(films, tmp_path / "s.zarr", backbone, keep_pixels=True)
    assert (summary.kept, summary.written[backbone.spec.key]) == (12, 0)
    assert run(films, tmp_path / "s.zarr", backbone, keep_pixels=True).kept == 0
    assert len(Store.open(tmp_path / "s.zarr").read(backbone.spec)) == 12


def test_a_file_that_failed_is_not_read_again_for_its_pixels(films: Path, tmp_path: Path) -> None:
    (films.parent / "film03.png").write_bytes(b"gone")
    backbone = Sums(plain(48))
    run(films, tmp_path / "s.zarr", backbone, keep_pixels=True)
    again = run(films, tmp_path / "s.zarr", backbone, keep_pixels=True)
    assert (again.kept, again.failures) == (0, [])
    assert [f.id for f in Store.open(tmp_path / "s.zarr").failures()] == ["film03"]


def test_what_a_centre_crop_cut_away_is_said_of_both_backbones(tmp_path: Path) -> None:
    tall = np.zeros((320, 160), np.uint8)
    tall[:, :100] = 150
    Image.fromarray(tall).save(tmp_path / "a.png")
    sample, store = Sample("a", tmp_path / "a.png"), tmp_path / "s.zarr"
    first, second, padded = (
        Sums(r) for r in (plain(64), other_norm(plain(64)), replace(plain(64), resize="pad"))
    )
    extract([sample], store, [first], PLAN, keep_pixels=True)
    extract([sample], store, [second, padded], PLAN)
    opened = Store.open(store)
    for backbone in (first, second):
        assert opened.notes(backbone.spec) == (
            "plain cuts away 50% of the breast in the mean, 50% at most; "
            "--resize pad keeps it whole",
        )
    assert opened.notes(padded.spec) == ()

"""The picture of a sample is the one its vector was made of, or there is none and a reason."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_dicom import STACK, multiframe
from test_extract import PLAN, Sums, plain, run, shoot_the_waiting_reader

from embedstore.extract import extract
from embedstore.frames import expand
from embedstore.images.decode import decode
from embedstore.images.recipe import RECIPES, frame, picture
from embedstore.kept import Kept
from embedstore.manifest import read_manifest
from embedstore.seen import seen
from embedstore.store import Store
from embedstore.types import Recipe, Sample
from embedstore.writer import Writer

MAMMOGRAPHY = replace(RECIPES["mammography"], size=(48, 48))


def on_screen(recipe: Recipe, file: Path) -> np.ndarray:
    """What the recipe makes of a file, its full range on 0 to 255."""
    made = picture(recipe, frame(recipe, decode(file.read_bytes())))
    return np.rint(made / np.iinfo(made.dtype).max * 255)


def extracted(
    films: Path, tmp_path: Path, recipe: Recipe, keep: bool = False
) -> tuple[Store, Sums]:
    backbone = Sums(recipe)
    run(films, tmp_path / "s.zarr", backbone, keep_pixels=keep)
    return Store.open(tmp_path / "s.zarr"), backbone


@pytest.mark.parametrize("recipe", [plain(40), MAMMOGRAPHY], ids=["plain", "mammography"])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "made again"])
def test_the_picture_is_what_the_recipe_makes(
    films: Path, tmp_path: Path, recipe: Recipe, keep: bool
) -> None:
    deep = np.linspace(0, 60000, 96 * 96).reshape(96, 96).astype(np.uint16)
    Image.fromarray(deep).save(films.parent / "film03.png")
    Image.fromarray(np.dstack([deep >> 8] * 2 + [deep.T >> 8]).astype(np.uint8)).save(
        films.parent / "film05.png"
    )
    store, backbone = extracted(films, tmp_path, recipe, keep)
    rows = [7, 3, 5, 0, 3]
    for row, found in zip(rows, seen(store, backbone.spec, rows), strict=True):
        assert isinstance(found, np.ndarray), found
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, on_screen(recipe, films.parent / f"film{row:02d}.png"))


def test_what_is_kept_needs_no_file(films: Path, tmp_path: Path) -> None:
    store, backbone = extracted(films, tmp_path, plain(40), keep=True)
    expected = on_screen(plain(40), films.parent / "film02.png")
    for file in tmp_path.glob("film*.png"):
        file.unlink()
    (found,) = seen(store, backbone.spec, [2])
    np.testing.assert_array_equal(found, expected)


def test_another_file_of_that_name_is_not_shown(films: Path, tmp_path: Path) -> None:
    store, backbone = extracted(films, tmp_path, plain(40))
    shutil.copy(tmp_path / "film00.png", tmp_path / "film01.png")
    (tmp_path / "film02.png").unlink()
    (tmp_path / "film03.png").write_bytes(b"no image")
    other, gone, broken, same = seen(store, backbone.spec, [1, 2, 3, 0])
    assert other == f"the file has changed since it was embedded: {tmp_path / 'film01.png'}"
    assert gone == f"no such file: {tmp_path / 'film02.png'}"
    assert isinstance(broken, str)
    assert broken.startswith("not an image in a format known here")
    assert isinstance(same, np.ndarray)


def test_a_decoder_that_crashes_takes_one_picture_down(films: Path, tmp_path: Path) -> None:
    store, backbone = extracted(films, tmp_path, plain(40))
    (tmp_path / "film01.png").unlink()
    os.mkfifo(tmp_path / "film01.png")  # a reader that opens it waits, until it is shot
    shot = threading.Thread(target=shoot_the_waiting_reader)
    shot.start()
    crashed, fine = seen(store, backbone.spec, [1, 2])
    shot.join()
    assert str(crashed).startswith("the decoder crashed (SIGSEGV): ")
    np.testing.assert_array_equal(fine, on_screen(plain(40), tmp_path / "film02.png"))


def test_of_a_film_of_several_frames_the_right_one_is_shown(tmp_path: Path) -> None:
    (tmp_path / "tomo.dcm").write_bytes(multiframe())
    plain_file = tmp_path / "film#2.png"  # an id that looks like a frame's
    Image.fromarray((STACK[0] >> 4).astype(np.uint8)).save(plain_file)
    samples = expand([Sample("tomo", tmp_path / "tomo.dcm")], "every:1")
    backbone = Sums(plain(40))
    every = [*samples, Sample("film#2", plain_file)]
    extract(every, tmp_path / "s.zarr", [backbone], PLAN)
    store = Store.open(tmp_path / "s.zarr")
    assert store.column("id").tolist() == [*(f"tomo#{n}" for n in range(5)), "film#2"]
    *found, flat = seen(store, backbone.spec, range(6))
    for number, one in enumerate(found):
        pixels = decode((tmp_path / "tomo.dcm").read_bytes(), number)
        made = picture(plain(40), frame(plain(40), pixels))
        np.testing.assert_array_equal(one, np.rint(made / np.iinfo(made.dtype).max * 255))
    assert len({f.tobytes() for f in found if isinstance(f, np.ndarray)}) > 1
    assert isinstance(flat, np.ndarray)


def test_a_private_path_and_a_relative_one_are_said(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = list(read_manifest(films).samples)
    samples[0] = replace(samples[0], private=True)
    samples[1] = replace(samples[1], path=Path("film01.png"))
    monkeypatch.chdir(tmp_path)
    backbone = Sums(plain(40))
    extract(samples, tmp_path / "s.zarr", [backbone], PLAN)
    store = Store.open(tmp_path / "s.zarr")
    private, here = seen(store, backbone.spec, [0, 1])
    assert private == "the store does not keep the path"
    np.testing.assert_array_equal(here, on_screen(plain(40), tmp_path / "film01.png"))
    monkeypatch.chdir("/")
    (elsewhere,) = seen(store, backbone.spec, [1])
    assert str(elsewhere).startswith("no such file from here (extract ran in another folder?)")


def test_a_kept_picture_of_other_bytes_is_not_shown(tmp_path: Path) -> None:
    spec = Sums(plain(8)).spec
    levels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    digests = [bytes([n]) * 16 for n in range(2)]
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples([Sample(f"{n}", Path("x"), private=True) for n in range(2)])
        writer.add_spec(spec, {})
        of_vectors = np.frombuffer(b"".join(digests), np.uint8).reshape(2, 16)
        writer.append(spec, np.arange(2), np.ones((2, 6)), of_vectors)
        writer.keep(spec.recipe, np.arange(2), [Kept(digests[0], levels, 0)] * 2)
        writer.commit()
    same, other = seen(Store.open(tmp_path / "s.zarr"), spec, [0, 1])
    np.testing.assert_array_equal(same, levels)
    assert other == "the store does not keep the path"


def test_what_the_store_does_not_have_is_said(films: Path, tmp_path: Path) -> None:
    backbone = Sums(plain(40))
    (tmp_path / "film04.png").write_bytes(b"")
    run(films, tmp_path / "s.zarr", backbone)
    store = Store.open(tmp_path / "s.zarr")
    (failed,) = seen(store, backbone.spec, [4])
    assert failed == "there is no vector of sums"
    assert seen(store, backbone.spec, []) == []

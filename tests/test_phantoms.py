"""Each test attacks one promise of the phantoms with a measure of its own."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from embedstore import phantoms
from embedstore.errors import UsageError
from embedstore.phantoms import DENSITIES, VIEWS, Film, films, render, tissue

SIZE = 256


def largest(film: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the largest region brighter than bare film: the breast, by size alone."""
    regions, _ = ndimage.label(ndimage.binary_opening(film > 30, iterations=2))
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    return np.asarray(regions == sizes.argmax())


def slope(film: NDArray[np.uint8], side: int = 96) -> float:
    """Return the exponent of the radial power spectrum in a square deep inside the breast."""
    depth = ndimage.distance_transform_cdt(largest(film))
    top, left = np.unravel_index(depth.argmax(), depth.shape)
    top, left = (int(np.clip(i - side // 2, 0, len(film) - side)) for i in (top, left))
    square = film[top : top + side, left : left + side].astype(float)
    window = np.outer(np.hanning(side), np.hanning(side))
    power = np.abs(np.fft.fft2((square - square.mean()) * window)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side))) * side
    rings = np.arange(4, 30)
    means = [power[np.abs(frequency - i) < 0.5].mean() for i in rings]
    return float(-np.polyfit(np.log(rings), np.log(means), 1)[0])


def chest_side(film: NDArray[np.uint8]) -> str:
    """Return the side the breast is broad on: its columns are longest at the chest wall."""
    columns = largest(film).sum(axis=0)
    ends = np.flatnonzero(columns)[[0, -1]]
    centre = (columns * np.arange(len(columns))).sum() / columns.sum()
    return "L" if centre < ends.mean() else "R"


def test_same_seed_gives_identical_films() -> None:
    once, again = films(2, seed=5), films(2, seed=5)
    assert once == again
    assert all((render(a, 128) == render(b, 128)).all() for a, b in zip(once, again, strict=True))


def test_rendering_order_does_not_matter() -> None:
    listed = films(2, seed=5)
    forwards = [render(film, 96).tobytes() for film in listed]
    backwards = [render(film, 96).tobytes() for film in listed[::-1]]
    assert forwards == backwards[::-1]


def test_every_film_differs_between_seeds_patients_and_views() -> None:
    listed = films(3, seed=0) + films(3, seed=1)
    assert len({render(film, 96).tobytes() for film in listed}) == len(listed)


def test_patients_have_four_views_and_one_balanced_density() -> None:
    listed = films(12, seed=3)
    views: dict[str, set[tuple[str, str]]] = {}
    densities: dict[str, set[str]] = {}
    for film in listed:
        views.setdefault(film.patient, set()).add((film.laterality, film.view))
        densities.setdefault(film.patient, set()).add(film.density)
    assert len(listed) == 48
    assert all(seen == set(VIEWS) for seen in views.values())
    assert all(len(seen) == 1 for seen in densities.values())
    assert Counter(next(iter(seen)) for seen in densities.values()) == dict.fromkeys(DENSITIES, 3)


def test_tissue_has_a_power_law_spectrum() -> None:
    # Published breast textures fall off with an exponent near 3; edges and strands move it.
    slopes = [slope(render(film, 512)) for film in films(8, seed=2)[::2]]
    assert 2.5 < float(np.mean(slopes)) < 3.6
    assert min(slopes) > 1.5
    assert max(slopes) < 4.5


def test_brightness_rises_with_density_in_the_same_breasts() -> None:
    listed = [film for film in films(12, seed=4) if film.view == "CC"]
    means = {
        density: [deep_grey(render(replace(film, density=density), 128)) for film in listed]
        for density in DENSITIES
    }
    averages = [float(np.mean(means[density])) for density in DENSITIES]
    assert averages == sorted(averages)
    assert averages[3] - averages[0] > 25
    # Exposure varies from film to film, so that brightness alone must not settle the class.
    assert max(means["A"]) > min(means["D"])
    assert max(means["B"]) > np.mean(means["C"])


def deep_grey(film: NDArray[np.uint8]) -> float:
    """Return the median grey deep inside the breast, 0 to 255."""
    breast = largest(film)
    deep = ndimage.distance_transform_edt(np.pad(breast, 1))[1:-1, 1:-1] > 12
    return float(np.median(film[deep]))


@pytest.mark.parametrize("density", DENSITIES)
def test_dense_share_of_the_tissue_lies_in_its_class(density: str) -> None:
    bounds = {"A": (0.0, 0.15), "B": (0.13, 0.42), "C": (0.38, 0.72), "D": (0.68, 1.0)}[density]
    for film in films(8, seed=6):
        if film.density == density and film.view == "CC":
            assert bounds[0] <= dense_share(film) <= bounds[1]


def dense_share(film: Film) -> float:
    """Return the dense share of the area by counting, from the tissue before exposure."""
    anatomy, exposure = phantoms._describe(film)
    shares: list[float] = []
    original = tissue._dense

    def counting(*given: object) -> NDArray[np.float32]:
        dense = original(*given)  # type: ignore[arg-type]
        skin, muscle = np.asarray(given[3]), np.asarray(given[4])
        shares.append(float((dense > 0.5)[(skin > 0.01) & (muscle < 0.5)].mean()))
        return dense

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tissue, "_dense", counting)
        tissue.attenuate(film, anatomy, exposure.margin, 256)
    return shares[0]


def test_chest_wall_is_on_the_side_of_the_breast() -> None:
    listed = films(6, seed=7, label_rate=0.0)
    assert [chest_side(render(film, 128)) for film in listed] == [f.laterality for f in listed]


def test_pectoral_muscle_brightens_the_upper_chest_corner_on_mlo() -> None:
    for film in films(8, seed=8, label_rate=0.0):
        if film.view == "MLO" and film.density == "A":
            image = render(film, SIZE)
            image = image if film.laterality == "L" else image[:, ::-1]
            columns = np.flatnonzero(largest(image).any(axis=0))
            corner = image[4:30, columns[0] + 3 : columns[0] + 20]
            middle = image[120:180, columns[len(columns) // 2]]
            assert corner.mean() > 1.1 * middle.mean()


@pytest.mark.parametrize("size", [100, 224, 256, 700])
def test_a_film_shows_the_same_breast_at_every_size(size: int) -> None:
    for film in films(2, seed=9):
        large = Image.fromarray(render(film, 512)).resize((100, 100), Image.Resampling.BOX)
        small = Image.fromarray(render(film, size)).resize((100, 100), Image.Resampling.BOX)
        pair = np.asarray(large, float).ravel(), np.asarray(small, float).ravel()
        assert np.corrcoef(*pair)[0, 1] > 0.95


def test_a_label_is_laid_beside_the_breast_and_only_where_asked() -> None:
    # Among these a small breast beside a wide scanner bed, once labelled out of sight.
    for film in films(60, seed=21)[144:180:3]:
        bare = render(replace(film, labelled=False), SIZE)
        with_label = render(replace(film, labelled=True), SIZE)
        changed = bare != with_label
        assert 20 < changed.sum() < 0.05 * changed.size
        assert (changed & largest(bare)).sum() <= 0.1 * changed.sum()
        assert with_label[changed].max() >= 60


def test_label_rate_sets_how_many_films_are_labelled() -> None:
    assert not any(film.labelled for film in films(20, label_rate=0.0))
    assert all(film.labelled for film in films(20, label_rate=1.0))
    assert 0.35 < np.mean([film.labelled for film in films(100, label_rate=0.5)]) < 0.65


def test_label_rate_leaves_the_breasts_alone() -> None:
    for film, labelled in zip(films(2, label_rate=0.0), films(2, label_rate=1.0), strict=True):
        assert replace(labelled, labelled=False) == film


def test_written_manifest_matches_the_files(tmp_path: Path) -> None:
    manifest = phantoms.write(tmp_path / "new", patients=2, seed=11, size=96)
    with manifest.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    files = {
        path.relative_to(manifest.parent).as_posix() for path in manifest.parent.rglob("*.png")
    }
    assert list(rows[0]) == ["image", "patient", "laterality", "view", "density", "film_label"]
    assert files == {row["image"] for row in rows}
    for row, film in zip(rows, films(2, seed=11), strict=True):
        with Image.open(manifest.parent / row["image"]) as image:
            assert image.mode == "L"
            assert (np.asarray(image) == render(film, 96)).all()
        assert row["film_label"] == ("yes" if film.labelled else "no")
        seen = (row["patient"], row["laterality"], row["view"], row["density"])
        assert seen == (film.patient, film.laterality, film.view, film.density)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patients": 0}, "got 0"),
        ({"patients": 1, "seed": -3}, "got -3"),
        ({"patients": 1, "label_rate": 1.5}, "got 1.5"),
    ],
)
def test_bad_collections_are_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        films(**given)


def test_bad_films_and_sizes_are_refused(tmp_path: Path) -> None:
    film = films(1)[0]
    with pytest.raises(ValueError, match="got 31"):
        render(film, 31)
    with pytest.raises(ValueError, match="'E'"):
        render(replace(film, density="E"), 64)
    with pytest.raises(ValueError, match="'XCC'"):
        render(replace(film, view="XCC"), 64)
    with pytest.raises(ValueError, match="got 8"):
        phantoms.write(tmp_path / "none", 1, size=8)
    assert not (tmp_path / "none").exists()


def test_no_manifest_of_anything_else_is_written_over(tmp_path: Path) -> None:
    phantoms.write(tmp_path, 1, size=64)
    first = (tmp_path / "manifest.csv").read_bytes()
    phantoms.write(tmp_path, 1, size=64)
    assert (tmp_path / "manifest.csv").read_bytes() == first
    (tmp_path / "manifest.csv").write_text("image,patient\nmine.png,1\n")
    with pytest.raises(UsageError, match="manifest.csv: is no manifest of phantoms"):
        phantoms.write(tmp_path, 1, size=64)
    assert (tmp_path / "manifest.csv").read_text() == "image,patient\nmine.png,1\n"

"""Laterality and view of images whose tags do not say, on phantoms that know them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_dicom import dataset, file

from embedstore.archive import Archive, read_archive
from embedstore.phantoms import films, render
from embedstore.views import complete


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("archive")
    for n, film in enumerate(films(6, seed=40)):
        known: dict[str, Any] = {"Modality": "MG", "SOPInstanceUID": f"1.2.{n}"}
        known |= {"PatientID": film.patient, "StudyDescription": f"{film.laterality}{film.view}"}
        if n < 4:  # the first patient's are tagged, and wrongly so
            known |= {"ImageLaterality": "R", "ViewPosition": "ML"}
        (folder / f"{film.patient}-{film.laterality}{film.view}").write_bytes(
            file(dataset(render(film, 512), **known))
        )
    return read_archive(folder)


def test_what_the_tags_leave_open_is_told(archive: Archive) -> None:
    told = complete(archive)
    blank = [s for s in told.samples if s.group != "p0000"]
    truth = [s.path.name.partition("-")[2] for s in blank]
    assert len(blank) == 20
    assert [s.laterality for s in blank] == [t[0] for t in truth]
    answered = [(s.view, t[1:]) for s, t in zip(blank, truth, strict=True) if s.view]
    assert len(answered) >= 16
    assert all(view == true for view, true in answered)
    assert f"of 20 images: taken from the picture, in full of {len(answered)}" in told.notes[-1]


def test_what_the_tags_say_stands(archive: Archive) -> None:
    tagged = [s for s in complete(archive).samples if s.group == "p0000"]
    assert {(s.laterality, s.view) for s in tagged} == {("R", "ML")}


def test_other_modalities_are_left_alone(archive: Archive) -> None:
    others = replace(archive, tags=tuple(replace(t, modality="CR") for t in archive.tags))
    assert complete(others) is others


def test_a_damaged_file_is_left_to_fail_later(archive: Archive, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(archive.samples[-1].path.read_bytes()[:3000])
    samples = (*archive.samples[:-1], replace(archive.samples[-1], path=path))
    told = complete(replace(archive, samples=samples))
    assert (told.samples[-1].laterality, told.samples[-1].view) == ("", "")
    assert f"in full of {sum(bool(s.view) for s in told.samples[4:])}" in told.notes[-1]


def test_a_raw_image_gives_way_once_its_view_is_told(tmp_path: Path) -> None:
    for n, intent in enumerate(("FOR PRESENTATION", "FOR PROCESSING")):
        known = {"Modality": "MG", "SOPInstanceUID": f"1.2.{n}", "StudyInstanceUID": "1.9"}
        known |= {"PresentationIntentType": intent, "PatientID": "p"}
        (tmp_path / str(n)).write_bytes(file(dataset(render(films(1, 41)[1], 512), **known)))
    archive = read_archive(tmp_path)
    assert len(archive.samples) == 2
    told = complete(archive)
    assert [s.path.name for s in told.samples] == ["0"]
    assert any("left out: the same view is there" in note for note in told.notes)

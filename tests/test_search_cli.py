"""``embedstore search`` and ``index`` as they are typed: every way to ask, against numpy."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import dicom_archive as dicom
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread

from embedstore.backbones import load_backbone
from embedstore.cli import _run
from embedstore.store import Store


class Films:
    """Phantoms of 10 patients in a store of two backbones, and unit vectors by phantom-clip."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "s.zarr"
        films = str(folder / "films")
        assert _run(["phantoms", films, "--patients", "10", "--size", "128"], False) == 0
        extract = ["extract", f"{films}/manifest.csv", "--store", str(self.path)]
        both = ["--backbone", "phantom-clip", "--backbone", "statistics", "--patient-ids", "keep"]
        assert _run([*extract, *both], False) == 0
        self.store = Store.open(self.path)
        self.table = self.store.table("phantom-clip")
        vectors = self.store.vectors("phantom-clip").astype(np.float64)
        self.unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.ids = self.table["id"].to_list()
        self.patients = self.table["group"].to_list()

    def best(self, query: np.ndarray, k: int, without: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
        order = np.argsort(-(self.unit @ query))
        return [self.ids[j] for j in order if self.patients[j] not in without][:k]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films(tmp_path_factory.mktemp("films"))


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = _run([str(a) for a in arguments], False)
    output = capsys.readouterr()
    return code, output.out, output.err


def asked(films: Films, capsys: pytest.CaptureFixture[str], *options: object) -> Any:
    words = ("search", films.path, "--backbone", "phantom-clip", *options, "--json")
    code, out, err = told(capsys, *words)
    assert code == 0, err
    return json.loads(out)["queries"]


def ids(query: Any) -> list[str]:
    return [case["id"] for case in query["cases"]]


def test_several_images_are_one_query_by_their_mean(films, capsys) -> None:
    mine = [j for j, patient in enumerate(films.patients) if patient == films.patients[0]]
    words = [w for j in mine for w in ("--id", films.ids[j])]
    (query,) = asked(films, capsys, *words, "-k", 5)
    assert ids(query) == films.best(films.unit[mine].mean(axis=0), 5, {films.patients[0]})


def test_a_file_of_the_store_finds_what_its_vector_finds(films, capsys) -> None:
    path = films.table["path"].to_list()[3]
    (query,) = asked(films, capsys, "--image", path, "-k", 6)
    # the very file, and so its patient, is left out without being named
    assert ids(query) == films.best(films.unit[3], 6, {films.patients[3]})
    (same,) = asked(films, capsys, "--image", path, "-k", 6, "--include-same-patient")
    assert ids(same) == [i for i in films.best(films.unit[3], 7) if i != films.ids[3]]


def test_a_changed_file_leaves_a_patient_out_that_is_named(films, capsys, tmp_path) -> None:
    film = np.array(Image.open(films.table["path"].to_list()[3]))
    film[0, 0] ^= 1
    new = tmp_path / "new.png"
    Image.fromarray(film).save(new)
    (query,) = asked(films, capsys, "--image", new, "-k", 1)
    assert ids(query) == [films.ids[3]]
    name = films.patients[3]
    (apart,) = asked(films, capsys, "--image", new, "-k", 36, "--patient", name)
    assert name not in {case["patient"] for case in apart["cases"]}
    code, _, err = told(
        capsys,
        *("search", films.path, "--backbone", "phantom-clip"),
        *("--image", new, "--patient", "nobody"),
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "no patient 'nobody'" in err


def test_words_find_what_the_models_text_side_is_nearest_to(films, capsys) -> None:
    sentences = ["an extremely dense breast", "almost no fat"]
    with torch.inference_mode():
        vectors = load_backbone("phantom-clip").encode_text(sentences).double().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    words = [w for s in sentences for w in ("--text", s)]
    # without --backbone: one of the two has a text side
    code, out, err = told(capsys, "search", films.path, *words, "-k", 8, "--json")
    assert code == 0, err
    (query,) = json.loads(out)["queries"]
    assert ids(query) == films.best(vectors.mean(axis=0), 8)
    code, _, err = told(capsys, "search", films.path, *words, "--backbone", "statistics")
    assert (code, err.count("\n")) == (1, 1)
    assert "statistics has no text side" in err


def test_vectors_of_a_file_are_a_query_each(films, capsys, tmp_path) -> None:
    queries = np.random.default_rng(0).standard_normal((3, films.unit.shape[1]))
    np.save(tmp_path / "q.npy", queries)
    found = asked(films, capsys, "--vectors", tmp_path / "q.npy", "-k", 4)
    assert [ids(query) for query in found] == [films.best(q, 4) for q in queries]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.array([{}], dtype=object), "not an array of numbers"),
        (np.array(["a"]), "not an array of numbers"),
        (np.zeros((0, 4)), r"holds an array \(0, 4\)"),
        (np.zeros((2, 2, 2)), r"holds an array \(2, 2, 2\)"),
        (np.ones((1, 4)), r"queries are \(1, 4\)"),
        (None, "not an array of numbers"),
    ],
)
def test_a_file_of_no_vectors_is_refused_in_a_line(films, capsys, tmp_path, content, said) -> None:
    file = tmp_path / "q.npy"
    file.write_bytes(b"\x93NUMPY nothing") if content is None else np.save(file, content)
    words = ("search", films.path, "--backbone", "phantom-clip", "--vectors", file)
    code, out, err = told(capsys, *words)
    assert (code, out, err.count("\n")) in {(1, "", 1), (2, "", 1)}
    assert re.search(said, err)


def test_agreement_and_chance_are_counted_over_other_patients(films, capsys) -> None:
    density = films.table["density"].cast(str).to_list()
    at = next(j for j, value in enumerate(density) if value not in ("None", ""))
    (query,) = asked(films, capsys, "--id", films.ids[at], "-k", 10, "--label", "density")
    (found,) = query["agreement"]
    known = dict(zip(films.ids, density, strict=True))
    near = [known[i] for i in ids(query)]
    others = [d for d, p in zip(density, films.patients, strict=True) if p != films.patients[at]]
    assert (found["value"], found["known"]) == (density[at], 10)
    assert found["share"] == pytest.approx(near.count(density[at]) / 10)
    assert found["chance"] == pytest.approx(others.count(density[at]) / len(others))
    (words,) = asked(films, capsys, "--text", "dense", "-k", 10, "--label", "density")
    (mix,) = words["agreement"]
    counted = Counter(known[i] for i in ids(words))
    assert {value: n for value, n, _ in mix["among"]} == counted
    for value, _, share in mix["among"]:
        assert share == pytest.approx(density.count(value) / len(density))


def test_not_like_those_moves_the_answer_and_leaves_their_patients_out(films, capsys) -> None:
    last = len(films.ids) - 1
    words = ("--id", films.ids[0], "--unlike", films.ids[last], "-k", 5)
    (query,) = asked(films, capsys, *words)
    expected = 2 * films.unit[0] - films.unit[last]
    assert ids(query) == films.best(expected, 5, {films.patients[0], films.patients[last]})


def test_the_page_shows_what_was_found_in_its_order(films, capsys, tmp_path) -> None:
    page = tmp_path / "like.html"
    words = ("--id", films.ids[0], "-k", 4, "--label", "density", "--html", page)
    (query,) = asked(films, capsys, *words)
    text = page.read_text()
    places = [text.index(f">{case['id']}<") for case in query["cases"] if f">{case['id']}<" in text]
    assert len(places) == 4
    assert places == sorted(places)
    assert text.count("data:image/png") == 5  # its own picture, and four
    code, _, err = told(
        capsys,
        *("search", films.path, "--backbone", "phantom-clip", *words[:-1], tmp_path / "x.gif"),
    )
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--id", "a", "--text", "b"], 2, "not --id and --text"),
        (["--text", "b", "--unlike", "a"], 2, "--unlike goes with --id and --exam"),
        (["--id", "a", "--patient", "p"], 2, "--patient says whose --image it is"),
        (["--exam", "nope"], 2, "no exam 'nope'"),
        (["--image", "nope.png"], 2, "nope.png: no such file"),
        (["--text", " "], 2, "--text is empty"),
        (["--text", "x", "--label", "nope"], 2, "no column 'nope'"),
        (["--text", "x", "--where", "__import__('os').system('true')"], 2, "a call is"),
        (["--text", "x", "--where", "nope == 1"], 2, "no column 'nope'"),
        (["--text", "x", "--where", "view == 'XCC'"], 1, "no image passes the filter"),
        (["--text", "x", "-k", "41"], 2, "k is 41; there are 40 images"),
        (["--text", "x", "--per", "breast"], 2, "--per is image, exam, patient; not 'breast'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(films, capsys, words, code, said) -> None:
    run = told(capsys, "search", films.path, "--backbone", "phantom-clip", *words)
    assert (run[0], run[1], run[2].count("\n")) == (code, "", 1), run
    assert said in run[2]


def test_an_image_that_cannot_be_read_is_told_with_the_reason(films, capsys, tmp_path) -> None:
    (tmp_path / "no.png").write_text("no image")
    words = ("search", films.path, "--backbone", "phantom-clip", "--image", tmp_path / "no.png")
    code, out, err = told(capsys, *words)
    assert (code, out) == (1, "")
    assert "not an image" in err
    assert "1 of 1 images cannot be used" in err


def test_the_index_is_said_kept_used_and_dropped(films, capsys, tmp_path) -> None:
    path = tmp_path / "s.zarr"
    shutil.copytree(films.path, path)
    words = (path, "--backbone", "phantom-clip")
    code, out, _ = told(capsys, "index", *words, "--kind", "Flat", "--json")
    made = json.loads(out)
    assert (code, made["kind"], made["done"], made["recall"]) == (0, "Flat", "built", 1.0)
    assert made["bytes"] >= 40 * films.unit.shape[1] * 4
    code, out, _ = told(capsys, "index", *words)
    assert re.search(r"kind\s+│ Flat", out)
    assert "as it was" in out
    assert re.search(r"recall@10 │ 1.0000 of 40 queries", out)
    assert re.search(r"memory\s+│ 0.0 MB", out)
    code, out, _ = told(capsys, "search", *words, "--id", films.ids[0], "-k", 3, "--json")
    assert json.loads(out)["index"] == "Flat"
    code, out, _ = told(
        capsys, "search", *words, "--id", films.ids[0], "-k", 3, "--exact", "--json"
    )
    assert json.loads(out)["index"] == "exact"
    assert told(capsys, "index", *words, "--drop")[1].endswith("the index is removed\n")
    assert told(capsys, "index", *words, "--drop")[1].endswith("there is no index\n")
    code, _, err = told(capsys, "index", *words, "--kind", "nonsense")
    assert (code, err.count("error:")) == (2, 1)


def test_a_dicom_query_leaves_its_patient_and_exam_as_a_hospital_names_them(
    tmp_path, capsys
) -> None:
    archive = dicom.Archive(tmp_path / "archive")
    for patient in range(5):
        for number, (side, view) in enumerate(dicom.VIEWS):
            archive.add(f"{patient}-{number}", dicom.image(patient, patient, number, side, view))
    new = archive.folder / "4-3"
    elsewhere = tmp_path / "new.dcm"
    new.rename(elsewhere)  # an image of patient 4 that the store has not got
    store = tmp_path / "s.zarr"
    extract = ["extract", str(archive.folder), "--backbone", "statistics", "--store", str(store)]
    assert _run(extract, False) == 0
    table = Store.open(store).table("statistics")
    assert len(table) == 19
    code, out, err = told(capsys, "search", store, "--image", elsewhere, "-k", 16, "--json")
    assert code == 0, err
    (query,) = json.loads(out)["queries"]
    assert len({case["patient"] for case in query["cases"]}) == 4
    study = str(dcmread(elsewhere, stop_before_pixels=True).StudyInstanceUID)
    (hidden,) = set(table["exam"]) - {case["exam"] for case in query["cases"]}
    code, out, err = told(
        capsys, "search", store, "--exam", study, "-k", 4, "--per", "exam", "--json"
    )
    assert code == 0, err
    (query,) = json.loads(out)["queries"]
    exams = [case["exam"] for case in query["cases"]]
    assert len(set(exams)) == 4
    assert hidden not in exams

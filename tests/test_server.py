"""What ``embedstore serve`` answers, over a socket, against numpy, scikit-learn and zarr."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image
from safetensors.numpy import load_file
from server_process import Films, Served
from sklearn.manifold import trustworthiness
from text_stores import said
from vector_stores import spec_of, unit, write

from embedstore.cli import _run
from embedstore.errors import UsageError

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


def ids(cases: Any) -> list[str]:
    return [case["id"] for case in cases]


def test_an_image_finds_what_numpy_finds_in_other_patients(films: Films, server: Served) -> None:
    answer = server.post("search", ids=[films.ids[5]], k=8).json
    others = films.others(films.patients[5])
    assert ids(answer["cases"]) == films.best(films.unit[5], 8, others)
    cosines = films.unit[[films.ids.index(i) for i in ids(answer["cases"])]] @ films.unit[5]
    np.testing.assert_allclose([c["similarity"] for c in answer["cases"]], cosines, atol=1e-5)


def test_the_same_patient_is_found_only_when_asked_for(films: Films, server: Served) -> None:
    answer = server.post("search", ids=[films.ids[5]], k=8, same_patient=True).json
    others = np.array(films.ids) != films.ids[5]
    assert ids(answer["cases"]) == films.best(films.unit[5], 8, others)
    assert films.patients[5] in {c["patient"] for c in answer["cases"]}


def test_unlike_pulls_the_query_away(films: Films, server: Served) -> None:
    like, unlike = films.ids[5], films.ids[20]
    answer = server.post("search", ids=[like], unlike=[unlike], k=5).json
    query = 2 * films.unit[5] - films.unit[20]
    others = films.others(films.patients[5]) & films.others(films.patients[20])
    assert ids(answer["cases"]) == films.best(query, 5, others)


def test_words_find_what_the_text_tower_s_own_vector_finds(films: Films, server: Served) -> None:
    sentences = ["an extremely dense breast", "a breast of dense tissue"]
    answer = server.post("search", text=sentences, k=7).json
    vectors = said(sentences).astype(np.float64)
    query = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
    assert ids(answer["cases"]) == films.best(query, 7)


def test_a_filter_and_one_a_patient_hold_inside_the_search(films: Films, server: Served) -> None:
    where = "view == 'MLO' and density in ['C', 'D']"
    answer = server.post("search", ids=[films.ids[0]], k=3, where=where, per="patient").json
    view, density = films.table["view"].to_numpy(), np.array(films.density)
    passing = films.others(films.patients[0]) & (view == "MLO") & np.isin(density, ["C", "D"])
    order = films.best(films.unit[0], len(films.ids), passing)
    firsts: dict[str, str] = {}
    for name in order:
        firsts.setdefault(films.patients[films.ids.index(name)], name)
    assert ids(answer["cases"]) == list(firsts.values())[:3]


def test_labels_are_compared_with_chance_among_other_patients(films: Films, server: Served) -> None:
    answer = server.post("search", ids=[films.ids[5]], k=10, label="density").json
    mine, others = films.density[5], films.others(films.patients[5])
    found = [films.density[films.ids.index(i)] for i in ids(answer["cases"])]
    assert [c["agrees"] for c in answer["cases"]] == [d == mine for d in found]
    share, chance = found.count(mine) / 10, np.mean(np.array(films.density)[others] == mine)
    (line,) = [s for s in answer["summary"] if s.startswith("density")]
    assert f"{found.count(mine)} of 10 neighbours" in line
    assert f"({share:.0%}); {chance:.0%} by chance" in line


def test_a_text_says_how_the_labels_of_its_neighbours_mix(films: Films, server: Served) -> None:
    answer = server.post("search", text=["a dense breast"], k=12).json
    found = Counter(films.density[films.ids.index(i)] for i in ids(answer["cases"]))
    (line,) = [s for s in answer["summary"] if s.startswith("density")]
    for value, n in found.items():
        assert f"{value} {n} ({films.density.count(value) / len(films.ids):.0%} of all)" in line


def test_a_file_of_the_store_finds_what_its_vector_finds(films: Films, server: Served) -> None:
    data = Path(films.table["path"][3]).read_bytes()
    answer = server.send("search", data, k=6).json
    # the very file is known by its bytes, and so its patient is left out
    assert ids(answer["cases"]) == films.best(films.unit[3], 6, films.others(films.patients[3]))


def test_a_new_file_is_embedded_and_shown_as_the_store_s_were(films: Films, server: Served) -> None:
    data = Path(films.table["path"][3]).read_bytes() + b"other bytes, the same picture"
    answer = server.send("search", data, k=3).json
    assert ids(answer["cases"]) == films.best(films.unit[3], 3)
    assert answer["cases"][0]["similarity"] == pytest.approx(1, abs=1e-4)
    shown = Image.open(io.BytesIO(base64.b64decode(answer["picture"].partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(shown), kept_pixels(films, 3))


def kept_pixels(films: Films, row: int) -> np.ndarray:
    """Read what the store keeps of a sample, by zarr alone."""
    group = zarr.open_group(films.path, mode="r")
    (kind,) = group[f"pixels/{films.spec.recipe.pixel_key}"].group_values()  # type: ignore[misc,union-attr,call-overload]
    rows = kind[1]["rows"][:] if isinstance(kind, tuple) else kind["rows"][:]
    values = kind[1]["values"] if isinstance(kind, tuple) else kind["values"]
    return np.asarray(values[int(np.flatnonzero(rows == row)[0])])


def test_a_patient_named_with_a_file_is_left_out(films: Films, server: Served) -> None:
    data = Path(films.table["path"][3]).read_bytes() + b"other bytes"
    patient = films.patients[3]
    answer = server.send("search", data, k=6, patient=patient).json
    assert ids(answer["cases"]) == films.best(films.unit[3], 6, films.others(patient))
    assert server.send("search", data, patient="nobody").status == 400


def test_a_picture_is_the_store_s_pixels(films: Films, server: Served) -> None:
    reply = server.get("picture", id=films.ids[7])
    assert reply.headers["content-type"] == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(reply.body)))
    np.testing.assert_array_equal(shown, kept_pixels(films, 7))


def test_a_sample_is_all_the_table_says_but_its_path(films: Films, server: Served) -> None:
    reply = server.get("sample", id=films.ids[7])
    row = films.table.row(7, named=True)
    known = {k: str(v) for k, v in row.items() if v is not None and k != "path"}
    assert reply.json["columns"] == known
    assert str(films.folder) not in reply.body.decode()


def test_a_probe_says_what_its_numbers_say(films: Films, server: Served) -> None:
    answer = server.post("predict", probe="density-probe", id=films.ids[9], k=4).json
    arrays = load_file(films.probe / "probe.safetensors")
    described = json.loads((films.probe / "probe.json").read_text())
    x = (films.vectors[9] - arrays["mean"]) / arrays["scale"]
    scores = (arrays["coef_"] @ x + arrays["intercept_"]) / described["temperature"]
    expected = np.exp(scores - scores.max())
    expected /= expected.sum()
    given = [answer["probabilities"][c] for c in described["classes"]]
    np.testing.assert_allclose(given, expected, atol=1e-4)
    assert answer["answer"] == described["classes"][int(expected.argmax())]


def test_cases_for_and_against_are_the_nearest_of_each(films: Films, server: Served) -> None:
    answer = server.post("predict", probe="density-probe", id=films.ids[9], k=4).json
    density, others = np.array(films.density), films.others(films.patients[9])
    for side, passing in (
        ("supporting", density == answer["answer"]),
        ("opposing", density != answer["answer"]),
    ):
        assert ids(answer[side]) == films.best(films.unit[9], 4, others & passing)


def test_an_uploaded_file_gets_the_same_prediction(films: Films, server: Served) -> None:
    data = Path(films.table["path"][9]).read_bytes()
    by_file = server.send("predict", data, probe="density-probe", k=4).json
    by_id = server.post("predict", probe="density-probe", id=films.ids[9], k=4).json
    # two ways to one vector: out of the store, and through reader and model
    for name, share in by_id["probabilities"].items():
        assert by_file["probabilities"][name] == pytest.approx(share, abs=1e-3)
    assert ids(by_file["supporting"]) == ids(by_id["supporting"])


@pytest.mark.parametrize("same", [False, True])
def test_an_uploaded_files_patient_is_left_out_unless_asked_for(
    films: Films, server: Served, same: bool
) -> None:
    data = Path(films.table["path"][9]).read_bytes()
    patient = films.patients[9]
    answer = server.send("search", data, k=6, patient=patient, same_patient=same).json
    copies = np.array(films.ids) == films.ids[9]
    passing = ~copies if same else films.others(patient)
    assert ids(answer["cases"]) == films.best(films.unit[9], 6, passing)


def test_two_sentences_divide_the_store_as_numpy_does(films: Films, server: Served) -> None:
    a, b = "an almost entirely fatty breast", "an extremely dense breast"
    answer = server.post("divide", a=a, b=b, label="density").json
    vectors = said([a, b]).astype(np.float64)
    pair = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    margin = films.unit @ (pair[0] - pair[1])
    assert (answer["a"], answer["b"]) == ((margin > 0).sum(), (margin <= 0).sum())
    density = np.array(films.density)
    for share in answer["shares"]:
        mine = margin[density == share["value"]]
        assert (share["a"], share["b"]) == ((mine > 0).sum(), (mine <= 0).sum())
        bars, _ = np.histogram(mine, answer["edges"])
        assert np.abs(np.array(share["bars"]) - bars).sum() <= 2  # edges are rounded
    order = np.argsort(-margin)
    assert ids(answer["most_a"]) == [films.ids[j] for j in order[:6]]
    assert ids(answer["most_b"]) == [films.ids[j] for j in order[::-1][:6]]


def test_a_filter_divides_only_what_passes(films: Films, server: Served) -> None:
    answer = server.post(
        "divide", a="a fatty breast", b="a dense breast", where="view == 'CC'"
    ).json
    assert answer["a"] + answer["b"] == (films.table["view"] == "CC").sum()


def ready(server: Served, **values: str) -> Any:
    for _ in range(300):
        found = server.get("map", **values).json
        if found["state"] != "working":
            return found
        time.sleep(0.1)
    raise AssertionError("no map in 30 s")


def test_the_map_keeps_neighbours_together(films: Films, server: Served) -> None:
    found = ready(server, label="density")
    assert found["state"] == "ready"
    assert found["ids"] == films.ids
    assert found["values"] == films.density
    points = np.stack([found["x"], found["y"]], axis=1)
    assert np.abs(points).max() <= 1
    assert trustworthiness(films.unit, points, n_neighbors=5) > 0.9


def test_a_later_commit_is_seen_without_a_restart(films: Films, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    shutil.copytree(films.path, path)
    server = Served(path)
    try:
        first = server.post("search", ids=[films.ids[0]], k=3).json
        patient = first["cases"][0]["patient"]
        assert _run(["delete", str(path), "--patient", patient], False) == 0
        second = server.post("search", ids=[films.ids[0]], k=3).json
        passing = films.others(films.patients[0]) & films.others(patient)
        assert ids(second["cases"]) == films.best(films.unit[0], 3, passing)
        assert second["commit"] > first["commit"]
        gone = films.ids[films.patients.index(patient)]
        assert server.get("picture", id=gone).status == 404
        assert server.get("sample", id=gone).status == 404
    finally:
        server.stop()


def test_without_kept_pictures_files_are_read_only_when_asked_for(
    films: Films, tmp_path: Path
) -> None:
    path, manifest = tmp_path / "s.zarr", tmp_path / "films.csv"
    film = tmp_path / "film.png"
    shutil.copy(films.table["path"][0], film)
    other = tmp_path / "other.png"
    shutil.copy(films.table["path"][5], other)
    manifest.write_text(f"image,patient\n{film},p0\n{other},p1\n")
    extract = ["extract", str(manifest), "--store", str(path), "--backbone", "phantom-clip"]
    assert _run(extract, False) == 0
    name = server_ids(path)[0]
    without = Served(path)
    try:
        refused = without.get("picture", id=name)
        assert refused.status == 404
        assert "--keep-pixels" in refused.json["error"]
    finally:
        without.stop()
    reading = Served(path, read_files=True)
    try:
        shown = np.asarray(Image.open(io.BytesIO(reading.get("picture", id=name).body)))
        np.testing.assert_array_equal(shown, kept_pixels(films, 0))
        # the store names a file that now holds something else: a secret, say
        other.write_bytes(Path(films.table["path"][9]).read_bytes())
        changed = reading.get("picture", id=server_ids(path)[1])
        assert changed.status == 404
        assert "changed" in changed.json["error"]
        assert str(tmp_path) not in changed.json["error"]
    finally:
        reading.stop()


def server_ids(path: Path) -> list[str]:
    group = zarr.open_group(path, mode="r")
    return [str(v) for v in np.asarray(group["samples/id"][:])]  # type: ignore[index]


@pytest.mark.parametrize(
    ("asked", "status", "said_"),
    [
        ({"ids": ["nobody"]}, 404, "no image 'nobody'"),
        ({}, 400, "give ids or text"),
        ({"ids": ["x"], "text": ["y"]}, 400, "one of the two"),
        ({"text": ["y"], "unlike": ["x"]}, 400, "unlike goes with ids"),
        ({"text": ["y"], "where": "view = 'CC'"}, 400, "filter"),
        ({"text": ["y"], "where": "__import__('os')"}, 400, "filter"),
        ({"text": ["y"], "where": "weight > 3"}, 400, "no column 'weight'"),
        ({"text": ["y"], "label": "weight"}, 400, "no column 'weight'"),
        ({"text": ["y"], "backbone": "vgg"}, 400, "no embeddings of 'vgg'"),
        ({"text": ["y"], "k": 0}, 422, "k: "),
        ({"text": ["y"], "k": 200}, 400, "k is 200"),
        ({"text": [" "]}, 422, "text"),
        ({"text": ["word " * 300]}, 400, "tokens"),
        ({"text": ["y"], "colour": "red"}, 422, "colour"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    films: Films, server: Served, asked: dict[str, object], status: int, said_: str
) -> None:
    reply = server.post("search", **asked)
    assert str(films.folder) not in reply.body.decode()
    assert reply.status == status
    assert set(reply.json) == {"error"}
    assert said_ in reply.json["error"]
    assert "\n" not in reply.json["error"]


def test_what_is_no_json_is_said_to_be_none(server: Served) -> None:
    sent = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    reply = server.raw("POST", "/api/search", b'{"k": secret}', sent)
    assert reply.status == 422
    assert "the body is not JSON: " in reply.json["error"]
    assert "at character 6" in reply.json["error"]
    assert "secret" not in reply.json["error"]


def test_words_for_vectors_without_a_text_side_are_a_wrong_request() -> None:
    from embedstore.server.models import Models
    from embedstore.server.problems import status_of

    models = Models({}, "cpu")
    with pytest.raises(UsageError, match="texture has no text side") as caught:
        models.text(spec_of(8), ["dense"])
    models.close()
    assert status_of(caught.value) == 400


def test_other_machines_are_refused_unless_told(
    films: Films, capsys: pytest.CaptureFixture[str]
) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "myhost"):
        assert _run(["serve", str(films.path), "--host", host], False) == 2
        assert "--expose" in capsys.readouterr().err


def test_without_its_packages_it_says_what_to_install(films: Films) -> None:
    code = (
        "import sys; sys.modules['fastapi'] = None; sys.argv = ['embedstore', 'serve', 'S.zarr']\n"
        "from embedstore.cli import main; main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert "pip install 'embedstore[serve]'" in run.stderr


def test_a_probe_of_other_vectors_and_a_port_that_is_taken_are_refused(
    films: Films, server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "other.zarr", unit(0, 8, 4))
    for path, options, said_ in (
        (tmp_path / "other.zarr", ["--port", "0", "--probe", str(films.probe)], "takes vectors of"),
        (films.path, ["--port", str(server.port)], "another --port"),
        (tmp_path / "none.zarr", ["--port", str(server.port)], "no such store"),
        (films.path, ["--port", "0", "--model", "vgg=biomedclip"], "there are phantom-clip"),
        (films.path, ["--port", "0", "--model", "biomedclip"], "BACKBONE=NAME"),
    ):
        assert _run(["serve", str(path), *options], False) in {1, 2}
        assert said_ in " ".join(capsys.readouterr().err.split())

"""``embedstore retrieve-eval`` on whole stores, and texts against the model asked one by one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import label_ranking_average_precision_score
from toy_stores import ONE, TWO, toys, write

from embedstore.backbones import load_backbone
from embedstore.cli import _run
from embedstore.retrieval.texts import AskedTexts, judge_texts
from embedstore.store import Store

SENTENCES = {c: f"a mammogram of a breast of density {c}" for c in "ABCD"}


@pytest.fixture(scope="module")
def clip():
    return load_backbone("phantom-clip")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, clip) -> Path:
    """60 samples of 15 patients: all have ONE, the last four no TWO, the first two no label."""
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    samples = [
        replace(
            toy,
            labels={
                "density": "" if i < 2 else "AABD"[i % 4],
                "said": "" if i < 2 else f"{SENTENCES['ABCD'[i % 4]]}{', seen twice' * (i % 3)}",
                "every": f"film number {i}",
            },
            specs=(ONE, TWO, clip.spec) if i < 56 else (ONE, clip.spec),
        )
        for i, toy in enumerate(toys(60, failed=False))
    ]
    write(path, samples)
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = _run(["retrieve-eval", *map(str, arguments)], debug=False)
    return code, *capsys.readouterr()


def test_json_csv_and_table_say_the_same(store, tmp_path, capsys) -> None:
    file = tmp_path / "queries.csv"
    asked = (store, "--label", "density", "-k", "5,1", "--backbone", "one", "--backbone", "two")
    code, out, _ = told(capsys, *asked, "--json", "--per-query", file)
    assert code == 0
    found = json.loads(out)
    rows = pl.read_csv(file)
    labels = dict(
        zip(*(Store.open(store).column(n).tolist() for n in ("id", "density")), strict=True)
    )
    for report in found["reports"]:
        assert (report["n_candidates"], report["n_queries"], report["n_patients"]) == (54, 54, 14)
        assert "4 images without a vector of each backbone left out" in report["notes"]
        assert "2 images without density left out" in report["notes"]
        mine = rows.filter(pl.col("key") == report["spec"]["key"])
        assert [labels[i] for i in mine["id"]] == mine["label"].to_list()
        neighbours = mine.select(pl.col("^neighbour_.*$")).to_numpy()
        assert neighbours.shape == (54, 5)
        right = neighbours == mine["label"].to_numpy()[:, None]
        assert mine["precision@5"].to_list() == pytest.approx(right.mean(axis=1), abs=1e-5)
        for name in ("precision@1", "precision@5", "map@5", "r_precision", "ndcg@5", "mrr"):
            assert report["metrics"][name]["value"] == pytest.approx(mine[name].mean(), abs=1e-5)
    (against,) = found["differences"]
    one, two = (r["metrics"]["macro map"]["value"] for r in found["reports"])
    assert against["name"] == "two"
    assert against["differences"]["macro map"]["value"] == pytest.approx(two - one)
    code, out, _ = told(capsys, *asked)
    assert code == 0
    for report in found["reports"]:
        assert f"{report['metrics']['precision@5']['value']:.3f}" in out
        assert f"chance {report['metrics']['precision@5']['floor']:.3f}" in out
    assert "54 images of 14 patients as queries" in " ".join(out.split())
    assert "difference to one" in out


def test_a_leak_is_said_in_the_table(store, capsys) -> None:
    asked = (store, "--label", "density", "--backbone", "one")
    assert "SAME PATIENT" in told(capsys, *asked, "--include-same-patient")[1]
    assert "SAME PATIENT" not in told(capsys, *asked)[1]


def test_drawn_queries_and_graded_gains_are_said_in_the_table(store, capsys) -> None:
    asked = (store, "--label", "density", "--backbone", "one", "--order", "A,B,D")
    code, out, _ = told(capsys, *asked, "--queries", "20", "--seed", "3")
    assert code == 0
    words = " ".join(out.split())
    assert "drawn at random with seed 3: 20 of 58 queries" in words
    assert "falling evenly with the distance in A, B, D" in words


def test_per_query_file_is_not_written_over_without_force(store, tmp_path, capsys) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("mine")
    asked = (store, "--label", "density", "--backbone", "one", "--per-query", file)
    code, _, err = told(capsys, *asked)
    assert code == 2
    assert "is there already" in err
    assert file.read_text() == "mine"
    assert told(capsys, *asked, "--force")[0] == 0
    assert file.read_text().startswith("backbone,key,id,label,precision@10")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --label COLUMN, --text COLUMN, or both"),
        (("--label", "nope"), "no column 'nope'; there are density, every, said"),
        (("--text", "nope"), "no column 'nope'"),
        (("--label", "id"), "--label id says who an image is of"),
        (("--label", "density", "-k", "0"), "-k takes whole numbers from 1 up"),
        (("--label", "density", "-k", "5,,1"), "not '5,,1'"),
        (("--label", "density", "-k", "55"), "-k 55: image 'image-0004' has 54 images of other"),
        (("--label", "density", "--level", "vendor"), "--level is image, view, breast"),
        (("--label", "density", "--text", "said", "--level", "exam"), "--text is of images"),
        (("--text", "said", "--order", "A,B"), "--order is of a --label"),
        (("--text", "said", "--per-query", "a.csv"), "--per-query is of a --label"),
        (("--label", "density", "--text-backbone", "x"), "--text-backbone reads the sentences"),
        (("--text", "said"), "--text: one has no text side"),
        (("--text", "said", "--backbone", "phantom-clip", "-k", "59"), "there are 58 images with"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_else(store, arguments, message, capsys):
    backbone = () if "--backbone" in arguments else ("--backbone", "one")
    code, out, err = told(capsys, store, *arguments, *backbone)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_texts_and_images_find_each_other_as_asked_one_by_one(store, clip, capsys) -> None:
    code, out, _ = told(capsys, store, "--text", "said", "-k", "1,3,20", "--json")
    assert code == 0
    (report,) = json.loads(out)["texts"]
    opened = Store.open(store)
    embeddings = opened.read(clip.spec)
    said = embeddings.columns["said"]
    known = said != ""
    said, images = said[known], embeddings.vectors[known].astype(np.float64)
    distinct = sorted(set(said.tolist()))
    texts = np.concatenate([clip.encode_text([t]).detach().numpy() for t in distinct]).astype(float)
    cosine = texts @ images.T
    cosine /= np.linalg.norm(texts, axis=1)[:, None] * np.linalg.norm(images, axis=1)
    own = np.array(distinct)[:, None] == said
    for way, relevant, score in (
        ("text_to_image", own, cosine),
        ("image_to_text", own.T, cosine.T),
    ):
        found = report[way]["metrics"]
        order = np.argsort(-score, axis=1)
        ranks = np.take_along_axis(relevant, order, axis=1).argmax(axis=1) + 1
        assert (report[way]["n_queries"], report[way]["n_candidates"]) == relevant.shape
        assert found["median_rank"]["value"] == np.median(ranks)
        assert found["mrr"]["value"] == pytest.approx((1 / ranks).mean())
        for k in (1, 3):
            assert found[f"recall@{k}"]["value"] == pytest.approx((ranks <= k).mean())
        expected = label_ranking_average_precision_score(relevant, score)
        assert found["map"]["value"] == pytest.approx(expected)
    # each image has one text: what a random order gets is plain
    floors = {n: s["floor"] for n, s in report["image_to_text"]["metrics"].items()}
    t = len(distinct)
    assert floors["recall@3"] == pytest.approx(3 / t)
    assert floors["median_rank"] == pytest.approx((t + 1) / 2)
    assert floors["mrr"] == pytest.approx(sum(1 / i for i in range(1, t + 1)) / t)
    assert "recall@20" not in report["image_to_text"]["metrics"]
    assert f"there are {t} texts, so images ask for theirs to k = 3 only" in report["notes"]
    assert {"one has no text side", "two has no text side"} <= set(report["notes"])


def test_texts_that_share_patients_are_drawn_together(store, clip) -> None:
    embeddings = Store.open(store).read(clip.spec)
    shared = judge_texts(embeddings, clip, AskedTexts("said"))
    # texts come again every 12 images, and a patient has 4: sets of 4 texts
    assert (shared.text_to_image.n_queries, shared.text_to_image.n_drawn) == (12, 3)
    assert all(np.isnan(s.low) for s in shared.text_to_image.metrics.values())
    assert not any(np.isnan(s.low) for s in shared.image_to_text.metrics.values())
    assert any(note.startswith("no interval for texts as queries") for note in shared.notes)
    own = judge_texts(embeddings, clip, AskedTexts("every"))
    assert (own.text_to_image.n_queries, own.text_to_image.n_drawn) == (60, 15)
    score = own.text_to_image.metrics["recall@10"]
    assert score.floor == pytest.approx(10 / 60)
    assert score.low <= score.value <= score.high


def test_the_text_table_has_values_and_chance(store, capsys) -> None:
    asked = (store, "--text", "every", "--backbone", "phantom-clip", "-k", "5", "--queries", "12")
    code, out, _ = told(capsys, *asked)
    assert code == 0
    assert "12 to 60" in out
    assert f"chance {5 / 60:.3f}" in out
    assert "median rank" in out
    assert "not all asked" in out

"""Fitted probes on the disk, what they answer to new vectors, and how sure they are."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.ensemble import RandomForestClassifier
from test_evaluate import cohort

from embedstore.backbones import load_backbone
from embedstore.calibration import apply_temperature, fit_temperature
from embedstore.cli import _run
from embedstore.errors import SpecMismatch, UsageError
from embedstore.evaluate import final, judge
from embedstore.heads import Head, load_heads
from embedstore.predict import predictions
from embedstore.protocol import Protocol
from embedstore.saved import SavedProbe, load
from embedstore.store import Store
from embedstore.types import Embeddings

HEADS = ["logistic", "knn", "mlp", "ordinal", "prototype", "sklearn.naive_bayes:GaussianNB"]


def saved(embeddings: Embeddings, head: Head, how: Protocol | None = None) -> SavedProbe:
    how = how or Protocol()
    trial = judge(embeddings, "y", head, head.name, how)
    fitted, temperature = final(trial, how)
    return SavedProbe(
        head.where,
        fitted,
        embeddings.spec,
        "float32",
        "y",
        trial.report.classes,
        temperature,
        trial.report,
    )


@pytest.mark.parametrize("name", HEADS)
def test_a_loaded_probe_answers_bit_for_bit_as_the_one_that_was_saved(
    name: str, tmp_path: Path
) -> None:
    embeddings = cohort(seed=2)
    probe = saved(embeddings, load_heads([name])[0])
    probe.save(tmp_path / "p")
    again = load(tmp_path / "p")
    np.testing.assert_array_equal(again.predict(embeddings), probe.predict(embeddings))
    assert json.dumps(again.report.to_dict()) == json.dumps(probe.report.to_dict())
    assert again.classes == ("a", "b", "c")
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"probe.json", "probe.safetensors"}


def test_answers_are_those_of_the_head_on_all_images_tempered() -> None:
    embeddings = cohort(seed=2)
    probe = saved(embeddings, load_heads(["logistic"])[0])
    x = np.asarray(embeddings.vectors, np.float64)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    logits = scaled @ probe.fitted.head.coef_.T + probe.fitted.head.intercept_
    expected = np.exp(log_softmax(logits / probe.temperature, axis=1))
    np.testing.assert_allclose(probe.predict(embeddings), expected, atol=1e-4)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_found_is_the_one_of_least_log_loss(true: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 4))
    p = np.exp(log_softmax(logits, axis=1))
    truth = np.array([rng.choice(4, p=row) for row in p])
    said = np.exp(log_softmax(logits * true, axis=1))  # too sure, or not sure enough
    found = fit_temperature(said, truth)

    def loss(t: np.ndarray) -> float:
        return -float(log_softmax(logits * true / t[0], axis=1)[np.arange(4000), truth].mean())

    best = minimize(loss, [1.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12})
    assert found == pytest.approx(best.x[0], rel=1e-3)
    assert found == pytest.approx(true, rel=0.1)
    np.testing.assert_allclose(
        apply_temperature(said, found),
        np.exp(log_softmax(logits * true / found, axis=1)),
        atol=1e-9,
    )


def test_a_class_never_answered_stays_finite() -> None:
    answers = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    temperature = fit_temperature(answers, np.array([0, 1, 1]))
    assert np.isfinite(apply_temperature(answers, temperature)).all()


def test_vectors_of_another_spec_are_refused_by_name(tmp_path: Path) -> None:
    embeddings = cohort(seed=2)
    saved(embeddings, load_heads(["logistic"])[0]).save(tmp_path / "p")
    other = replace(embeddings, spec=replace(embeddings.spec, pooling="other"))
    with pytest.raises(SpecMismatch, match="pooling is '' in one and 'other' in the other"):
        load(tmp_path / "p").predict(other)


def test_what_only_pickle_could_keep_is_not_saved(tmp_path: Path) -> None:
    head = Head("forest", RandomForestClassifier, "sklearn.ensemble:RandomForestClassifier")
    probe = saved(cohort(), Head(head.name, head.make, head.where, {"n_estimators": 3}))
    with pytest.raises(UsageError, match="cannot be saved without pickling: estimator"):
        probe.save(tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("where", ["file", "module"])
def test_no_code_runs_because_a_folder_says_so(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = cohort(seed=2)
    probe = saved(embeddings, load_heads(["sklearn.naive_bayes:GaussianNB"])[0])
    probe.save(tmp_path / "p")
    described = json.loads((tmp_path / "p/probe.json").read_text())
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    described["head"] = f"{tmp_path}/evil.py:Evil" if where == "file" else "evil:Evil"
    (tmp_path / "p/probe.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match="give --head"):
        load(tmp_path / "p")
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_probes_names_them(tmp_path: Path) -> None:
    for name in ("statistics-logistic", "clip-logistic"):
        saved(cohort(seed=2), load_heads(["logistic"])[0]).save(tmp_path / "P" / name)
    with pytest.raises(UsageError, match="P: is no probe, but holds some: .*/P/clip-logist"):
        load(tmp_path / "P")


@pytest.mark.parametrize("damage", ["json", "arrays", "missing", "format", "nothing"])
def test_a_damaged_probe_is_one_line(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    if damage != "nothing":
        saved(cohort(), load_heads(["logistic"])[0]).save(folder)
    if damage == "json":
        (folder / "probe.json").write_text("{")
    if damage == "arrays":
        (folder / "probe.safetensors").write_bytes(b"1234567890")
    if damage == "missing":
        arrays = load_file(folder / "probe.safetensors")
        del arrays["coef_"]
        save_file(arrays, folder / "probe.safetensors")
    if damage == "format":
        text = (folder / "probe.json").read_text()
        (folder / "probe.json").write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(UsageError, match="p: "):
        load(folder)


def test_an_exam_is_the_mean_of_its_images() -> None:
    embeddings = cohort(seed=2)
    exams = np.array([f"e{i // 4}" if i > 3 else "" for i in range(len(embeddings))])
    with_exams = replace(embeddings, columns={**embeddings.columns, "exam": exams})
    probe = saved(embeddings, load_heads(["logistic"])[0])
    each, every = probe.predict(with_exams), predictions(probe, with_exams, "exam")
    for i, name in enumerate(every.ids):
        np.testing.assert_allclose(every.probabilities[i], each[exams == name].mean(axis=0))
        assert every.images[i] == (exams == name).sum() == 4
    assert "" not in every.ids.tolist()
    with pytest.raises(UsageError, match="no image has an exam"):
        predictions(probe, embeddings, "exam")


def test_the_command_gives_new_images_what_the_store_gave(
    films: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, probe = tmp_path / "s.zarr", tmp_path / "p"
    backbone = "timm:test_vit@random"
    begin = ["extract", str(films), "--store", str(store), "--backbone", backbone]
    assert _run([*begin, "--batch-size", "4"], False) == 0
    said = ["probe", str(store), "--label", "tissue", "--folds", "2", "--save", str(probe)]
    assert _run(said, False) == 0
    assert _run(said, False) == 2
    assert "is there already" in capfd.readouterr().err
    assert _run([*said, "--force"], False) == 0
    capfd.readouterr()
    for source, more in ((store, []), (films, ["--backbone", backbone])):
        out = tmp_path / f"of-{source.stem}.csv"
        assert _run(["predict", str(probe), str(source), "--out", str(out), *more], False) == 0
    assert capfd.readouterr().out.count("note, of the probe's own scores: 6 patients: ") == 2
    kept = films.read_bytes()
    onto = ["predict", str(probe), str(store), "--out", str(films)]
    assert _run(onto, False) == 2
    assert "is there already" in capfd.readouterr().err
    assert films.read_bytes() == kept
    texts = [(tmp_path / f"of-{name}.csv").read_text() for name in ("s", films.stem)]
    tables = [list(csv.DictReader(text.splitlines())) for text in texts]
    assert [r["id"] for r in tables[0]] == Store.open(store).column("id").tolist()
    for one, other in zip(*tables, strict=True):
        assert one["answer"] == other["answer"]
        for name in (n for n in one if n.startswith("p_")):
            assert float(one[name]) == pytest.approx(float(other[name]), abs=1e-4)
    capfd.readouterr()
    assert _run(["predict", str(probe), str(store), "--json"], False) == 0
    shown = json.loads(capfd.readouterr().out)
    assert sum(shown[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_exams_are_asked_for_before_anything_is_embedded(
    films: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    probe = tmp_path / "p"
    saved(cohort(seed=2), load_heads(["logistic"])[0]).save(probe)
    capfd.readouterr()
    assert _run(["predict", str(probe), str(films), "--by", "exam"], False) == 2
    said = capfd.readouterr().err
    assert "no image has an exam" in said
    assert "extracting" not in said


def test_new_images_by_another_model_are_refused(
    films: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, probe = tmp_path / "s.zarr", tmp_path / "p"
    _run(["extract", str(films), "--store", str(store), "--backbone", "statistics"], False)
    _run(["probe", str(store), "--label", "tissue", "--folds", "2", "--save", str(probe)], False)
    more = ["--backbone", "timm:test_vit@random"]
    assert _run(["predict", str(probe), str(films), *more], False) == 1
    assert "cannot be mixed" in capfd.readouterr().err
    assert load_backbone("statistics").spec.key == load(probe).spec.key

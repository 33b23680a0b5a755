"""The bundled model: loads offline, knows its words, and tells densities apart on new phantoms."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from embedstore.backbones import load_backbone
from embedstore.finetune.objectives import contrastive_loss
from embedstore.images.recipe import apply
from embedstore.phantomclip import FOLDER, train
from embedstore.phantomclip.sentences import TRAINED, class_texts, draw
from embedstore.phantomclip.zeroshot import class_vectors, image_vectors, probabilities
from embedstore.phantoms import DENSITIES, films, render
from embedstore.types import Backbone

TEXTS = [
    "The breasts are heterogeneously dense, which may obscure small masses.",
    "Almost entirely fatty breasts",
    "Craniocaudal mammogram of the left breast with scattered fibroglandular density",
    "No suspicious calcifications were seen in the upper outer quadrant.",
    "The radiologist described an extremely dense parenchyma on both oblique views.",
]


@pytest.fixture(scope="module")
def bundled() -> Backbone:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        return load_backbone(str(FOLDER))


@pytest.fixture(scope="module")
def seen(bundled: Backbone) -> tuple[NDArray[np.floating[Any]], NDArray[np.str_]]:
    """Return vectors and densities of 60 films of patients from a collection never trained on."""
    listed = films(15, seed=424_242)
    vectors = image_vectors(bundled, [render(film, 256) for film in listed])
    return vectors, np.array([film.density for film in listed])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Return open_clip's own model and tokenizer, from a copy whose configuration names itself."""
    copy = tmp_path_factory.mktemp("open_clip") / "model"
    shutil.copytree(FOLDER, copy)
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": str(copy), "hf_tokenizer_name": str(copy)}
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    name = f"local-dir:{copy}"
    return open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)


def test_folder_is_small_and_says_what_it_is() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8_000_000
    card = (FOLDER / "MODEL_CARD.md").read_text()
    assert "synthetic" in card
    assert "not for clinical use" in card


def test_tokenizer_knows_the_words(bundled: Any) -> None:
    inner = bundled.tokenizer.tokenizer
    for text in TEXTS:
        ids = inner(text, add_special_tokens=False).input_ids
        words = text.lower().replace(".", " .").replace(",", " ,").split()
        assert ids.count(inner.unk_token_id) == 0
        assert len(ids) <= len(words) / 0.9, inner.convert_ids_to_tokens(ids)


@pytest.mark.parametrize(("held_out", "least"), [(False, 0.90), (True, 0.80)])
def test_zero_shot_density_of_new_patients(
    bundled: Backbone,
    seen: tuple[NDArray[np.floating[Any]], NDArray[np.str_]],
    held_out: bool,
    least: float,
) -> None:
    vectors, truth = seen
    shares = probabilities(vectors, class_vectors(bundled, held_out))
    assert roc_auc_score(truth, shares, multi_class="ovr", labels=list(DENSITIES)) >= least


def test_image_vectors_are_open_clips(bundled: Backbone, reference: tuple[Any, Any]) -> None:
    image = torch.from_numpy(apply(bundled.spec.recipe, render(films(1, seed=7)[0], 256)))[None]
    with torch.inference_mode():
        torch.testing.assert_close(bundled.encode_image(image), reference[0].encode_image(image))


def test_text_vectors_are_open_clips(bundled: Backbone, reference: tuple[Any, Any]) -> None:
    model, tokenizer = reference
    with torch.inference_mode():
        torch.testing.assert_close(bundled.encode_text(TEXTS), model.encode_text(tokenizer(TEXTS)))


def test_no_held_out_wording_is_ever_drawn() -> None:
    rng = np.random.default_rng(0)
    drawn = {part.strip(" .") for _ in range(4000) for part in _clauses(draw(rng).text)}
    new = {text for density in DENSITIES for text in class_texts(density, held_out=True)}
    old = {text for density in DENSITIES for text in class_texts(density)}
    assert not new & old
    assert not new & drawn
    assert len(old & drawn) > 0.5 * len(old)


def _clauses(text: str) -> list[str]:
    return [text, *(p for joint in (". ", "; ", " - ") for p in text.split(joint))]


def test_every_density_has_its_own_wordings() -> None:
    wordings = [w for d in DENSITIES for w in (*TRAINED[d].adjectives, *TRAINED[d].nouns)]
    assert len(wordings) == len(set(wordings))


def test_loss_is_clips_where_each_picture_has_one_sentence() -> None:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    own = torch.eye(6, dtype=torch.bool)
    target = torch.arange(6)
    entropy = torch.nn.functional.cross_entropy
    expected = (entropy(logits, target) + entropy(logits.T, target)) / 2
    torch.testing.assert_close(contrastive_loss(logits, own, torch.ones_like(own)), expected)


def test_a_sentence_about_the_unseen_counts_neither_way() -> None:
    pictures = torch.tensor([[0, 1, -1, -1], [0, 1, 1, 0]])  # cropped; whole film of a right breast
    sentences = torch.tensor([[0, -1, -1, -1], [0, -1, 0, -1], [3, -1, -1, -1], [-1, 1, 1, -1]])
    positive, known = train.compatible(pictures, sentences)
    assert positive.tolist() == [[True, False, False, False], [True, False, False, True]]
    assert known.tolist() == [[True, False, True, False], [True] * 4]


def test_a_batch_without_a_true_sentence_has_no_loss() -> None:
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    assert contrastive_loss(torch.rand(3, 3), nothing, ~nothing).item() == 0


def test_training_writes_a_folder_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    flags = ["--patients", "2", "--epochs", "1", "--batch", "6", "--workers", "1"]
    flags += ["--check-patients", "4"]
    monkeypatch.setattr(sys, "argv", ["train", "--out", str(out), *flags])
    train.main()
    assert load_backbone(str(out)).encode_text(TEXTS).shape == (5, 128)
    record = json.loads((out / "training.json").read_text())
    assert record["steps_done"] == 3
    assert all(np.isfinite(record["loss"]))

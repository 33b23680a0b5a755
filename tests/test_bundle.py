"""A bundle carries a model to a machine without internet, and proves itself there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from hub_folders import biomedclip_like, close, reference, write_tokenizer
from safetensors.torch import load_file, save_file

from embedstore.backbones import NOTE, load_backbone
from embedstore.backbones.bundle import bundle, read_note
from embedstore.backbones.catalogue import BIOMEDCLIP, entries, entry
from embedstore.backbones.verify import verify
from embedstore.errors import BackboneError, UsageError


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("carried")
    hub = biomedclip_like(folder / "hub")
    return bundle(str(hub), folder / "bundle")


@pytest.fixture
def copy(carried: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(carried, tmp_path / "copy"))


def differing(folder: Path) -> set[str]:
    return {c.part for c in verify(folder) if not c.ok}


def test_a_good_bundle_verifies_in_every_part(copy: Path) -> None:
    checks = verify(copy)
    assert [c for c in checks if not c.ok] == []
    parts = {c.part for c in checks}
    assert {"files", "decoding", "recipe", "weights", "tokenizer", "text vectors"} <= parts


def test_a_bundle_gives_open_clips_vectors(carried: Path, tmp_path: Path) -> None:
    hub = carried.parent / "hub"
    model, tokenizer = reference(hub, tmp_path / "reference")
    backbone = load_backbone(str(carried))
    batch = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        close(backbone.encode_image(batch), model.encode_image(batch))
        close(backbone.encode_text(["fatty"]), model.encode_text(tokenizer(["fatty"])))
    assert backbone.spec.key == load_backbone(str(hub)).spec.key


def test_a_bundle_is_safetensors_and_loads_in_plain_open_clip(copy: Path) -> None:
    assert not [*copy.glob("*.bin"), *copy.glob("*.pt")]
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = str(copy)
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.create_model(f"local-dir:{copy}")
    assert model.visual.head.proj.weight.shape == (32, 64)


def test_one_flipped_bit_of_weights_is_placed(copy: Path) -> None:
    file = copy / "open_clip_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 0x40
    file.write_bytes(data)
    found = differing(copy)
    assert {"files", "weights"} <= found
    assert not {"decoding", "recipe", "preprocessed images", "tokenizer"} & found


def test_another_tokenizer_is_placed(copy: Path) -> None:
    words = ["dense", "the", "are", "breasts", "extremely", "on", "this", "image", "fatty"]
    write_tokenizer(copy, words)
    found = differing(copy)
    assert {"files", "tokenizer"} <= found
    assert not {"decoding", "recipe", "weights", "image vectors", "text vectors"} & found


def test_another_resize_mode_is_placed(copy: Path) -> None:
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "squash"
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    checks = {c.part: c for c in verify(copy)}
    assert "plain.resize is 'squash', was 'centre-crop'" in checks["recipe"].seen
    wrong = {p for p, c in checks.items() if not c.ok}
    assert {"files", "recipe", "preprocessed images", "image to vector, plain"} <= wrong
    assert not {"decoding", "weights", "tokenizer", "image vectors", "text vectors"} & wrong


def test_a_bundle_that_no_longer_loads_says_why(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.txt").unlink()
    checks = {c.part: c for c in verify(copy)}
    assert "missing: tokenizer.json, vocab.txt" in checks["files"].seen
    assert "no tokenizer" in checks["loading"].seen


def test_a_timm_model_bundles_and_verifies(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = timm.create_model("test_convnext", num_classes=4).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    name = f"timm:test_convnext@{tmp_path / 'w.safetensors'}"
    folder = bundle(name, tmp_path / "bundle")
    assert differing(folder) == set()
    backbone = load_backbone(str(folder))
    batch = torch.rand(2, 3, *backbone.spec.recipe.size)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True)
        close(backbone.encode_image(batch), expected)
    assert backbone.spec.backbone == "test_convnext"
    assert load_file(folder / "model.safetensors").keys() <= model.state_dict().keys()


def test_an_open_clip_model_by_name_bundles_and_verifies(tmp_path: Path) -> None:
    folder = bundle("open_clip:ViT-S-32-alt@random", tmp_path / "bundle")
    assert differing(folder) == set()


def test_what_cannot_be_bundled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights to bundle"):
        bundle("statistics", tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        bundle("statistics", tmp_path / "full")
    with pytest.raises(BackboneError, match="not a bundle"):
        verify(tmp_path / "full")


def test_a_damaged_note_is_refused(copy: Path) -> None:
    (copy / NOTE).write_text("{")
    with pytest.raises(BackboneError, match="damaged"):
        read_note(copy)


OFFLINE = """
import json, os, sys
import torch, embedstore.backbones.openclip
from embedstore.backbones import load_backbone
for name in sys.argv[1:]:  # each in a process of its own, which has imported everything
    if not (child := os.fork()):
        b = load_backbone(name)
        size = b.spec.recipe.size
        wave = torch.arange(3 * size[0] * size[1]).reshape(1, 3, *size).remainder(97) / 97
        with torch.inference_mode():
            vectors = b.encode_image(wave), b.encode_text(["dense breasts"])
        print(json.dumps([v.tolist() for v in vectors]), flush=True)
        sys.exit()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, name
"""


def cut_off(names: list[str], home: Path, **environment: str) -> list[list[list[list[float]]]]:
    """Encode where there is no network: a namespace of its own with not even loopback up."""
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", OFFLINE]
    environment |= {"PATH": "/usr/bin:/bin", "HOME": str(home), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, *names], env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()[-len(names) :]]


def namespaces() -> bool:
    probe = ["unshare", "--user", "--map-root-user", "--net", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(probe).returncode == 0


needs_namespaces = pytest.mark.skipif(not namespaces(), reason="no network namespaces here")


@pytest.fixture(scope="module")
def expected(carried: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the picture and the sentence by open_clip alone."""
    model, tokenizer = reference(carried.parent / "hub", carried.parent / "reference")
    wave = torch.arange(3 * 160 * 160).reshape(1, 3, 160, 160).remainder(97) / 97
    with torch.inference_mode():
        text = model.encode_text(tokenizer(["dense breasts"]))
        return model.encode_image(wave).numpy(), text.numpy()


@needs_namespaces
def test_with_the_network_cut_folders_give_the_same_vectors(
    carried: Path, tmp_path: Path, expected: tuple[np.ndarray, np.ndarray]
) -> None:
    folders = [str(carried.parent / kind) for kind in ("bundle", "hub")]
    for folder, found in zip(folders, cut_off(folders, tmp_path), strict=True):
        for vectors, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(vectors, wanted, atol=1e-5, err_msg=folder)


@needs_namespaces
def test_with_the_network_cut_a_hub_cache_is_enough(
    carried: Path, tmp_path: Path, expected: tuple[np.ndarray, np.ndarray]
) -> None:
    repository = tmp_path / "cache" / f"models--{BIOMEDCLIP.replace('/', '--')}"
    shutil.copytree(carried.parent / "hub", repository / "snapshots" / "0123abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    (found,) = cut_off(["biomedclip"], tmp_path, HF_HUB_CACHE=str(tmp_path / "cache"))
    for vectors, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(vectors, wanted, atol=1e-5)


def test_the_catalogue_knows_what_it_lists() -> None:
    listed = {e.name: e for e in entries()}
    assert {"biomedclip", "convnext_tiny", "statistics"} <= listed.keys()
    assert (listed["biomedclip"].dim, listed["biomedclip"].licence) == (512, "MIT")
    for name in ("convnext_tiny", "convnext_base"):
        with torch.device("meta"):  # the shapes, without numbers to draw
            model = timm.create_model(name, num_classes=0)
        assert listed[name].dim == model.num_features
        assert listed[name].source.startswith("timm/convnext")
    assert entry("timm:resnet18").dim == 512

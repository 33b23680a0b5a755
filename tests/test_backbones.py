"""Vectors against what open_clip and timm give directly for the same weights and tensor."""

from __future__ import annotations

import json
import pickle
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from hub_folders import BERT, biomedclip_like, close, reference, write_tokenizer
from PIL import Image
from safetensors.torch import save_file

from embedstore.backbones import load_backbone, load_of, parse
from embedstore.errors import BackboneError, UnknownName, UsageError
from embedstore.images.recipe import RECIPES, apply
from embedstore.types import Backbone, Pixels


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((3, 3, 160, 160), dtype=np.float32))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def encode(backbone: Backbone, batch: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return backbone.encode_image(batch)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("weights", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
def test_a_folder_of_the_hub_page_alone_gives_open_clips_vectors(
    tmp_path: Path, batch: torch.Tensor, weights: str
) -> None:
    folder = biomedclip_like(tmp_path / "hub", weights)
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    backbone = load_backbone(f"biomedclip@{folder}")
    model, tokenizer = reference(folder, tmp_path / "copy")
    sentences = ["the breasts are extremely dense", "almost entirely fatty"]
    with torch.inference_mode():
        close(backbone.encode_image(batch), model.encode_image(batch))
        close(backbone.encode_text(sentences), model.encode_text(tokenizer(sentences)))
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


@pytest.mark.usefixtures("no_network")
def test_the_vector_before_the_projection_is_the_towers_own(
    tmp_path: Path, batch: torch.Tensor
) -> None:
    folder = biomedclip_like(tmp_path / "hub")
    backbone = load_backbone(str(folder), pooling="pre-projection")
    model, _ = reference(folder, tmp_path / "copy")
    with torch.inference_mode():
        close(backbone.encode_image(batch), model.visual.trunk(batch))
    assert backbone.spec.dim == 64
    assert not backbone.spec.text
    with pytest.raises(BackboneError, match="projected"):
        backbone.encode_text(["dense"])


@pytest.mark.usefixtures("no_network")
def test_a_weights_file_brings_the_rest_of_its_folder(tmp_path: Path) -> None:
    folder = biomedclip_like(tmp_path / "hub")
    file = folder / "open_clip_pytorch_model.bin"
    assert load_backbone(f"biomedclip@{file}").spec.key == load_backbone(str(folder)).spec.key
    alone = file.rename(tmp_path / file.name)
    with pytest.raises(BackboneError, match="also needs open_clip_config.json, tokenizer.json"):
        load_backbone(f"biomedclip@{alone}")


def test_weights_are_the_same_by_any_container(tmp_path: Path) -> None:
    a = load_backbone(str(biomedclip_like(tmp_path / "a")))
    b = load_backbone(str(biomedclip_like(tmp_path / "b", "open_clip_model.safetensors")))
    assert a.spec.key == b.spec.key


@pytest.mark.parametrize("pooling", ["", "pre-projection"])
def test_an_open_clip_model_by_name_gives_open_clips_vectors(pooling: str) -> None:
    batch = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    backbone = load_backbone("open_clip:ViT-S-32-alt@random", pooling=pooling)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-S-32-alt").eval()
    if pooling:
        model.visual.proj = None
    with torch.inference_mode():
        close(backbone.encode_image(batch), model.encode_image(batch))
    if not pooling:
        tokens = open_clip.get_tokenizer("ViT-S-32-alt")(["a dense breast"])
        with torch.inference_mode():
            close(backbone.encode_text(["a dense breast"]), model.encode_text(tokens))


@pytest.mark.parametrize("name", ["convnext_atto", "test_vit", "test_efficientnet", "resnet10t"])
def test_a_timm_weights_file_gives_timms_pooled_features(tmp_path: Path, name: str) -> None:
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=10).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    backbone = load_backbone(f"timm:{name}@{tmp_path / 'w.safetensors'}")
    side = backbone.spec.recipe.size[0]
    batch = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True)
        close(backbone.encode_image(batch), expected)
    assert backbone.spec.dim == expected.shape[1]


@pytest.mark.usefixtures("no_network")
def test_a_timm_folder_in_the_hubs_format_loads(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("convnext_atto", num_classes=10).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "convnext_atto",
        "num_classes": 10,
        "num_features": 320,
        "pretrained_cfg": {
            "input_size": [3, 96, 96],
            "mean": [0.1, 0.2, 0.3],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "num_classes": 10,
            "first_conv": "stem.0",
            "classifier": "head.fc",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = load_backbone(str(tmp_path))
    batch = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True)
        close(backbone.encode_image(batch), expected)
    assert backbone.spec.recipe.size == (96, 96)
    assert backbone.spec.recipe.mean == (0.1, 0.2, 0.3)


def test_convnext_takes_the_size_and_norm_timm_says() -> None:
    backbone = load_backbone("convnext_tiny@random", RECIPES["plain"])
    config = timm.data.resolve_model_data_config(timm.create_model("convnext_tiny"))
    recipe = backbone.spec.recipe
    assert recipe.size == tuple(config["input_size"][1:])
    assert (recipe.mean, recipe.std) == (tuple(config["mean"]), tuple(config["std"]))
    assert (backbone.spec.dim, backbone.spec.text) == (768, False)
    with pytest.raises(BackboneError, match="no text side"):
        backbone.encode_text(["x"])


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_an_image_file_goes_the_whole_way_to_open_clips_vector(
    tmp_path: Path, depth: type[np.generic]
) -> None:
    folder = biomedclip_like(tmp_path / "hub")
    backbone = load_backbone(str(folder), RECIPES["plain"])
    model, _ = reference(folder, tmp_path / "copy")
    y, x = np.mgrid[:220, :190]
    grey = (127 + 60 * np.sin(x / 9) + 60 * np.cos(y / 13)).astype(np.uint8)
    grey[0, :2] = 0, 255  # the whole range, so that stretching a 16-bit film changes nothing
    pixels: Pixels = grey if depth is np.uint8 else grey.astype(np.uint16) * 257
    transform = open_clip.image_transform(
        160, is_train=False, mean=tuple(backbone.spec.recipe.mean), std=backbone.spec.recipe.std
    )
    tensor = torch.from_numpy(apply(backbone.spec.recipe, pixels))[None]
    with torch.inference_mode():
        expected = model.encode_image(transform(Image.fromarray(grey))[None])
        got = backbone.encode_image(tensor)
    assert torch.nn.functional.cosine_similarity(got, expected).item() > 0.99999
    if depth is np.uint8:
        close(got, expected)


def test_statistics_has_no_weights_and_no_options() -> None:
    backbone = load_backbone("statistics")
    flat = torch.zeros(2, 1, 256, 256)
    assert encode(backbone, flat).shape == (2, backbone.spec.dim)
    with pytest.raises(UsageError):
        load_backbone("statistics@random")


def folder_without(tmp_path: Path, name: str) -> Path:
    folder = biomedclip_like(tmp_path / "hub")
    (folder / name).unlink()
    return folder


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("open_clip_pytorch_model.bin", "no weights"),
        ("tokenizer_config.json", "tokenizer_config.json is missing"),
        ("open_clip_config.json", "open_clip_config.json"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, missing: str, named: str) -> None:
    folder = folder_without(tmp_path, missing)
    with pytest.raises(BackboneError, match=named):
        load_backbone(f"biomedclip@{folder}")


@pytest.mark.usefixtures("no_network")
def test_a_tokenizer_that_knows_no_word_is_refused(tmp_path: Path) -> None:
    folder = biomedclip_like(tmp_path / "hub")
    write_tokenizer(folder, [f"other{i}" for i in range(20)])
    with pytest.raises(BackboneError, match="into unknown ones"):
        load_backbone(str(folder))


@pytest.mark.usefixtures("no_network")
def test_weights_of_another_dimension_are_refused(tmp_path: Path) -> None:
    folder = biomedclip_like(tmp_path / "hub")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 48
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match=r"size mismatch.*belong together"):
        load_backbone(str(folder))


class Trap:
    """A pickle that would run code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.usefixtures("no_network")
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    folder, marker = biomedclip_like(tmp_path / "hub"), tmp_path / "ran"
    with (folder / "open_clip_pytorch_model.bin").open("wb") as handle:
        pickle.dump({"weight": Trap(marker)}, handle, protocol=2)
    torch.save({"weight": Trap(marker)}, tmp_path / "w.pt")
    for name in (str(folder), f"timm:convnext_atto@{tmp_path / 'w.pt'}"):
        with pytest.raises(BackboneError, match="pickle"):
            load_backbone(name)
    assert not marker.exists()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("side", ["tokenizer", "text tower"])
def test_a_folder_s_own_code_is_not_run(tmp_path: Path, side: str) -> None:
    folder, marker = biomedclip_like(tmp_path / "hub"), tmp_path / "ran"
    code = "import pathlib, transformers\n"
    (folder / "own.py").write_text(f"{code}pathlib.Path({str(marker)!r}).touch()\n")
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    file.write_text(json.dumps(config))
    if side == "tokenizer":
        said = json.loads((folder / "tokenizer_config.json").read_text())
        said |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
    else:
        own = {"AutoConfig": "own.Own", "AutoModel": "own.Own"}
        said = {**BERT, "model_type": "own", "trust_remote_code": True, "auto_map": own}
        (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(BackboneError, match="hub: "):
        load_backbone(str(folder))
    assert not marker.exists()


def test_a_weights_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match="give weights of convnext_tiny"):
        load_backbone(f"convnext_tiny@{tmp_path / 'w.safetensors'}")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("biomedclp", UnknownName, "did you mean 'biomedclip'"),
        ("timm:no_such_model", BackboneError, "timm knows no 'no_such_model'"),
        ("convnext_tiny@no_such_tag", BackboneError, "known: convnext_tiny.dinov3"),
        ("convnext_tiny@./no.safetensors", BackboneError, "no such weights file"),
        ("open_clip:ViT-B-32", UsageError, "laion2b_s34b_b79k"),
        ("biomedclip@/nowhere", BackboneError, "no such folder"),
    ],
)
def test_a_wrong_name_says_what_is_right(name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        load_backbone(name)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("biomedclip", ("biomedclip", "biomedclip", "")),
        ("convnext_tiny@fb_in22k", ("convnext_tiny", "convnext_tiny", "fb_in22k")),
        ("timm:vit_b@x.pt", ("timm", "vit_b", "x.pt")),
        ("hf-hub:org/name", ("open_clip", "hf-hub:org/name", "")),
    ],
)
def test_names_come_apart(text: str, parts: tuple[str, str, str]) -> None:
    assert parse(text) == parts


def test_only_a_folder_of_a_run_is_said_to_be_fine_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.json").write_text('{"label": "density"}')  # of something else, where one works
    for name in ("timm:test_vit@random", "statistics"):
        assert not getattr(load_backbone(name), "note", "")


def test_vectors_of_a_model_folder_ask_for_that_folder() -> None:
    spec = replace(load_backbone("statistics").spec, backbone="tuned")
    with pytest.raises(UnknownName, match="no backbone 'tuned' is installed; .* give that folder"):
        load_of(spec)
    with pytest.raises(UnknownName, match="no backbone 'statistic'; there are"):
        load_of(spec, "statistic")

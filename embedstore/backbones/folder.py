"""Make open_clip load a hub folder with the network off, without touching the folder.

The configuration of BiomedCLIP names its text tower by hub id, and open_clip asks the hub for that
tower's ``config.json`` even where all weights are local (open_clip issues 772, 724, 528, 580). So a
temporary copy is made of links, with a configuration that points at itself and with the BERT's
``config.json`` beside it, taken from the folder or, where it has none, read off the checkpoint's
tensor shapes.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from embedstore.backbones.weights import explained
from embedstore.errors import BackboneError

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
)
"""Names open_clip looks for, in its order of preference."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)

_BERT = "text.transformer."
_HEAD_WIDTH = 64


@contextmanager
def self_contained(folder: Path) -> Iterator[Path]:
    """Yield a folder that ``local-dir:`` loads with no network; gone when the block ends.

    Raises
    ------
    BackboneError
        A file is missing; it is named.
    """
    config = read_config(folder)
    weights = find_weights(folder)
    text = config["model_cfg"].get("text_cfg", {})
    with tempfile.TemporaryDirectory(prefix="embedstore-") as name:
        copy = Path(name)
        for file in folder.iterdir():
            if file.is_file() and file.name != CONFIG:
                (copy / file.name).symlink_to(file.resolve())
        if "hf_model_name" in text:
            require_tokenizer(folder)
            (copy / "text").mkdir()
            bert = text_config(folder, weights, str(text["hf_model_name"]))
            (copy / "text" / "config.json").write_text(json.dumps(bert))
            text["hf_model_name"] = str(copy / "text")
            text["hf_tokenizer_name"] = str(copy)
        if text.get("hf_tokenizer_name"):  # or transformers runs Python that the folder brings
            text["tokenizer_kwargs"] = text.get("tokenizer_kwargs", {}) | {
                "trust_remote_code": False
            }
        config["model_cfg"].get("vision_cfg", {})["timm_model_pretrained"] = False
        (copy / CONFIG).write_text(json.dumps(config))
        yield copy


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``open_clip_config.json``, its ``model_cfg`` present."""
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        config["model_cfg"]["vision_cfg"]
    except FileNotFoundError as error:
        raise BackboneError(f"{folder}: {CONFIG} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{folder / CONFIG}: not an open_clip configuration") from error
    return config


def find_weights(folder: Path) -> Path:
    """Return the weights file open_clip will take."""
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise BackboneError(f"{folder}: no weights; one of {', '.join(WEIGHTS)} is needed")
    return found


def require_tokenizer(folder: Path) -> None:
    """Refuse a folder whose tokenizer files are not all there."""
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.txt").is_file():
        raise BackboneError(f"{folder}: no tokenizer; tokenizer.json or vocab.txt is missing")
    if not (folder / "tokenizer_config.json").is_file():
        raise BackboneError(f"{folder}: tokenizer_config.json is missing")


def text_config(folder: Path, weights: Path, name: str) -> dict[str, Any]:
    """Return the text tower's ``config.json``: the folder's own, else read off the weights."""
    file = folder / "config.json"
    if file.is_file():
        config: dict[str, Any] = json.loads(file.read_text())
        if "model_type" in config:
            config.pop("auto_map", None)  # names code of the folder's, which is not to be run
            return config
    shapes = tensor_shapes(weights)
    try:
        return bert_config(shapes)
    except KeyError as error:
        raise BackboneError(
            f"{folder}: config.json of the text tower {name!r} is missing, and {weights.name} is "
            f"not a BERT that it could be read from (no tensor {error.args[0]!r})"
        ) from error


def tensor_shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a weights file, reading no more than is needed."""
    if weights.suffix == ".safetensors":
        with safe_open(weights, framework="pt") as tensors:
            return {k: tuple(tensors.get_slice(k).get_shape()) for k in tensors.keys()}  # noqa: SIM118
    with explained(str(weights), "give a file of tensors: .safetensors, or a state dict"):
        # on the meta device shapes are all that is kept
        state = torch.load(weights, map_location="meta", weights_only=True)
        return {k: tuple(v.shape) for k, v in state.get("state_dict", state).items()}


def bert_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Read a BERT's architecture off its tensor shapes; 64 dimensions a head, as BERT has."""
    vocabulary, width = shapes[f"{_BERT}embeddings.word_embeddings.weight"]
    numbers = [
        int(m[1])
        for k in shapes
        if (m := re.match(re.escape(_BERT) + r"encoder\.layer\.(\d+)\.", k))
    ]
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": max(numbers) + 1,
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "intermediate_size": shapes[f"{_BERT}encoder.layer.0.intermediate.dense.weight"][0],
        "max_position_embeddings": shapes[f"{_BERT}embeddings.position_embeddings.weight"][0],
        "type_vocab_size": shapes[f"{_BERT}embeddings.token_type_embeddings.weight"][0],
    }

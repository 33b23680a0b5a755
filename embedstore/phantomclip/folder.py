"""The model as a folder in BiomedCLIP's format, and the untrained network it starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file

from embedstore.phantomclip.tokenizer import write_tokenizer

__all__ = ["CONTEXT", "MEAN", "SIDE", "STD", "build", "write_frame", "write_weights"]

SIDE = 96  # px, of the square image the model takes
MEAN, STD = 0.3, 0.28  # of the three equal channels; about those of a cropped film
CONTEXT = 48  # tokens
_WIDTH, _LAYERS, _EMBED = 128, 2, 128
_TRUNK = "test_resnet"  # 0.37 M weights: what two shared cores can train in minutes
_TEXT_NAME = "text"  # embedstore puts the folder's own config.json in its place when loading


def write_frame(folder: Path) -> None:
    """Write all of the folder but the weights: tokenizer and both configurations."""
    folder.mkdir(parents=True, exist_ok=True)
    words = write_tokenizer(folder, CONTEXT)
    (folder / "config.json").write_text(json.dumps(_bert(words), indent=1) + "\n")
    config = {
        "model_cfg": _model(_TEXT_NAME),
        "preprocess_cfg": {
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")


def build(folder: Path) -> Any:
    """Make the untrained open_clip network that the folder describes."""
    config = _model(str(folder))
    return CustomTextCLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])


def write_weights(folder: Path, model: torch.nn.Module) -> None:
    """Write the weights in half precision; open_clip reads them back into single."""
    state = {
        k: (v.half() if v.is_floating_point() else v).contiguous().clone()
        for k, v in model.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def _model(text: str) -> dict[str, Any]:
    return {
        "embed_dim": _EMBED,
        "vision_cfg": {
            "timm_model_name": _TRUNK,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": SIDE,
        },
        "text_cfg": {
            "hf_model_name": text,
            "hf_model_pretrained": False,
            "hf_tokenizer_name": text,
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": CONTEXT,
        },
    }


def _bert(words: int) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": words,
        "hidden_size": _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _WIDTH // 64,  # 64 dimensions a head, as BERT has
        "intermediate_size": 4 * _WIDTH,
        "max_position_embeddings": CONTEXT,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 0,
    }

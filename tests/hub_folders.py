"""Small random models in exactly the hub's format, and open_clip's own reading of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["the", "breasts", "are", "extremely", "dense", "on", "this", "image"]
WORDS += ["almost", "entirely", "fatty", "of", "a"]


def write_tokenizer(folder: Path, words: list[str]) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {w: i for i, w in enumerate(dict.fromkeys([*special, *words]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    tokens = {f"{k}_token": v for k, v in names.items()}
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    (folder / "vocab.txt").write_text("\n".join(vocabulary))


BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 64,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
}


def biomedclip_like(folder: Path, weights: str = "open_clip_pytorch_model.bin") -> Path:
    """Write a small random model in exactly the format of BiomedCLIP's hub page."""
    folder.mkdir(parents=True)
    write_tokenizer(folder, WORDS)
    config: dict[str, Any] = {
        "model_cfg": {
            "embed_dim": 32,
            "vision_cfg": {
                "timm_model_name": "test_vit",
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": 160,
            },
            "text_cfg": {
                "hf_model_name": str(folder),
                "hf_tokenizer_name": str(folder),
                "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler",
                "context_length": 40,
            },
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
        },
    }
    (folder / "config.json").write_text(json.dumps(BERT))
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(7)
    model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    if weights.endswith(".safetensors"):
        save_file(state, folder / weights)
    else:
        torch.save(state, folder / weights)
    text = config["model_cfg"]["text_cfg"]
    text["hf_model_name"] = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    text["hf_tokenizer_name"] = text["hf_model_name"]
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "config.json").unlink()
    return folder


def reference(folder: Path, copy: Path) -> Any:
    """Load a folder with open_clip alone, helped by hand as its users help it."""
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = str(copy)
    (copy / "config.json").write_text(json.dumps(BERT))
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.create_model(f"local-dir:{copy}").eval()
    return model, open_clip.get_tokenizer(f"local-dir:{copy}")


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(actual.numpy(), expected.detach().numpy(), atol=1e-5, rtol=0)

"""A WordPiece tokenizer of the domain's own words, in the files the hub's BERT models have.

It is built with the `tokenizers` library: from a ``vocab.txt`` alone some versions of transformers
make a tokenizer that knows no word.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from embedstore.phantomclip.sentences import every_text
from embedstore.phantomclip.vocabulary import WORDS

__all__ = ["SPECIAL", "write_tokenizer"]

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_ENDINGS = ("s", "es", "ed", "ing", "ly", "al", "er", "est", "ness", "ity", "ous", "ic", "ion")


def write_tokenizer(folder: Path, length: int) -> int:
    """Write the tokenizer's four files into an existing folder.

    Parameters
    ----------
    folder
        Receives tokenizer.json, tokenizer_config.json, special_tokens_map.json and vocab.txt.
    length
        The longest sentence in tokens.

    Returns
    -------
    int
        Size of the vocabulary.
    """
    words = _vocabulary()
    _tokenizer(words).save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(SPECIAL, indent=1) + "\n")
    config = SPECIAL | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "do_lower_case": True,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return len(words)


def _vocabulary() -> list[str]:
    """List the special tokens, the letters and endings words fall back on, and the words."""
    split = BertPreTokenizer()
    used = {w for t in every_text() for w, _ in split.pre_tokenize_str(t.lower())}
    signs = string.ascii_lowercase + string.digits
    pieces = [*signs, *string.punctuation, *(f"##{c}" for c in signs)]
    pieces += [f"##{e}" for e in _ENDINGS] + sorted(used | set(WORDS))
    return list(dict.fromkeys([*SPECIAL.values(), *pieces]))


def _tokenizer(words: list[str]) -> Tokenizer:
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    ends = [(t, ids[t]) for t in (SPECIAL["cls_token"], SPECIAL["sep_token"])]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    return tokenizer

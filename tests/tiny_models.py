"""Models of a few thousand parameters, made in a folder: what real engines load, without a download. Their weights are random,
and the same each time. Importing torch takes seconds, so it is done here and not where tests are collected."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

WORDS = [
    "a",
    "host",
    "that",
    "stops",
    "answering",
    "is",
    "not",
    "dead",
    "restart",
    "the",
    "database",
    "of",
    "cats",
    "and",
    "dogs",
    "who",
    "where",
    "why",
]


def cross_encoder(folder: Path, *, labels: int = 1) -> Path:
    """A BERT of two layers with one score for a pair, of at most 64 tokens."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(97, 123)]
    words = dict.fromkeys([*special, *letters, *(f"##{one}" for one in letters), *WORDS])
    tokenizer = BertTokenizerFast(vocab={word: at for at, word in enumerate(words)}, model_max_length=64)
    torch.manual_seed(7)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=64, num_labels=labels, initializer_range=0.5,
        )
    )  # fmt: skip
    _save(folder, model, tokenizer)
    return folder


def _save(folder: Path, *parts: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own
        for part in parts:
            part.save_pretrained(folder)

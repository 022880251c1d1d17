"""What embedding is measured beside, in a process of its own: sentence-transformers' `encode`, all texts at once; and the floor,
below which no program gets: the time that the model's multiplications take at the rate at which the device multiplies large
matrices.

Each line that comes in is an Asked; each that goes out has seconds.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import msgspec

BATCH = 32  # the library's own default
_WIDTH = {"cpu": 2048, "cuda": 8192}  # of the matrices by which a device's rate is measured
_TIMES = 5


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """`floor_in`: the floor is asked for, in this dtype as the models' setting has it; else the texts are encoded."""

    texts: list[str]
    floor_in: str | None = None


def main(model: str, device: str) -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    from serve.local.model_folder import model_folder
    from serve.local.torch_settings import dtype_of

    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    loaded = SentenceTransformer(str(model_folder(model) or model), device=device)
    dtypes = {name: dtype_of(name, loaded[0], device) for name in ("auto", "float32", "float16", "bfloat16")}
    if device == "cuda":
        loaded.half()  # as the gateway's does
    for line in sys.stdin.buffer:
        asked = msgspec.json.decode(line, type=Asked)
        if asked.floor_in is None:
            began = time.perf_counter()
            loaded.encode(asked.texts, batch_size=BATCH, show_progress_bar=False)
            seconds = time.perf_counter() - began
        else:
            seconds = flop(loaded, asked.texts) / _flop_per_s(device, dtypes[asked.floor_in])
        sys.stdout.write(f"{seconds}\n")
        sys.stdout.flush()


def flop(model: Any, texts: list[str]) -> float:
    """The floating point operations of a SentenceTransformer's layers for these texts, none of them padded: two for each
    weight and token, and those of attention, which has no weights. 6.0e9 for MiniLM-L6 and 256 tokens."""
    from torch import nn

    transformer = model[0].auto_model
    config = transformer.config
    weights = sum(
        layer.weight.numel()
        for name, layer in transformer.named_modules()
        if isinstance(layer, nn.Linear) and "pooler" not in name  # which sees one token of a text
    )
    lengths = [
        len(ids)
        for ids in model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]
    ]
    attention = 4 * config.num_hidden_layers * config.hidden_size
    return float(sum(2 * weights * length + attention * length**2 for length in lengths))


def _flop_per_s(device: str, dtype: Any) -> float:
    """The best of a few products of large matrices."""
    import torch

    width = _WIDTH[device]
    factor = torch.randn(width, width, device=device).to(dtype)
    best = float("inf")
    for _ in range(_TIMES):
        began = time.perf_counter()
        factor @ factor
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return float(2 * width**3 / best)


if __name__ == "__main__":
    main(*sys.argv[1:])

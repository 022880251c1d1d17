"""What models of sentence-transformers have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from serve.local.settings import LocalSpec

LONGEST_TOKEN = 64  # characters; of what has more than so many for each token the rest is not tokenised
WORDS = "the words of a text 0 1 2"
MAX_TOKENS = 8192  # of a text, where the model does not say


def lower(transformer: torch.nn.Module, spec: LocalSpec, device: str) -> None:
    """Set what the transformer computes in. What comes out is float32, and so is what follows: pooling, heads."""
    transformer.to(dtype_of(spec.dtype, transformer, device))
    transformer.register_forward_hook(_in_float32)


def dtype_of(asked: str, transformer: torch.nn.Module, device: str) -> torch.dtype:
    """`asked`: the setting `dtype` of the model."""
    if asked != "auto":
        found: torch.dtype = getattr(torch, asked)
        return found
    if device == "cpu":
        return torch.bfloat16 if _multiplies_bfloat16() else torch.float32
    # One that was trained with bfloat16's range may not fit into float16's.
    return torch.bfloat16 if next(transformer.parameters()).dtype == torch.bfloat16 else torch.float16


def _multiplies_bfloat16() -> bool:
    """Whether the processor has a unit for that (AMX)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _in_float32(transformer: torch.nn.Module, given: Any, found: Any) -> Any:
    for name, value in found.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            found[name] = value.float()
    return found


def knows_no_words(tokenizer: Any, ids: Sequence[int]) -> bool:
    """Whether it was made up by the library, where the files of it are missing; `ids` are those of WORDS."""
    return set(ids) <= set(tokenizer.all_special_ids)

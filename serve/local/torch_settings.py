"""What models of sentence-transformers have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from serve.local.settings import LocalSpec

LONGEST_TOKEN = 64  # characters; what has more than so many for each token is cut before it is tokenised
WORDS = "the words of a text 0 1 2"
MAX_TOKENS = 8192  # of a text, where the model does not say


def dtype_of(spec: LocalSpec, model: Any, device: str) -> Any:
    if spec.dtype != "auto":
        return getattr(torch, spec.dtype)
    if device == "cpu":
        return torch.float32
    # One that was trained with bfloat16's range may not fit into float16's.
    return torch.bfloat16 if model.dtype == torch.bfloat16 else torch.float16


def knows_no_words(tokenizer: Any, ids: Sequence[int]) -> bool:
    """Whether it was made up by the library, where the files of it are missing; `ids` are those of WORDS."""
    return set(ids) <= set(tokenizer.all_special_ids)

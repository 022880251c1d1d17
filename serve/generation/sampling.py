"""How each request's tokens are drawn, in a batch with all others. Nothing but tensors, so that a CUDA graph can hold it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingTopPLogitsWarper,
)

LIKELIEST = -1  # as a seed: nothing is drawn
_LIKELIEST = 1  # as a key
_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B1


class Nucleus(ContinuousBatchingTopPLogitsWarper):  # type: ignore[misc]
    """The library's, but that it sorts no vocabulary on a CPU where no request wants it."""

    def __call__(self, scores: Any, tensor_arg: Any) -> Any:
        # To look would stop a GPU, and cannot be in a graph.
        if not scores.is_cuda and bool((tensor_arg[: scores.size(0)].view(torch.float32) >= 1).all()):
            return scores
        return super().__call__(scores, tensor_arg)


class Seeded(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Adds Gumbel noise to a row's logits and leaves only the largest, which is a draw from their softmax. The noise is a
    hash of the seed, the place in the sequence and the token: neither the batch nor another request has a part in it.

    Rows without a seed stay as they are, for the engine to draw from; of those of LIKELIEST the largest is left as it is.
    """

    supported_kwargs: ClassVar[dict[str, type]] = {"seed": int}
    ignored_kwargs: ClassVar[tuple[str, ...]] = ()

    def fill_defaults(self, int32_tensor: Any) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Any:
        keys = [
            key_of(one.state.logit_processor_kwargs.get("seed"), one.state.position_offset)
            for one in requests_with_new_token
        ]
        return torch.tensor(keys, dtype=torch.int64).to(torch.int32)

    def __call__(self, scores: Any, tensor_arg: Any) -> Any:
        keys = tensor_arg[: scores.size(0)].to(torch.int64).unsqueeze(-1) & _MASK
        if not scores.is_cuda and not keys.any():
            return scores
        if not scores.is_cuda and bool((keys == _LIKELIEST).all()):
            drawn = scores.argmax(-1, keepdim=True)
        else:
            tokens = torch.arange(scores.size(-1), device=scores.device, dtype=torch.int64)
            uniform = (_mixed(keys + tokens * _GOLDEN).double() + 0.5) / 2**32
            noise = torch.where(keys == _LIKELIEST, 0.0, -torch.log(-torch.log(uniform)))
            drawn = (scores.double() + noise).argmax(-1, keepdim=True)
        only = torch.full_like(scores, float("-inf")).scatter_(-1, drawn, 0.0)
        return torch.where(keys != 0, only, scores)


def key_of(seed: int | None, position: int) -> int:
    """Of 32 bits, signed; 0 is none, and `_LIKELIEST` no noise."""
    if seed is None:
        return 0
    if seed == LIKELIEST:
        return _LIKELIEST
    words = (seed ^ (seed >> 32)) & _MASK, position & _MASK
    key = 1
    for word in words:
        key = _mix(key * _GOLDEN + word)
    key = max(key, _LIKELIEST + 1)
    return key - ((key & 0x80000000) << 1)


def _mix(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK
    return value ^ (value >> 16)


def _mixed(value: Any) -> Any:
    """The same of a tensor: what its multiplications lose lies above the 32 bits."""
    value = value & _MASK
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK
    return value ^ (value >> 16)

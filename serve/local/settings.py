"""How the models of a `local` upstream run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
# Tokens of a batch, padding included. On a CPU a larger one is no faster, and keeps the others waiting longer; a GPU
# needs many tokens at once to be busy.
CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 32_768
_WAITING_BATCHES = 256
# `cpu`, `cuda`, or this one: it was to be a GPU, and there is none.
NO_GPU = "no GPU"


class LocalSpec(BaseModel):
    """The processes of a model. `gpus` (of a GPU, may be a fraction) and `cpus` are what Ray reserves for each."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where Ray has one left
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = (
        "auto"  # on a GPU half; on a CPU see decision 45
    )
    gpus: float = Field(default=1.0, gt=0, le=1)
    cpus: float = Field(default=0.0, ge=0)
    threads: int | None = Field(
        default=None, ge=1
    )  # of torch on a CPU; unset: as many as the machine has cores
    replicas: int = Field(default=1, ge=1, le=64)  # at most; they come as requests do
    always: int = Field(default=0, ge=0, le=64)  # so many also when nobody asks
    idle_s: float = Field(default=1800.0, ge=1)  # how long the last one stays when nobody asks


class BatchedSpec(LocalSpec):
    """One that embeds or reranks; `truncate` holds for requests that do not say it themselves."""

    truncate: bool = False
    batch_tokens: int | None = Field(default=None, ge=1)
    waiting_tokens: int | None = Field(default=None, ge=1)  # past it a request gets a 429

    def batch_limit(self, device: str) -> int:
        return self.batch_tokens or (GPU_BATCH_TOKENS if device == "cuda" else CPU_BATCH_TOKENS)

    def waiting_limit(self, device: str) -> int:
        return self.waiting_tokens or _WAITING_BATCHES * self.batch_limit(device)


class GenerationSpec(LocalSpec):
    """One that chats. `context`: tokens of a request and its answer together, at most (unset: as many as the model reads and
    the cache holds); `sequences` are worked on at once, `waiting` more may wait, and past that a request gets a 429."""

    context: int | None = Field(default=None, ge=16)
    max_tokens: int = Field(default=1024, ge=1)  # of an answer, where the request says none
    sequences: int = Field(default=16, ge=1, le=1024)
    waiting: int = Field(default=64, ge=0)
    # Of all sequences together; unset: 16,384 on a CPU, on a GPU what its memory has room for.
    cache_tokens: int | None = Field(default=None, ge=64)
    batch_tokens: int | None = Field(
        default=None, ge=16
    )  # of a step; unset: 1,024 on a CPU, on a GPU as above

    def batch_limit(self, device: str) -> int | None:
        return self.batch_tokens or (None if device == "cuda" else 1024)

"""vllm.yaml: which models vLLM serves on this machine's GPUs. Read strictly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from serve.strict_yaml import Place, Strict, StrictFile, parse_strictly, read_text

FIRST_PORT = 8418  # the gateway's next
_SECRET = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,100}")
# Without colons: what follows one is the name of a LoRA adapter to Ray.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_GPU_MEMORY = 0.9
# Arguments of vLLM's that are keys of their own here, or would be without effect behind Ray Serve.
_OWN = {
    "model": "model",
    "served_model_name": "the model's name",
    "tensor_parallel_size": "tensor_parallel",
    "pipeline_parallel_size": "tensor_parallel",
    "data_parallel_size": "replicas",
    "gpu_memory_utilization": "gpu_memory",
    "dtype": "dtype",
    "max_model_len": "context",
    "max_num_seqs": "sequences",
    "api_key": "api_key, beside models",
    "port": "port, beside models",
}
_WITHOUT_EFFECT = frozenset(
    [
        "host",
        "uds",
        "root_path",
        "middleware",
        "ssl_keyfile",
        "ssl_certfile",
        "ssl_ca_certs",
        "ssl_ciphers",
        "allowed_origins",
        "allowed_methods",
        "allowed_headers",
        "distributed_executor_backend",
    ]
)


class VllmModelSpec(Strict):
    """A model, and its processes: from `always` to `replicas` copies of it, each on `tensor_parallel` GPUs, of each of which
    it takes the part `gpus`. `sequences` are worked on at once by a copy; `waiting` more may wait for one or be on their way
    to it, and past that a request gets a 429."""

    model: Annotated[str, Field(min_length=1, max_length=4096)]
    tensor_parallel: int = Field(default=1, ge=1, le=64)
    gpus: float = Field(default=1.0, gt=0, le=1)
    gpu_memory: float | None = Field(default=None, gt=0, le=1)  # unset: nine tenths of `gpus`
    cpus: float = Field(default=0.0, ge=0)
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    context: int | None = Field(default=None, ge=16)  # of a request and its answer; unset: the model's
    sequences: int = Field(default=128, ge=1, le=4096)
    waiting: int = Field(default=256, ge=1, le=65_536)
    replicas: int = Field(default=1, ge=1, le=64)
    always: int = Field(default=1, ge=0, le=64)
    idle_s: float = Field(default=1800.0, ge=1)
    drain_s: float = Field(default=120.0, ge=0, le=3600)
    health_s: float = Field(default=10.0, ge=1, le=600)  # between two looks
    health_timeout_s: float = Field(default=60.0, ge=1, le=600)
    engine: dict[str, Any] = Field(default_factory=dict)

    @field_validator("engine")
    @classmethod
    def _is_not_ours(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in given:
            if name in _OWN:
                raise ValueError(f"{name} is said by {_OWN[name]}")
            if name in _WITHOUT_EFFECT:
                raise ValueError(f"{name} has no effect here: it is Ray Serve that listens, on loopback")
        return given

    @model_validator(mode="after")
    def _fits_its_part(self) -> VllmModelSpec:
        if self.gpu_memory is not None and self.gpu_memory > self.gpus:
            raise ValueError("gpu_memory may not be more than gpus, the part of a GPU that is taken")
        return self

    @property
    def memory(self) -> float:
        """The part of each GPU's memory that a copy takes."""
        return self.gpu_memory if self.gpu_memory is not None else round(_GPU_MEMORY * self.gpus, 4)

    @property
    def most(self) -> int:
        """Copies at most."""
        return max(self.replicas, self.always)


class VllmFile(StrictFile):
    """`api_key` is the name of a secret, never the key itself; it is made where there is none."""

    port: int = Field(default=FIRST_PORT, ge=1, le=65_535)
    api_key: str = "VLLM_KEY"
    answer_s: float = Field(default=600.0, gt=0, le=3600)  # to the whole answer, or to a stream's first event
    models: Annotated[dict[str, VllmModelSpec], Field(min_length=1, max_length=64)]

    @field_validator("api_key")
    @classmethod
    def _names_a_secret(cls, name: str) -> str:
        if not _SECRET.fullmatch(name) or name.startswith("sk-"):  # a key pasted in here is not repeated
            raise ValueError("is the name of a secret such as VLLM_KEY, not the key itself")
        return name

    def complaint(self) -> tuple[Place, str] | None:
        for name in self.models:
            if not _NAME.fullmatch(name):
                return ("models", name), "is no name: use letters, digits and . _ / -"
        return None

    def gpus(self) -> float:
        """That must be there at least: of all copies that are always there, and of one of each other model."""
        return sum(max(1, spec.always) * spec.tensor_parallel * spec.gpus for spec in self.models.values())


_MODELS: dict[Place, type[BaseModel]] = {(): VllmFile, ("models", "*"): VllmModelSpec}


def read_vllm(path: Path) -> str:
    """The text of a vllm.yaml that is right. Raises InvalidModelsFile."""
    text = read_text(path)
    parse_vllm(text, str(path))
    return text


def parse_vllm(text: str, name: str = "vllm.yaml") -> VllmFile:
    """Raises InvalidModelsFile, which names the line."""
    return parse_strictly(text, name, VllmFile, _MODELS)

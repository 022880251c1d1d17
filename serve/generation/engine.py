"""Transformers' continuous batching: each step takes a token of every sequence under way, in a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from transformers.generation.continuous_batching.requests import GenerationOutput

from serve.generation.engine_protocol import Grown, Sampling
from serve.generation.generator import Json
from serve.generation.sampling import LIKELIEST, Nucleus, Seeded
from serve.generation.tool_calls import OPEN
from serve.local.model_folder import BrokenModel, model_folder
from serve.local.settings import GenerationSpec
from serve.local.torch_settings import WORDS, knows_no_words

_PAGE = 32  # tokens of a piece of the cache
_CPU_CACHE_TOKENS = 16_384
_COLDEST = (
    1e-5  # what is divided by less may be endless, and the engine would die of it, with all its requests
)
# Each request says its own.
_DRAWN: dict[str, Any] = {"do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 0.5}


class TransformersEngine:
    """Implements Engine. Raises BrokenModel, and what the libraries raise for files that are none."""

    def __init__(self, model: str, spec: GenerationSpec, device: str) -> None:
        self.device = device
        if device == "cpu":
            # Ray would have it one, for an actor that reserves no CPU.
            torch.set_num_threads(spec.threads or len(os.sched_getaffinity(0)))
        self._tokenizer, self._model = prepared(model, spec, device)
        self.tool_format = "hermes" if OPEN in str(self._tokenizer.chat_template) else None
        self._ends = _ends(self._model, self._tokenizer)
        self._manager = self._started(spec)
        cache = self._manager.batch_processor.cache
        holds = cache.num_blocks * _PAGE
        written = getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or holds
        self.longest = min(written, holds - _PAGE, spec.context or written)

    def prompt(self, messages: Sequence[Json], tools: Sequence[Json]) -> list[int]:
        try:
            found: list[int] = self._tokenizer.apply_chat_template(
                list(messages), tools=list(tools) or None, add_generation_prompt=True, return_dict=True
            )["input_ids"]
        except Exception as error:  # whatever a template raises, which is a program of the model's makers
            raise ValueError(str(error)) from None
        return found

    def text(self, tokens: Sequence[int]) -> str:
        found: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return found

    def ends(self, token: int) -> bool:
        return token in self._ends

    def begin(
        self,
        name: str,
        prompt: list[int],
        most: int,
        sampling: Sampling,
        heard: Callable[[Grown], None],
        *,
        piecemeal: bool,
    ) -> None:
        def hear(output: GenerationOutput) -> None:
            heard(Grown(tokens=output.generated_tokens, ended=output.is_finished(), error=output.error))

        if not self.alive:
            raise RuntimeError("its engine has died")
        self._manager.register_result_handler(name, hear)
        begun = self._manager.add_request(
            prompt,
            request_id=name,
            max_new_tokens=most,
            streaming=piecemeal,
            eos_token_id=self._ends,
            **self._drawn(sampling),
        )
        if begun is None:
            self._forget(name)
            raise RuntimeError("its engine takes no more")

    def cancel(self, name: str) -> None:
        self._forget(name)
        self._manager.cancel_request(name)
        nobodys = self._manager.output_router.output_queue  # what a cancelled one had under way
        while not nobodys.empty():
            nobodys.get_nowait()

    @property
    def alive(self) -> bool:
        running: bool = self._manager.is_running()
        return running and self._manager.background_thread_status.fatal_error is None

    @property
    def running(self) -> int:
        scheduler = self._manager.batch_processor.scheduler
        waiting: int = self._manager.input_queue.qsize()
        return len(scheduler.active_requests) + len(scheduler.waiting_requests) + waiting

    @property
    def steps(self) -> int:
        return int(getattr(self._manager, "current_batch", 0))  # there once its thread has begun

    def close(self) -> None:
        self._manager.stop(block=True, hard_stop=True)

    def _started(self, spec: GenerationSpec) -> Any:
        on_cpu = self.device == "cpu"
        cache_tokens = spec.cache_tokens or (_CPU_CACHE_TOKENS if on_cpu else None)
        manager = self._model.init_continuous_batching(
            generation_config=transformers.GenerationConfig(eos_token_id=self._ends, **_DRAWN),
            continuous_batching_config=transformers.ContinuousBatchingConfig(
                page_size=_PAGE,
                num_blocks=None if cache_tokens is None else -(-cache_tokens // _PAGE),
                max_batch_tokens=spec.batch_limit(self.device),
                max_requests_per_batch=spec.sequences,
                per_request_processors=True,
                **({"use_cuda_graph": False, "use_async_batching": False} if on_cpu else {}),
            ),
        )
        processors = manager.logit_processor
        temperature, top_p = processors.logits_processor
        processors.logits_processor[:] = (temperature, Nucleus(top_p), Seeded())
        processors.tensors_required = 3
        processors.supported_keys["seed"] = int
        manager.warmup()  # makes the cache, so that it is known how much it holds
        _mark_what_is_held(manager.batch_processor.cache)
        manager.start()
        return manager

    def _drawn(self, sampling: Sampling) -> dict[str, Any]:
        if sampling.temperature < _COLDEST:
            return {"temperature": 1.0, "top_p": 1.0, "seed": LIKELIEST}
        drawn = {"temperature": float(sampling.temperature), "top_p": float(sampling.top_p)}
        if sampling.seed is None:
            return drawn
        return {**drawn, "seed": 0 if sampling.seed == LIKELIEST else sampling.seed}

    def _forget(self, name: str) -> None:
        router = self._manager.output_router
        with router._lock:
            router.result_handlers.pop(name, None)


def _mark_what_is_held(cache: Any) -> None:
    """Asynchronous steps are read when the next one is under way: a sequence that was cancelled in between has given its pages
    back, and the library's engine would die of looking for them."""
    mark = cache.mark_complete_blocks

    def mark_held(state: Any, pages: dict[str, int]) -> None:
        held = {
            name: n
            for name, n in pages.items()
            if state.request_id in cache.cache_allocators[name].block_table
        }
        mark(state, held)

    cache.mark_complete_blocks = mark_held


def prepared(model: str, spec: GenerationSpec, device: str) -> tuple[Any, Any]:
    """Its tokenizer, and the model on its device. Raises BrokenModel."""
    folder = model_folder(model)
    where: dict[str, Any] = {"local_files_only": folder is not None}
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder or model), **where)
    if not tokenizer.chat_template:
        raise BrokenModel("its tokenizer has no chat template.")
    if knows_no_words(tokenizer, tokenizer(WORDS)["input_ids"]):
        raise BrokenModel("its tokenizer knows no words; a file of it is missing.")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder or model), dtype=_dtype(spec, device), **where
    )
    return tokenizer, loaded.to(device).eval()


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer; the model's makers may name some, or none."""
    named = model.generation_config.eos_token_id
    named = tokenizer.eos_token_id if named is None else named
    return [] if named is None else [named] if isinstance(named, int) else list(named)


def _dtype(spec: GenerationSpec, device: str) -> Any:
    if spec.dtype != "auto":
        return getattr(torch, spec.dtype)
    return torch.float32 if device == "cpu" else "auto"  # as it was saved

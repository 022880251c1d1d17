"""Tokens a second of the engine that chats are answered by, beside the library's `generate`, one request after the other.

Both in one run, on the same prompts and device, the likeliest token each time, so that they say the same; the loop before
and after, and the faster of the two counts. Without Ray: what is measured is the engine.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from bus.errors import ServiceUnavailable
from callboard.bench import made_up_model
from callboard.bench.gpu import require_gpu
from serve.generation.generator import GenerateRequest
from serve.generation.service import GenerationService
from serve.local.settings import GenerationSpec

_WARM_UP = 2  # requests
_WORDS = [
    "which",
    "of",
    "these",
    "logs",
    "shows",
    "an",
    "attack",
    "and",
    "which",
    "one",
    "only",
    "shows",
    "somebody",
    "who",
    "has",
    "forgotten",
    "a",
    "password",
]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """`model`: a folder or a name of the hub; None: made-up weights of some 35 million parameters."""

    device: Literal["cpu", "cuda"] = "cpu"
    model: str | None = None
    requests: int = 32
    tokens: int = 64  # of each answer, at most
    sequences: int = 16  # at once


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`alike`: the answers that are the same to the last token, of all."""

    device: str
    model: str
    requests: int
    prompt_tokens: int
    answer_tokens: int
    alike: int
    one_by_one_tokens_per_s: float
    engine_tokens_per_s: float
    ratio: float


async def measure(load: Load, progress: Callable[[str], None]) -> Report:
    """Raises ServiceUnavailable, ApiError."""
    await asyncio.to_thread(require_gpu, load.device)
    with tempfile.TemporaryDirectory(prefix="callboard-bench-", dir="/var/tmp") as folder:
        progress("loading the model, twice")
        try:
            model = load.model or str(
                await asyncio.to_thread(
                    made_up_model.make, Path(folder) / "model",
                    hidden=512, layers=8, heads=8, vocabulary=32_000, context=2048, spread=0.1,
                )
            )  # fmt: skip
            bare = await asyncio.to_thread(_Bare, model, load)
        except ModuleNotFoundError as error:
            raise ServiceUnavailable(
                f"The engine cannot be measured: {error}.",
                fix="Install its packages with `pip install 'callboard[models]'` (`make models`).",
            ) from None
        service = _service(model, load)
        try:
            return await _measured(load, bare, service, progress)
        finally:
            await service.close()


async def _measured(
    load: Load, bare: _Bare, service: GenerationService, progress: Callable[[str], None]
) -> Report:
    asked = prompts(load.requests)
    await _together(service, asked[:_WARM_UP], load.tokens)
    await asyncio.to_thread(bare.one_by_one, asked[:_WARM_UP])
    progress(f"{load.requests} requests, one by one")
    before = await asyncio.to_thread(bare.one_by_one, asked)
    progress(f"{load.requests} requests, together")
    together = await _together(service, asked, load.tokens)
    progress("one by one once more")
    after = await asyncio.to_thread(bare.one_by_one, asked)
    bare_s = min(before.seconds, after.seconds)
    engine_rate, bare_rate = together.tokens / together.seconds, before.tokens / bare_s
    return Report(
        device=load.device,
        model=load.model or "made up",
        requests=load.requests,
        prompt_tokens=together.prompt_tokens,
        answer_tokens=together.tokens,
        alike=sum(one == other for one, other in zip(before.texts, together.texts, strict=True)),
        one_by_one_tokens_per_s=round(bare_rate, 1),
        engine_tokens_per_s=round(engine_rate, 1),
        ratio=round(engine_rate / bare_rate, 2),
    )


def prompts(count: int) -> list[str]:
    """Of one word to some forty."""
    return [" ".join((_WORDS * 3)[: 1 + at * 7 % 40]) for at in range(count)]


class _Pass(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    tokens: int
    prompt_tokens: int
    texts: list[str]


class _Bare:
    """The library alone. Its methods block."""

    def __init__(self, model: str, load: Load) -> None:
        from serve.generation.engine import prepared

        self._tokenizer, self._model = prepared(model, GenerationSpec(), load.device)
        self._tokens = load.tokens

    def one_by_one(self, texts: Sequence[str]) -> _Pass:
        import torch

        answers, prompt_tokens, tokens = [], 0, 0
        began = time.perf_counter()
        for text in texts:
            given: Any = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            ).to(self._model.device)
            with torch.inference_mode():
                [row] = self._model.generate(**given, max_new_tokens=self._tokens, do_sample=False)
            answer = row[given["input_ids"].shape[1] :].tolist()
            prompt_tokens, tokens = prompt_tokens + given["input_ids"].shape[1], tokens + len(answer)
            answers.append(self._tokenizer.decode(answer, skip_special_tokens=True))
        seconds = time.perf_counter() - began
        return _Pass(seconds=seconds, tokens=tokens, prompt_tokens=prompt_tokens, texts=answers)


def _service(model: str, load: Load) -> GenerationService:
    spec = GenerationSpec(device=load.device, sequences=load.sequences, waiting=load.requests)

    def engine() -> Any:
        from serve.generation.engine import TransformersEngine

        return TransformersEngine(model, spec, load.device)

    return GenerationService(model, spec, engine)


async def _together(service: GenerationService, texts: Sequence[str], tokens: int) -> _Pass:
    async def one(text: str) -> Any:
        request = GenerateRequest(
            messages=({"role": "user", "content": text},), temperature=0.0, max_tokens=tokens
        )
        [piece] = [piece async for piece in service.generate(request)]
        return piece

    began = time.perf_counter()
    found = await asyncio.gather(*map(one, texts))
    return _Pass(
        seconds=time.perf_counter() - began,
        tokens=sum(piece.tokens for piece in found),
        prompt_tokens=sum(piece.prompt_tokens for piece in found),
        texts=[piece.text for piece in found],
    )

"""An engine that plays vLLM's behind ray.serve.llm (RAYLLM_VLLM_ENGINE_CLS): all but the model is real. For .venv-vllm.

It says again what it was asked, a word at a time. What it works on leaves a file in the folder PLAYED_ENGINE, named as the
first word: `WORD.begun`, and `WORD.gone` once nobody waits for it any more. A question that begins with `hold-` is answered
when `go` lies there.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ray.llm._internal.serve.core.configs.openai_api_models import ChatCompletionResponse
from ray.llm._internal.serve.core.engine.protocol import LLMEngine

_LOOK_EVERY_S = 0.01


class PlayedEngine(LLMEngine):
    def __init__(self, llm_config: Any) -> None:
        self._folder = Path(os.environ["PLAYED_ENGINE"])
        self._model = llm_config.model_id
        self._arguments = llm_config.get_engine_config().get_initialization_kwargs()

    async def start(self) -> None:
        (self._folder / "arguments.json").write_text(json.dumps(self._arguments))
        (self._folder / "environment.json").write_text(json.dumps(dict(os.environ)))

    # Ray's own engines are generators, too.
    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:  # type: ignore[override]
        words = str(request.messages[-1]["content"]).split()
        (self._folder / f"{words[0]}.begun").touch()
        try:
            await self._held(words[0])
            if not request.stream:
                yield self._whole(words)
                return
            for word in words:
                yield self._piece({"content": f"{word} "}, None)
                await self._held(words[0])
            yield self._piece({}, "stop")
        except (asyncio.CancelledError, GeneratorExit):
            (self._folder / f"{words[0]}.gone").touch()
            raise

    async def _held(self, word: str) -> None:
        while word.startswith("hold-") and not (self._folder / "go").exists():  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)

    def _whole(self, words: list[str]) -> Any:
        message = {"role": "assistant", "content": " ".join(words)}
        return ChatCompletionResponse(
            model=self._model,
            choices=[{"index": 0, "message": message, "finish_reason": "stop"}],
            usage={
                "prompt_tokens": len(words),
                "completion_tokens": len(words),
                "total_tokens": 2 * len(words),
            },
        )

    def _piece(self, delta: dict[str, str], finish: str | None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {
            "id": "chat-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self._model,
            "choices": [choice],
        }
        return f"data: {json.dumps(chunk)}\n\n"

    def routing_stats(self) -> dict[str, Any]:
        return {}

    async def _not_played(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    resolve_lora = completions = embeddings = transcriptions = reset_prefix_cache = _not_played
    start_profile = stop_profile = _not_played

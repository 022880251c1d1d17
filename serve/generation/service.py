"""One model that chats at work."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec

from bus.registry import first_line
from serve.gateway.json_schema import UnusableSchema
from serve.generation import refusals, structured, tool_calls
from serve.generation.engine_protocol import Engine, Grown, Sampling
from serve.generation.generator import Finish, Generated, GenerateRequest, Json
from serve.generation.growing_text import GrowingText
from serve.local.loading import Loading
from serve.local.refusals import failed
from serve.local.settings import GenerationSpec

_TRIES = 2  # for an answer that has to fit a schema
_WEIGHT = 0.2  # of the newest request in the mean
_STUCK_S = 300.0
_LONGEST_TOKEN = 64  # bytes; what is longer by that is not tokenised to be refused: others wait for it


class GenerationService:
    """Implements serve.generation.generator.Generator. `load` blocks; it begins at once, and again after it has failed."""

    def __init__(
        self,
        model: str,
        spec: GenerationSpec,
        load: Callable[[], Engine],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._spec = spec
        self._clock = clock
        self._names = map(str, itertools.count())
        self._open = 0
        self._mean_s = 1.0
        # A tokenizer is not to be used from two threads.
        self._thread = ThreadPoolExecutor(1, "tokenise")
        self._loading = Loading(model, load, self._thread, clock)
        self._engine: Engine | None = None
        self._steps = 0, clock()  # so many, and since when

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Generated]:
        """Raises ApiError."""
        with self._room():
            engine = self._engine = await self._loading.loaded()
            if request.schema is not None:
                yield await self._fitting(engine, request, request.schema)
                return
            if request.tools and engine.tool_format is None:
                raise refusals.no_tools(self._model)
            answering = self._calling if request.tools else self._sequence
            async with contextlib.aclosing(answering(engine, request)) as pieces:
                async for piece in pieces:
                    yield piece

    def check(self) -> None:
        """Raises RuntimeError when its engine has died or hangs, so that another process takes its place."""
        engine, now = self._engine, self._clock()
        if engine is None:
            return
        if not engine.alive:
            raise RuntimeError(f"The engine of {self._model} has died.")
        steps, since = self._steps
        if not engine.running or engine.steps != steps:
            self._steps = engine.steps, now
        elif now - since > _STUCK_S:
            raise RuntimeError(f"The engine of {self._model} has been at one step for {now - since:.0f} s.")

    async def close(self) -> None:
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)
        self._thread.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Raises ApiError where too many are before this one."""
        most = self._spec.sequences + self._spec.waiting
        if self._open >= most:
            raise refusals.too_many(self._model, self._open, self._mean_s * most / self._spec.sequences)
        self._open += 1
        began = self._clock()
        try:
            yield
        finally:
            self._open -= 1
            self._mean_s += _WEIGHT * (self._clock() - began - self._mean_s)

    async def _fitting(self, engine: Engine, request: GenerateRequest, schema: Json) -> Generated:
        """The model is told the schema, and what it says is read with it: what goes out fits, or is cut by its limit."""
        asked = structured.told(request)
        prompt_tokens = tokens = 0
        why: str | None = None
        for _ in range(_TRIES):
            whole = await self._whole(engine, asked)
            prompt_tokens, tokens = prompt_tokens + whole.prompt_tokens, tokens + whole.tokens
            try:
                why = None
                if whole.finish != "length":
                    why = await asyncio.to_thread(structured.complaint, whole.text, schema)
            except UnusableSchema as error:
                raise refusals.bad_schema(str(error)) from None
            if why is None:
                text = whole.text if whole.finish == "length" else structured.json_of(whole.text)
                return Generated(text=text, finish=whole.finish, prompt_tokens=prompt_tokens, tokens=tokens)
            asked = structured.corrected(asked, whole.text, why)
        raise refusals.does_not_fit(self._model, why or "")

    async def _calling(self, engine: Engine, request: GenerateRequest) -> AsyncGenerator[Generated]:
        """Text as it comes, up to the first call of a tool; the calls at the end, once they can be read."""
        text, said = "", 0
        async with contextlib.aclosing(self._sequence(engine, request)) as pieces:
            async for piece in pieces:
                text += piece.text
                if piece.finish is None:
                    if (ready := tool_calls.sayable(text)) > said:
                        yield Generated(text=text[said:ready])
                        said = ready
                    continue
                try:
                    before, calls = tool_calls.split(text) if piece.finish == "stop" else (text, ())
                except tool_calls.NoToolCall:
                    raise refusals.no_call(self._model) from None
                finish: Finish = "tool_calls" if calls else piece.finish
                yield replace(piece, text=before[said:], tool_calls=calls, finish=finish)

    async def _whole(self, engine: Engine, request: GenerateRequest) -> Generated:
        text = ""
        async with contextlib.aclosing(self._sequence(engine, request)) as pieces:
            async for piece in pieces:
                text += piece.text
        return replace(piece, text=text)

    async def _sequence(self, engine: Engine, request: GenerateRequest) -> AsyncGenerator[Generated]:
        """At least its last piece. Raises ApiError."""
        prompt = await self._prompt(engine, request)
        most = self._most(engine, len(prompt), request.max_tokens)
        text = GrowingText(engine.text, request.stop)
        heard: asyncio.Queue[Grown] = asyncio.Queue()
        name = next(self._names)
        try:
            engine.begin(
                name,
                prompt,
                most,
                Sampling(temperature=request.temperature, top_p=request.top_p, seed=request.seed),
                heard.put_nowait,
                piecemeal=request.piecemeal or bool(request.stop),
            )
        except RuntimeError as error:
            raise failed(self._model, first_line(error)) from None
        ended = False
        try:
            while not ended:
                grown = await heard.get()
                while not grown.ended and not heard.empty():  # who reads slowly reads more at once
                    grown = heard.get_nowait()
                ended = grown.ended
                if grown.error is not None:
                    raise failed(self._model, first_line(RuntimeError(grown.error)))
                new = text.grow(grown.tokens, ended=ended)
                if ended or text.stopped:
                    cut = not text.stopped and len(grown.tokens) >= most and not engine.ends(grown.tokens[-1])
                    yield Generated(
                        text=new,
                        finish="length" if cut else "stop",
                        prompt_tokens=len(prompt),
                        tokens=len(grown.tokens),
                    )
                    return
                if new:
                    yield Generated(text=new)
        finally:
            if not ended:
                engine.cancel(name)

    async def _prompt(self, engine: Engine, request: GenerateRequest) -> list[int]:
        """Raises ApiError."""
        size = len(msgspec.json.encode((request.messages, request.tools)))
        if size > engine.longest * _LONGEST_TOKEN:
            raise refusals.far_too_long(self._model, size, engine.longest)
        in_thread = asyncio.get_running_loop().run_in_executor
        try:
            return await in_thread(self._thread, engine.prompt, request.messages, request.tools)
        except ValueError as error:
            raise refusals.bad_messages(self._model, first_line(error)) from None

    def _most(self, engine: Engine, prompt: int, wanted: int | None) -> int:
        """Tokens of the answer. Raises ApiError where there is no room for them."""
        left = engine.longest - prompt
        if left < (wanted or 1):
            raise refusals.too_long(self._model, prompt, wanted, engine.longest)
        return wanted or min(left, self._spec.max_tokens)

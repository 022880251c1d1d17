"""What a turn asks models: each answer is paid for and recorded once, and charged to the task."""

from __future__ import annotations

import asyncio
import base64
import json
from array import array
from typing import Any

import pytest
from pydantic import BaseModel

from actors import model_calls
from actors.domain import LimitSpec
from actors.models import Json
from actors.retry import NO_RETRY, RetryPolicy
from bus.errors import InvalidMessage, InvalidModelAnswer, ModelFailed, ModelUnavailable, StorageUnavailable
from callboard import Context
from callboard.testing import GivenModels
from tests.unit.waiter import AT, Run, Waiter, leftovers, program, put_away, waiters


class Verdict(BaseModel):
    hostile: bool
    why: str


def says(said: str, **message: Any) -> Json:
    return {
        "model": "tiny-1",
        "choices": [{"message": {"role": "assistant", "content": said, **message}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 4},
    }


async def done(run: Any, models: GivenModels) -> list[Any]:
    """What a handler has put down, after its first turn."""
    async with waiters(models=models) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.dead_letters() == []
        assert leftovers(kit) == (0, 0, 0)
        return list(kit.state(AT).log)


async def test_an_answer_is_asked_for_once_although_the_handler_runs_again() -> None:
    models = GivenModels(lambda path, body: says(body["messages"][0]["content"].upper()))
    crashed, go_on = asyncio.Event(), asyncio.Event()

    async def run(self: Waiter, ctx: Context) -> None:
        model = ctx.model("tiny", temperature=0.5)
        self.state.log.append((await model.chat("a")).text)
        if not go_on.is_set():
            crashed.set()
            await asyncio.Event().wait()
        self.state.log.append((await model.chat("b", max_tokens=9)).text)

    async with waiters(models=models) as kit:
        await kit.send(AT, Run(program=program(run)))
        await crashed.wait()
        await kit.crash()
        go_on.set()
        await kit.recover()
        assert kit.state(AT).log == ["A", "B"]
        assert leftovers(kit) == (0, 0, 0)
    first, second = models.requests
    assert first.body == {
        "model": "tiny", "temperature": 0.5, "messages": [{"role": "user", "content": "a"}],
    }  # fmt: skip
    assert second.body["max_tokens"] == 9
    assert (first.path, first.tenant, first.agent) == ("chat/completions", "default", AT)
    assert first.key != second.key


async def test_a_request_whose_answer_was_lost_is_made_again_with_its_key() -> None:
    """The gateway knows it by that, and hands out the answer that was paid for."""
    arrived, silent = asyncio.Event(), asyncio.Event()

    async def answer(path: str, body: Json) -> Json:
        arrived.set()
        if not silent.is_set():
            await asyncio.Event().wait()
        return says("late")

    models = GivenModels(answer)

    async def run(self: Waiter, ctx: Context) -> None:
        self.state.log.append((await ctx.model("tiny").chat("a")).text)

    async with waiters(models=models) as kit:
        await kit.send(AT, Run(program=program(run)))
        await arrived.wait()
        await kit.crash()
        silent.set()
        await kit.recover()
        assert kit.state(AT).log == ["late"]
    first, second = models.requests
    assert (first.key, first.body) == (second.key, second.body)


async def test_an_answer_that_waits_for_storage_is_charged_once() -> None:
    models = GivenModels(lambda path, body: says("x" * 5_000))

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(str, "before")
        self.state.log.append((await ctx.model("tiny").chat("a")).text[:1])

    async with waiters(models=models, limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob, failures = kit.store.put_blob, [StorageUnavailable("Away.")]

        async def flaky(*arguments: Any) -> None:
            if failures:
                raise failures.pop()
            await put_blob(*arguments)

        kit.store.put_blob = flaky  # type: ignore[method-assign,assignment]
        await kit.send(AT, Run(program=program(run)))
        async with asyncio.timeout(10):
            while not kit.state(AT).log:  # noqa: ASYNC110  (it tries again by real time)
                await asyncio.sleep(0.01)
        recorded = json.loads(kit.history(AT)[-1].body)["calls"]
        assert [call["kind"] for call in recorded].count("charge") == 1
        assert len(models.requests) == 2


async def test_tools_that_the_model_wants_called() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}]
    models = GivenModels(lambda path, body: says("", content=None, tool_calls=calls))

    async def run(self: Waiter, ctx: Context) -> None:
        answer = await ctx.model("tiny").chat(
            [{"role": "user", "content": "a"}], tools=[{"type": "function"}]
        )
        [wanted] = answer.tool_calls
        self.state.log += [answer.text, wanted.id, wanted.name, wanted.arguments, answer.model]
        assert answer.message["tool_calls"] == calls

    assert await done(run, models) == ["", "c1", "look", '{"at": 1}', "tiny-1"]


async def test_an_answer_in_the_form_of_a_model() -> None:
    models = GivenModels(lambda path, body: says('{"hostile": true, "why": "five failures"}'))

    async def run(self: Waiter, ctx: Context) -> None:
        verdict = await ctx.model("tiny").structured("judge", Verdict)
        self.state.log += [str(verdict.hostile), verdict.why]

    assert await done(run, models) == ["True", "five failures"]
    [request] = models.requests
    form = request.body["response_format"]["json_schema"]
    assert (form["name"], form["strict"], form["schema"]) == ("Verdict", True, Verdict.model_json_schema())


async def test_what_does_not_fit_is_asked_for_anew_when_the_turn_is_tried_again() -> None:
    answers = ["nonsense", '{"hostile": false, "why": ""}']
    models = GivenModels(lambda path, body: says(answers.pop(0)))
    seen: list[str] = []

    async def run(self: Waiter, ctx: Context) -> None:
        try:
            verdict = await ctx.model("tiny").structured("judge", Verdict)
        except InvalidModelAnswer as error:
            seen.extend((error.answer, error.message))
            raise
        self.state.log.append(str(verdict.hostile))

    async with waiters(models=models) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        await kit.advance(seconds=5)
        assert kit.state(AT).log == ["False"]
    assert seen[0] == "nonsense"
    assert seen[1].startswith("tiny has not answered as Verdict: ")
    assert (
        len({request.key for request in models.requests}) == 2
    )  # or the gateway would know the first answer still


async def test_vectors_come_as_base64_or_as_numbers() -> None:
    packed = base64.b64encode(array("f", [0.5, -2.0]).tobytes()).decode()
    models = GivenModels(
        lambda path, body: {
            "data": [{"index": 1, "embedding": [1.0, 0.25]}, {"index": 0, "embedding": packed}],
            "usage": {"prompt_tokens": 7},
        }
    )
    found: list[list[float]] = []

    async def run(self: Waiter, ctx: Context) -> None:
        found.extend(await ctx.model("minilm").embed(["a", "b"]))

    await done(run, models)
    assert found == [[0.5, -2.0], [1.0, 0.25]]
    assert models.requests[0].body["encoding_format"] == "base64"


async def test_documents_are_ranked() -> None:
    models = GivenModels(lambda path, body: {"results": [{"index": 1, "relevance_score": 0.9}]})
    found: list[Any] = []

    async def run(self: Waiter, ctx: Context) -> None:
        found.extend(await ctx.model("ranker").rerank("q", ["a", "b"], top_n=1))

    await done(run, models)
    assert [(one.index, one.score) for one in found] == [(1, 0.9)]
    assert models.requests[0].body == {"model": "ranker", "query": "q", "documents": ["a", "b"], "top_n": 1}


@pytest.mark.parametrize(
    "body",
    [{}, {"choices": []}, {"choices": [{"message": None}]}, {"choices": [{"message": {"tool_calls": [{}]}}]}],
)
async def test_an_answer_that_is_none_is_said(body: Json) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        with pytest.raises(ModelFailed, match="cannot be read as a chat's answer"):
            await ctx.model("tiny").chat("a")

    await done(run, GivenModels(lambda path, given: body))


async def test_one_that_is_away_is_asked_again_and_what_it_refuses_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soon = RetryPolicy(attempts=3, first_delay_s=0.001, retry_on=(ModelUnavailable,))
    monkeypatch.setattr(model_calls, "RETRY", soon)
    failures: list[Exception] = [
        ModelUnavailable("away"),
        ModelUnavailable("away"),
        ModelFailed("no such model"),
    ]

    def answer(path: str, body: Json) -> Json:
        if failures:
            raise failures.pop(0)
        return says("here")

    async def run(self: Waiter, ctx: Context) -> None:
        with pytest.raises(ModelFailed, match="chat tiny: no such model") as caught:
            await ctx.model("tiny").chat("a", key="question")
        assert caught.value.place == "question"
        self.state.log.append((await ctx.model("tiny").chat("a")).text)

    models = GivenModels(answer)
    assert await done(run, models) == ["here"]
    assert len({request.key for request in models.requests}) == 2


async def test_one_that_can_be_done_without_is_asked_as_often_as_the_agent_says() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        for retry in (NO_RETRY, RetryPolicy(attempts=3, first_delay_s=0.001)):
            with pytest.raises(ModelFailed, match="chat tiny: away"):
                await ctx.model("tiny", retry=retry, seed=1).chat("a")

    def answer(path: str, body: Json) -> Json:
        raise ModelUnavailable("away")

    models = GivenModels(answer)
    await done(run, models)
    assert [request.body["seed"] for request in models.requests] == [1] * 4
    assert all("retry" not in request.body for request in models.requests)


async def test_without_a_gateway_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_calls, "RETRY", RetryPolicy(attempts=1))

    async def run(self: Waiter, ctx: Context) -> None:
        with pytest.raises(InvalidMessage, match="comes whole"):
            await ctx.model("tiny").chat("a", stream=True)
        with pytest.raises(InvalidMessage, match="comes whole"):
            await ctx.model("tiny", stream=True).chat("a")
        with pytest.raises(ModelFailed, match=r"No model gateway is reached.*callboard up"):
            await ctx.model("tiny").chat("a")
        self.state.log.append("said")

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.dead_letters() == []
        assert kit.state(AT).log == ["said"]


async def test_a_turn_that_is_put_away_has_its_answers_when_it_wakes() -> None:
    models = GivenModels(lambda path, body: says("A"))

    async def run(self: Waiter, ctx: Context) -> None:
        said = (await ctx.model("tiny").chat("a")).text
        await ctx.sleep(60)
        self.state.log.append(said)

    async with waiters(models=models) as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        await kit.advance(seconds=60)
        assert kit.state(AT).log == ["A"]
    assert len(models.requests) == 1

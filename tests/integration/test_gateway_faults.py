"""Upstreams that fail: what is tried again, where, for how long, and what the client is told."""

from __future__ import annotations

import asyncio
import json
import time
from email.utils import formatdate
from typing import Any

import openai
import pytest

from serve.gateway.last_errors import MOST_LETTERS
from tests.integration import upstreams
from tests.integration.gateway import Clock, Front, Stage
from tests.integration.upstreams import (
    Part,
    anthropic_stream,
    chunks,
    completion,
    events,
    held,
    message,
    openai_stream,
    reply,
    silence,
    status,
    then_silence,
)

ASK: Any = [{"role": "user", "content": "Hello"}]
TEXT = {"type": "text", "text": "Hello"}
GOOD = reply(completion())
QUICK = "answer_s: 0.2, retries: 1"


async def ask(front: Front, model: str = "small", **fields: Any) -> Any:
    return await front.client.chat.completions.create(model=model, messages=ASK, **fields)


async def refused(front: Front, model: str = "small", **fields: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(front, model, **fields)
    return caught.value


# -- trying again --------------------------------------------------------------------------------------

PASSING: list[tuple[str, Part]] = [
    ("500", status(500)),
    ("529", status(529)),
    ("409", status(409)),
    ("429", status(429)),
    ("429 with Retry-After", status(429, retry_after="0")),
    ("429 with a date", status(429, retry_after=formatdate(0, usegmt=True))),
    ("503 with milliseconds", status(503, retry_after_ms="1")),
    ("cut JSON", upstreams.text('{"choices": [')),
    ("no object", upstreams.text("[]")),
    ("no choices", upstreams.reply({"choices": []})),
    ("HTML", upstreams.text("<html>")),
]
NO_CHUNKS: list[Any] = ["[1]", '"Hello"', {"choices": ["Hello"]}, {"choices": 7}]


@pytest.mark.parametrize(("fault", "part"), PASSING, ids=[name for name, _ in PASSING])
async def test_what_passes_is_tried_again(front: Front, fault: str, part: Part) -> None:
    front.openai.put_on(part, part, GOOD)
    assert (await ask(front)).choices[0].message.content == "Hello"
    assert len(front.openai.asked) == 3


LASTING: list[tuple[Part, int, str]] = [
    (status(400, error="no such thing", kind="bad"), 400, "bad"),
    (status(422), 400, "some_error"),
    (status(413), 413, "some_error"),
    (status(403), 502, "upstream_refused_key"),
    (status(404), 502, "upstream_unknown_model"),
    (status(418), 502, "upstream_failed"),
    (status(429, kind="insufficient_quota"), 429, "insufficient_quota"),
    (status(429, retry_after="3600"), 429, "some_error"),
]


async def test_what_lasts_is_not_tried_again(front: Front) -> None:
    for part, code, name in LASTING:
        front.openai.put_on(part)
        front.openai.asked.clear()
        error = await refused(front)
        assert (error.status_code, error.code) == (code, name)
        assert len(front.openai.asked) == 1
    assert error.response.headers["retry-after"] == "3600"


async def test_retry_after_is_waited_for(front: Front) -> None:
    front.openai.put_on(status(429, retry_after="0.3"), GOOD)
    began = time.monotonic()
    await ask(front)
    assert time.monotonic() - began >= 0.3


async def test_after_the_last_try_the_client_is_told_and_need_not_try_itself(front: Front) -> None:
    front.openai.put_on(status(500, error="it burns"))
    error = await refused(front)
    assert (error.status_code, error.code) == (502, "upstream_failed")
    assert len(front.openai.asked) == 3  # the SDK's own retries are off: each of these would else be three
    assert "The upstream openai has failed (HTTP 500): it burns" in error.message
    assert error.response.headers["x-should-retry"] == "false"


async def test_a_silent_upstream_is_given_up_in_time(stage: Stage) -> None:
    async with stage.front(times=QUICK) as front:
        front.openai.put_on(silence)
        error = await refused(front)
        assert (error.status_code, error.code) == (504, "upstream_timeout")
        assert len(front.openai.asked) == 2
        await front.openai.gone.wait()  # and its work there is ended
        front.openai.put_on(silence)
        assert (await refused(front, stream=True)).code == "upstream_timeout"


async def test_an_upstream_that_is_not_there_is_unreachable(stage: Stage) -> None:
    more = "  nowhere: {targets: [{upstream: none, model: x}]}"
    upstream = 'upstreams:\n  none: {type: openai_compatible, base_url: "http://127.0.0.1:1/v1", retries: 0}'
    async with stage.front(more=more, upstreams=upstream) as front:
        error = await refused(front, "nowhere")
        assert (error.status_code, error.code) == (502, "upstream_unreachable")


# -- falling back --------------------------------------------------------------------------------------


async def test_the_next_target_answers_when_the_first_does_not(front: Front) -> None:
    front.claude.put_on(reply(message(TEXT)))
    for part in (status(500), status(429, retry_after="3600"), status(401), upstreams.text("{")):
        front.openai.put_on(part)
        raw = await front.client.chat.completions.with_raw_response.create(model="either", messages=ASK)
        assert raw.parse().model == "claude-haiku-4-5"
        assert raw.headers["x-callboard-upstream"] == "claude"


async def test_a_wrong_request_is_wrong_everywhere(front: Front) -> None:
    front.openai.put_on(status(400))
    assert (await refused(front, "either")).status_code == 400
    assert front.claude.asked == []


async def test_an_upstream_without_a_key_is_passed_over(front: Front) -> None:
    front.claude.put_on(reply(message(TEXT)))
    assert (await ask(front, "unset-or-claude")).choices[0].message.content == "Hello"


async def test_when_none_answers_all_of_them_are_named(front: Front) -> None:
    front.openai.put_on(status(404))
    front.claude.put_on(status(529, error="overloaded"))
    error = await refused(front, "either")
    assert (error.status_code, error.code) == (502, "upstream_failed")
    assert "No upstream of either has answered. openai: The upstream openai does not know" in error.message
    assert "claude: The upstream claude has failed (HTTP 529)" in error.message


async def test_a_stream_falls_back_before_its_first_byte(front: Front) -> None:
    front.openai.put_on(openai_stream([], done=False), openai_stream([], cut=True), openai_stream(["{"]))
    front.claude.put_on(anthropic_stream(events((TEXT, []))))
    stream = await ask(front, "either", stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello"
    assert len(front.openai.asked) == 3


CUTS: list[tuple[str, Part]] = [
    ("connection", openai_stream(chunks({"content": "Hel"}, reason=None), cut=True)),
    ("no end", openai_stream(chunks({"content": "Hel"}, reason=None, usage=False), done=False)),
    ("JSON", openai_stream([*chunks({"content": "Hel"}, reason=None, usage=False), '{"id": '], done=False)),
    (
        "told",
        openai_stream([*chunks({"content": "Hel"}, reason=None, usage=False), {"error": {"message": "no"}}]),
    ),
]


@pytest.mark.parametrize("wrong", NO_CHUNKS)
async def test_a_chunk_that_is_none_is_malformed_and_the_next_target_answers(
    front: Front, wrong: Any
) -> None:
    front.openai.put_on(openai_stream([wrong]))
    front.claude.put_on(anthropic_stream(events((TEXT, []))))
    stream = await ask(front, "either", stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello"
    [error] = (await front.state())["errors"]
    assert (error["upstream"], error["code"]) == ("openai", "upstream_malformed")


@pytest.mark.parametrize("wrong", [{"data": []}, {"data": [{}, {}]}, upstreams.embeddings([0.5])])
async def test_as_many_embeddings_as_texts_or_none(front: Front, wrong: Any) -> None:
    front.openai.put_on(reply(wrong))
    with pytest.raises(openai.APIStatusError) as caught:
        await front.client.embeddings.create(model="vectors", input=["a", "b"], encoding_format="float")
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_malformed")


@pytest.mark.parametrize(("cut", "part"), CUTS, ids=[name for name, _ in CUTS])
async def test_after_the_first_byte_nobody_else_is_asked(front: Front, cut: str, part: Part) -> None:
    front.openai.put_on(part)
    front.claude.put_on(anthropic_stream(events((TEXT, []))))
    body = json.dumps({"model": "either", "messages": ASK, "stream": True}).encode()
    raw = await front.post("/v1/chat/completions", body)
    frames = raw.text.rstrip().split("\n\n")
    assert '"content":"Hel"' in frames[1]
    assert json.loads(frames[-1].removeprefix("data: "))["error"]["type"] == "upstream_error"
    assert "[DONE]" not in raw.text
    assert (len(front.openai.asked), front.claude.asked) == (1, [])
    stream = await ask(front, "either", stream=True)
    with pytest.raises(openai.APIError):
        _ = [chunk async for chunk in stream]


async def test_a_cut_stream_of_anthropics_is_an_error_too(front: Front) -> None:
    front.claude.put_on(anthropic_stream(events((TEXT, []))[:-2]))
    stream = await ask(front, "claude", stream=True)
    with pytest.raises(openai.APIError, match="The connection to the upstream claude has failed"):
        _ = [chunk async for chunk in stream]


ORDERED = """
  cheap: {strategy: cost, targets: [
    {upstream: openai, model: a, price: {input: 2}}, {upstream: claude, model: b, price: {input: 1}}]}
  fast: {strategy: latency, targets: [{upstream: openai, model: a}, {upstream: claude, model: b}]}
"""


async def test_the_cheapest_is_asked_first_and_the_others_when_it_fails(stage: Stage) -> None:
    async with stage.front(times="retries: 0", more=ORDERED) as front:
        front.openai.put_on(GOOD)
        front.claude.put_on(reply(message(TEXT)), status(500))
        for model in ("claude-haiku-4-5", "gpt-5-mini-2025-08-07"):
            assert (await ask(front, "cheap")).model == model
        assert (len(front.claude.asked), len(front.openai.asked)) == (2, 1)


async def test_the_fastest_is_asked_first_and_what_fails_is_not_fast(stage: Stage) -> None:
    clock = Clock()
    async with stage.front(times="retries: 0", more=ORDERED, clock=clock) as front:
        front.openai.put_on(status(500), GOOD)
        front.claude.put_on(reply(message(TEXT)))
        for _ in range(3):  # the first one fails, and is known for it
            assert (await ask(front, "fast")).model == "claude-haiku-4-5"
        assert (len(front.openai.asked), len(front.claude.asked)) == (1, 3)
        clock.now += 60
        assert (await ask(front, "fast")).model == "gpt-5-mini-2025-08-07"


# -- what is remembered of it --------------------------------------------------------------------------


async def test_the_last_error_of_each_target_is_shown_without_its_key_and_in_bounds(stage: Stage) -> None:
    clock = Clock()
    async with stage.front(clock=clock) as front:
        front.openai.put_on(status(500, error=f"{upstreams.KEY} " + "x" * 5000))
        await refused(front)
        clock.now += 5
        front.claude.put_on(status(400, error="the client's own matter"))
        await refused(front, "claude")
        await refused(front, "unset")
        keyless, failed = (await front.state())["errors"]
        assert (keyless["upstream"], keyless["model"]) == ("keyless", "gpt-5-mini")
        assert (keyless["code"], keyless["ago_s"]) == ("upstream_not_configured", 0)
        assert (failed["upstream"], failed["code"], failed["ago_s"]) == ("openai", "upstream_failed", 5)
        assert failed["error"].startswith("The upstream openai has failed (HTTP 500): [API_KEY] xxx")
        assert len(failed["error"]) <= MOST_LETTERS
        [missing] = (await front.state())["missing_keys"]
        assert (missing["secret"], missing["models"]) == ("NOBODY_HAS_IT", ["unset", "unset-or-claude"])


async def test_the_last_error_of_a_stream_is_the_one_that_cut_it(front: Front) -> None:
    front.openai.put_on(openai_stream(chunks({"content": "Hel"}, reason=None), cut=True))
    with pytest.raises(openai.APIError):
        async for _ in await ask(front, stream=True):
            pass
    [cut] = (await front.state())["errors"]
    assert (cut["upstream"], cut["code"]) == ("openai", "upstream_unreachable")


# -- the circuit breaker -------------------------------------------------------------------------------


async def test_five_failures_open_it_and_three_trials_close_it(stage: Stage) -> None:
    clock = Clock()
    async with stage.front(times="retries: 0", clock=clock) as front:
        front.openai.put_on(status(500))
        for _ in range(5):
            assert (await refused(front)).code == "upstream_failed"
        asked = len(front.openai.asked)
        error = await refused(front)
        assert (error.status_code, error.code) == (503, "upstream_resting")
        assert error.response.headers["retry-after"] == "30"
        assert len(front.openai.asked) == asked == 5
        assert (await front.state())["upstreams"]["openai"] == "open"
        clock.now += 30
        front.openai.put_on(held(GOOD))
        trials = [asyncio.create_task(ask(front)) for _ in range(3)]
        while len(front.openai.asked) < 8:
            front.openai.arrived.clear()
            await front.openai.arrived.wait()
        assert (await refused(front)).code == "upstream_resting"  # a fourth at once
        front.openai.go_on.set()
        await asyncio.gather(*trials)
        assert (await front.state())["upstreams"]["openai"] == "closed"


async def test_streams_that_are_cut_open_it_too(stage: Stage) -> None:
    async with stage.front() as front:
        front.openai.put_on(CUTS[0][1])
        for _ in range(5):
            stream = await ask(front, stream=True)
            with pytest.raises(openai.APIError):
                _ = [chunk async for chunk in stream]
        assert (await front.state())["upstreams"]["openai"] == "open"


async def test_the_next_target_answers_at_once_while_it_is_open(stage: Stage) -> None:
    async with stage.front(times="retries: 0") as front:
        front.openai.put_on(status(500))
        front.claude.put_on(reply(message(TEXT)))
        for _ in range(7):
            assert (await ask(front, "either")).choices[0].message.content == "Hello"
        assert len(front.openai.asked) == 5


# -- clients that go away ------------------------------------------------------------------------------


async def _leave(front: Front, **fields: Any) -> None:
    asking = asyncio.create_task(ask(front, **fields))
    await front.openai.arrived.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(front.openai.gone.wait(), 5)


async def test_the_upstreams_work_ends_when_the_client_goes_away(front: Front) -> None:
    front.openai.put_on(silence)
    await _leave(front)


async def test_so_it_does_before_a_streams_first_byte(front: Front) -> None:
    front.openai.put_on(silence)
    await _leave(front, stream=True)


async def test_and_in_the_midst_of_a_stream(front: Front) -> None:
    front.openai.put_on(then_silence(chunks({"content": "Hel"}, reason=None, usage=False)))
    stream = await ask(front, stream=True)
    async for _ in stream:
        break
    await stream.close()
    await asyncio.wait_for(front.openai.gone.wait(), 5)


async def test_a_stream_that_falls_silent_is_ended(stage: Stage) -> None:
    async with stage.front(times="silence_s: 0.2") as front:
        front.openai.put_on(then_silence(chunks({"content": "Hel"}, reason=None, usage=False)))
        stream = await ask(front, stream=True)
        with pytest.raises(openai.APIError, match="has not answered in time"):
            _ = [chunk async for chunk in stream]


async def test_what_clients_do_says_nothing_of_an_upstreams_health(front: Front) -> None:
    for _ in range(6):
        front.openai.fresh()
        front.openai.put_on(silence)
        await _leave(front)
    front.openai.put_on(status(400))
    for _ in range(6):
        await refused(front)
    assert (await front.state())["upstreams"]["openai"] == "closed"

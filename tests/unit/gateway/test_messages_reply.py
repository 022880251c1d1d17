"""The gateway's answers as Anthropic's, by the types of its SDK; and those of Anthropic there and back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message
from anthropic.types.raw_message_stream_event import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from serve.gateway.anthropic_reply import Chunks, completion
from serve.gateway.anthropic_words import FINISH_REASONS, STOP_REASONS, kind_of
from serve.gateway.errors import ApiError
from serve.gateway.messages_reply import ANTHROPIC
from tests.integration import upstreams

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"ip": "a"}'}}
USE = {"type": "tool_use", "id": "call_1", "name": "look_up", "input": {"ip": "a"}}


def answer(*, content: Any = "Hello", reason: str = "stop", **message: Any) -> dict[str, Any]:
    body = upstreams.completion(content)
    body["choices"][0]["finish_reason"] = reason
    body["choices"][0]["message"] |= message
    return body


def message(body: dict[str, Any]) -> dict[str, Any]:
    found = ANTHROPIC.answer(body)
    Message.model_validate(found)
    return found


async def events(chunks: Iterable[Any]) -> list[Any]:
    async def given_on() -> AsyncIterator[Any]:
        for chunk in chunks:
            yield chunk

    found = []
    async for frame in ANTHROPIC.frames(given_on()):
        name, data, *rest = frame.decode().split("\n")
        assert rest == ["", ""]
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def told(made: list[Any]) -> dict[str, Any]:
    """What the SDK makes of the events."""
    snapshot = None
    buffers: dict[int, bytes] = {}
    for event in made:
        snapshot = accumulate_event(
            event=EVENT.validate_python(event), current_snapshot=snapshot, json_bufs=buffers
        )
    assert snapshot is not None
    found = snapshot.to_dict()
    assert found.pop("stop_details") is None  # the SDK's own
    return found


def test_a_plain_answer() -> None:
    usage = {"prompt_tokens": 1210, "completion_tokens": 5, "total_tokens": 1215}
    details = {"cached_tokens": 200, "cache_write_tokens": 10}
    assert message({**answer(), "usage": {**usage, "prompt_tokens_details": details}}) == {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "model": "gpt-5-mini-2025-08-07",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 1000,
            "output_tokens": 5,
            "cache_read_input_tokens": 200,
            "cache_creation_input_tokens": 10,
        },
    }


def test_what_an_upstream_does_not_say_is_nothing() -> None:
    bare = {"choices": [{"message": {"content": None}}]}
    found = message(bare)
    assert found["id"].startswith("msg_")
    assert (found["content"], found["stop_reason"], found["usage"]["output_tokens"]) == ([], "end_turn", 0)


ENDINGS: list[tuple[dict[str, Any], str | None, str | None]] = [
    ({"reason": "length"}, "max_tokens", None),
    ({"reason": "content_filter"}, "refusal", None),
    ({"reason": "eos"}, "end_turn", None),
    ({"refusal": "No.", "content": None}, "refusal", None),
    ({"tool_calls": [CALL], "reason": "tool_calls"}, "tool_use", None),
    ({"tool_calls": [CALL], "reason": "stop"}, "tool_use", None),
]


@pytest.mark.parametrize(("given_", "reason", "sequence"), ENDINGS)
async def test_why_it_has_ended_is_the_same_in_a_stream(
    given_: dict[str, Any], reason: str | None, sequence: str | None
) -> None:
    whole = message(answer(**given_))
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)
    delta = {"content": "Hello", **{name: value for name, value in given_.items() if name != "reason"}}
    made = told(await events(upstreams.chunks(delta, reason=given_.get("reason", "stop"))))
    assert (made["stop_reason"], made["stop_sequence"]) == (reason, sequence)
    assert made["content"] == whole["content"]


async def test_the_text_that_has_ended_it_is_known_where_the_server_says_it() -> None:
    body = answer()
    body["choices"][0]["stop_reason"] = "END"  # as vLLM has it; a number is a token's
    assert (message(body)["stop_reason"], message(body)["stop_sequence"]) == ("stop_sequence", "END")
    body["choices"][0]["stop_reason"] = 128009
    assert (message(body)["stop_reason"], message(body)["stop_sequence"]) == ("end_turn", None)
    made = upstreams.chunks({"content": "Hello"})
    made[-2]["choices"][0]["stop_reason"] = "END"
    ended = told(await events(made))
    assert (ended["stop_reason"], ended["stop_sequence"]) == ("stop_sequence", "END")


def test_calls_of_tools() -> None:
    found = message(answer(content="Wait.", reason="tool_calls", tool_calls=[CALL, {**CALL, "id": "call_2"}]))
    assert found["content"] == [{"type": "text", "text": "Wait."}, USE, {**USE, "id": "call_2"}]
    none = {**CALL, "function": {"name": "look_up", "arguments": ""}}
    assert message(answer(tool_calls=[none]))["content"][1]["input"] == {}


def test_a_call_that_cannot_be_told_is_an_error_unless_the_message_says_why() -> None:
    cut = {**CALL, "function": {"name": "look_up", "arguments": '{"ip": '}}
    with pytest.raises(ApiError, match="the arguments of its call of look_up are no JSON object") as caught:
        message(answer(tool_calls=[cut], reason="tool_calls"))
    assert (caught.value.status, caught.value.code, caught.value.unwell) == (502, "upstream_malformed", False)
    found = message(answer(content="Wait.", tool_calls=[CALL, cut], reason="length"))
    assert (found["content"], found["stop_reason"]) == (
        [{"type": "text", "text": "Wait."}, USE],
        "max_tokens",
    )


@pytest.mark.parametrize(
    "body",
    [{}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": {"content": [1]}}]},
     {"choices": [{"message": {"tool_calls": [{}]}}]}],
)  # fmt: skip
def test_an_answer_that_is_none_is_malformed(body: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        message(body)
    assert (caught.value.status, caught.value.code) == (502, "upstream_malformed")


async def test_a_stream_of_text() -> None:
    made = await events(upstreams.chunks({"content": "Hel"}, {"content": "lo"}))
    assert [event["type"] for event in made] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta",
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    usage = {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    assert made[-2]["usage"] == {"input_tokens": 1000, "output_tokens": 100, **usage}
    assert told(made)["content"] == [{"type": "text", "text": "Hello"}]
    assert told(made)["usage"]["input_tokens"] == 1000


async def test_a_stream_of_calls() -> None:
    def piece(at: int, arguments: str, **more: Any) -> dict[str, Any]:
        function = {"arguments": arguments, **({"name": "look_up"} if "id" in more else {})}
        return {"tool_calls": [{"index": at, "function": function, **more}]}

    deltas = [
        {"content": "Wait."},
        piece(0, "", id="call_1", type="function"),
        piece(0, '{"ip":'),
        piece(0, ' "a"}', id="call_1"),  # some say it each time
        piece(1, '{"ip": "a"}', id="call_2"),
        piece(1, "", id="call_3"),  # and some count wrong
        {"content": "Done."},
    ]
    expected = [
        {"type": "text", "text": "Wait."},
        USE,
        {**USE, "id": "call_2"},
        {**USE, "id": "call_3", "input": {}},
        {"type": "text", "text": "Done."},
    ]
    made = await events(upstreams.chunks(*deltas, reason="tool_calls"))
    assert told(made)["content"] == expected
    starts = [event["index"] for event in made if event["type"] == "content_block_start"]
    stops = [event["index"] for event in made if event["type"] == "content_block_stop"]
    assert starts == stops == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "delta",
    [{"content": ["x"]}, {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, {"tool_calls": ["x"]}, "x"],
)  # fmt: skip
async def test_a_chunk_that_is_none_is_malformed(delta: Any) -> None:
    with pytest.raises(ApiError) as caught:
        await events(upstreams.chunks(delta))
    assert (caught.value.status, caught.value.code) == (502, "upstream_malformed")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (404, "not_found_error"),
     (405, "invalid_request_error"), (413, "request_too_large"), (429, "rate_limit_error"), (500, "api_error"),
     (502, "api_error"), (503, "overloaded_error"), (504, "timeout_error"), (529, "overloaded_error")],
)  # fmt: skip
def test_the_kind_of_an_error(status: int, kind: str) -> None:
    assert kind_of(status) == kind
    error = ApiError("no", fix="Wait.", status=status, code="some")
    assert ANTHROPIC.refusal(error) == {
        "type": "error",
        "error": {"type": kind, "message": str(error), "details": {"error_code": "some"}},
    }


def test_each_reason_of_openais_is_told_as_the_plainest_of_anthropics() -> None:
    assert STOP_REASONS == {
        "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"
    }  # fmt: skip
    assert all(FINISH_REASONS[stop] == finish for finish, stop in STOP_REASONS.items())


# -- there and back ------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
texts = st.builds(lambda text: {"type": "text", "text": text}, words)
uses = st.builds(
    lambda given_: {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": given_},
    st.dictionaries(words, words | st.integers() | st.none(), max_size=3),
)


@given(st.lists(texts, max_size=1), st.lists(uses, max_size=1), st.sampled_from(["END", None]))
async def test_an_answer_of_anthropics_comes_back_as_it_was(
    said: list[Any], called: list[Any], sequence: str | None
) -> None:
    stop = "tool_use" if called else "end_turn" if sequence is None else "stop_sequence"
    given_ = {**upstreams.message(*said, *called, stop=stop), "stop_sequence": None if called else sequence}
    assert message(completion(Message.model_validate(given_))) == given_
    chunks = Chunks()
    deltas = [
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": one["text"]}]) for one in said
    ] + [
        ({**one, "input": {}}, [{"type": "input_json_delta", "partial_json": json.dumps(one["input"])}])
        for one in called
    ]
    stream = [one for one in upstreams.events(*deltas, stop=stop) if one["type"] != "ping"]
    stream[-2]["delta"]["stop_sequence"] = given_["stop_sequence"]
    made = await events(chunk for event in stream for chunk in chunks.of(EVENT.validate_python(event)))
    assert told(made) == given_

"""A request of Anthropic's API as a chat, and on to Anthropic: what is carried, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.gateway.anthropic_request import to_anthropic
from serve.gateway.errors import ApiError
from serve.gateway.messages_request import FAILED, read_messages
from serve.gateway.models_file import TargetSpec

TARGET = TargetSpec(upstream="claude", model="claude-haiku-4-5")
SCHEMA = {"type": "object", "properties": {"ip": {"type": "string"}}}
PNG = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
HELLO = {"role": "user", "content": "Hello"}
USE = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"ip": "192.0.2.1", "of": None}}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": "small", "max_tokens": 100, "messages": [HELLO], **fields}


def chat(**fields: Any) -> dict[str, Any]:
    return read_messages(json.dumps(asked(**fields)).encode()).body


def said(*messages: Any) -> Any:
    """As a chat has it."""
    return chat(messages=[*messages, HELLO])["messages"][:-1]


def test_a_plain_request_is_a_plain_chat() -> None:
    assert chat() == {"model": "small", "messages": [HELLO], "max_tokens": 100}


FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0}, {"temperature": 0}),
    ({"top_p": 0.5, "top_k": 4}, {"top_p": 0.5, "top_k": 4}),
    ({"stop_sequences": ["END", "\n\n"]}, {"stop": ["END", "\n\n"]}),
    ({"stop_sequences": []}, {}),
    ({"metadata": {"user_id": "u1"}}, {"user": "u1"}),
    ({"metadata": {}, "stream": False, "thinking": None, "tools": []}, {}),
    ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, {}),
    ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
            }
        },
    ),
]


@pytest.mark.parametrize(("fields", "expected"), FIELDS)
def test_a_field_as_a_chat_has_it(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(**fields) == {**chat(), **expected}


TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "look_up", "parameters": SCHEMA, "description": "d", "strict": True},
}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, {}),
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "look_up", "disable_parallel_tool_use": True},
            {
                "tool_choice": {"type": "function", "function": {"name": "look_up"}},
                "parallel_tool_calls": False,
            },
        ),
        ({"type": "auto", "disable_parallel_tool_use": False}, {"tool_choice": "auto"}),
    ],
)
def test_tools_and_which_of_them(choice: Any, expected: dict[str, Any]) -> None:
    tool = {
        "type": "custom",
        "name": "look_up",
        "description": "d",
        "input_schema": SCHEMA,
        "strict": True,
        "cache_control": {"type": "ephemeral"},
    }
    assert chat(tools=[tool], tool_choice=choice) == {**chat(), "tools": [TOOL], **expected}


def test_a_system_prompt_is_the_first_message() -> None:
    texts = [
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be kind."},
    ]
    parts = [{"type": "text", "text": one} for one in ("Be brief.", "Be kind.")]
    assert chat(system="Be brief.")["messages"] == [{"role": "system", "content": "Be brief."}, HELLO]
    assert chat(system=texts[:1])["messages"] == [{"role": "system", "content": "Be brief."}, HELLO]
    assert chat(system=texts)["messages"] == [{"role": "system", "content": parts}, HELLO]
    assert chat(system="")["messages"] == [HELLO]
    assert said({"role": "system", "content": "Be kind."}) == [{"role": "system", "content": "Be kind."}]


def test_a_conversation_with_tools_and_pictures() -> None:
    url = {"type": "url", "url": "https://example.org/a.png"}
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "somebody"},
        {"type": "tool_result", "tool_use_id": "toolu_2"},
        {
            "type": "tool_result",
            "tool_use_id": "toolu_3",
            "content": [{"type": "text", "text": "see"}, {"type": "image", "source": PNG}],
        },
    ]
    uses = [{**USE, "caller": {"type": "direct"}}, {**USE, "id": "toolu_2", "input": {}}]
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    assert said(
        {
            "role": "user",
            "content": [{"type": "text", "text": "Who?"}, {"type": "image", "source": url}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, *uses]},
        {"role": "user", "content": [*results, {"type": "text", "text": "And now?"}]},
        {"role": "assistant", "content": [uses[0]]},
    ) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Who?"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {
                    "id": "toolu_1",
                    "type": "function",
                    "function": {"name": "look_up", "arguments": '{"ip":"192.0.2.1","of":null}'},
                },
                {"id": "toolu_2", "type": "function", "function": {"name": "look_up", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "somebody"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": ""},
        {"role": "tool", "tool_call_id": "toolu_3", "content": [{"type": "text", "text": "see"}, picture]},
        {"role": "user", "content": "And now?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "toolu_1",
                    "type": "function",
                    "function": {"name": "look_up", "arguments": '{"ip":"192.0.2.1","of":null}'},
                }
            ],
        },
    ]


def test_that_a_tool_has_failed_is_said_in_words() -> None:
    def failed(content: Any) -> Any:
        result = {"type": "tool_result", "tool_use_id": "t", "content": content, "is_error": True}
        return said({"role": "user", "content": [result]})[0]["content"]

    assert failed("no such host") == f"{FAILED} no such host"
    assert failed([{"type": "text", "text": "no such host"}]) == f"{FAILED} no such host"
    parts = failed([{"type": "image", "source": PNG}])
    assert [part.get("text") for part in parts] == [FAILED, None]


def turn(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(blocks)}, HELLO]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
    ({"service_tier": "auto"}, "service_tier"),
    ({"container": "c"}, "container"),
    ({"mcp_servers": []}, "mcp_servers"),
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"temperature": 1.5}, "temperature"),
    ({"metadata": {"user": "u"}}, "metadata.user"),
    ({"system": [{"type": "image", "source": PNG}]}, "system[0].type"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]}, "tools[0].type"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [{"name": "f", "input_schema": {"type": "objekt"}}]}, "tools[0].input_schema"),
    ({"tools": [{"name": "f", "input_schema": SCHEMA, "defer_loading": True}]}, "tools[0].defer_loading"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"output_config": {"task_budget": 1}}, "output_config.task_budget"),
    ({"messages": []}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": [HELLO, {"role": "assistant", "content": "I am"}]}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    (turn(), "messages[0].content"),
    (turn("Hello"), "messages[0].content[0]"),
    (turn({"text": "Hello"}), "messages[0].content[0]"),
    (turn({"type": "text"}), "messages[0].content[0].text"),
    (turn({"type": "text", "text": ""}), "messages[0].content[0].text"),
    (turn({"type": "text", "text": "x", "citations": [{}]}), "messages[0].content[0].citations"),
    (turn(DOCUMENT), "messages[0].content[0]"),
    (turn({"type": "image", "source": {"type": "file", "file_id": "f"}}), "messages[0].content[0].source"),
    (
        turn({"type": "image", "source": {"type": "url", "url": "ftp://x"}}),
        "messages[0].content[0].source.url",
    ),
    (
        turn({"type": "image", "source": {**PNG, "media_type": "image/tiff"}}),
        "messages[0].content[0].source.media_type",
    ),
    (turn({"type": "text", "text": "x"}, {"type": "tool_result", "tool_use_id": "t"}), "messages[0].content"),
    (
        turn({"type": "tool_result", "tool_use_id": "t", "content": [DOCUMENT]}),
        "messages[0].content[0].content[0]",
    ),
    (turn(USE), "messages[0].content[0]"),
    (turn({"type": "thinking", "thinking": "x", "signature": "s"}, role="assistant"), "messages[0].content[0]"),
    (turn({**USE, "caller": {"type": "code_execution_20260120"}}, role="assistant"), "messages[0].content[0].caller.type"),
    (turn({**USE, "input": "x"}, role="assistant"), "messages[0].content[0].input"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "place"), REFUSED, ids=[str(place) for _, place in REFUSED])
def test_what_a_chat_has_no_place_for_is_refused_by_its_place(fields: dict[str, Any], place: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert (caught.value.status, caught.value.param) == (400, place)
    assert str(caught.value).startswith(f"{place}: ")


def test_the_words_of_a_refusal() -> None:
    with pytest.raises(ApiError, match=r"^thinking: has no place in a chat"):
        chat(thinking={"type": "adaptive"})
    with pytest.raises(
        ApiError, match=r"content\[0\]: a document block has no place here.*'tool_result block'"
    ):
        chat(**turn(DOCUMENT))


def test_a_tools_input_is_read_or_too_deep_whatever_its_depth() -> None:
    head = b'{"model":"m","max_tokens":1,"messages":[{"role":"assistant","content":['
    end = b']},{"role":"user","content":"x"}]}'

    def is_read(depth: int) -> bool:
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        content = head + b'{"type":"tool_use","id":"t","name":"f","input":' + deep + b"}" + end
        try:
            return bool(read_messages(content))
        except ApiError:
            return False

    read = [is_read(depth) for depth in range(700, 1000)]  # what could just be read must be written again
    assert read == sorted(read, reverse=True)
    assert set(read) == {True, False}


# -- there and back ------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
texts = st.builds(lambda text: {"type": "text", "text": text}, words)
pictures = st.sampled_from(
    [{"type": "image", "source": PNG}, {"type": "image", "source": {"type": "url", "url": "https://x.org/a"}}]
)
ids = st.from_regex(r"toolu_[a-z]{1,8}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | words, lambda inner: st.lists(inner, max_size=3)
)
uses = st.builds(
    lambda id_, given: {"type": "tool_use", "id": id_, "name": "look_up", "input": given},
    ids, st.dictionaries(words, values, max_size=3),
)  # fmt: skip
results = st.builds(
    lambda id_, content: {"type": "tool_result", "tool_use_id": id_, "content": content},
    ids, words | st.lists(texts | pictures, min_size=2, max_size=3),
)  # fmt: skip
users = st.builds(
    lambda first, then: {"role": "user", "content": first + then},
    st.lists(results, max_size=2), st.lists(texts | pictures, min_size=1, max_size=3),
)  # fmt: skip
assistants = st.builds(
    lambda first, then: {"role": "assistant", "content": first + then},
    st.lists(texts, max_size=2), st.lists(uses, min_size=1, max_size=2),
)  # fmt: skip
conversations = st.builds(
    lambda pairs, last: [turn for pair in pairs for turn in pair] + [last],
    st.lists(st.tuples(users, assistants), max_size=3), users,
)  # fmt: skip


@given(system=st.lists(texts, max_size=3), messages=conversations)
def test_a_request_that_goes_on_to_anthropic_keeps_every_word(
    system: list[dict[str, Any]], messages: list[dict[str, Any]]
) -> None:
    tool = {"name": "look_up", "description": "d", "input_schema": SCHEMA, "strict": True}
    fields = {
        "max_tokens": 7,
        "messages": messages,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
        "tools": [tool],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    }
    content = json.dumps({"model": "small", "system": system, **fields}).encode()
    given_on = to_anthropic(TARGET, read_messages(content))
    expected = {"model": TARGET.model, **fields, **({"system": system} if system else {})}
    assert given_on == expected

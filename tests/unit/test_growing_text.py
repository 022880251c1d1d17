"""Text of tokens that come one by one: whole characters, and no part of a stop."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from serve.generation.growing_text import GrowingText


def of_bytes(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def by_fallback(tokens: Sequence[int]) -> str:
    """As tokenizers with a token for each byte: what is not ASCII is read as a whole, or not at all."""

    def read(run: re.Match[bytes]) -> bytes:
        try:
            return run[0].decode().encode()
        except UnicodeDecodeError:
            return "\ufffd".encode() * len(run[0])

    return re.sub(rb"[\x80-\xff]+", read, bytes(tokens)).decode()


@given(st.text(alphabet="aü\u1e81\U0001f600 ", max_size=40))
def test_characters_of_several_tokens_are_never_cut_in_what_is_read_again(text: str) -> None:
    tokens = text.encode()
    growing = GrowingText(by_fallback, [])
    said = [growing.grow(tokens[:at], ended=at == len(tokens)) for at in range(1, len(tokens) + 1)]
    assert "".join(said) == text


@given(
    st.text(alphabet="abENDü\U0001f600 ", max_size=40), st.lists(st.sampled_from(["END", "aba", "ü", "b "]))
)
def test_what_is_said_is_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    tokens = text.encode()
    growing = GrowingText(of_bytes, stops)
    said = [growing.grow(tokens[:at], ended=at == len(tokens)) for at in range(1, len(tokens) + 1)]
    # The stop that is complete first; of those that are complete at once the one that begins first.
    ends = {text.find(stop) + len(stop) for stop in stops if stop in text}
    first = min(ends, default=None)
    known = text if first is None else text[:first]
    wanted = min((known.find(stop) for stop in stops if stop in known), default=len(text))
    assert "".join(said) == text[:wanted]
    assert growing.stopped == (first is not None)


def test_half_a_character_waits_for_the_rest_unless_it_is_the_end() -> None:
    tokens = "ü".encode()
    assert GrowingText(of_bytes, []).grow(tokens[:1]) == ""
    assert GrowingText(of_bytes, []).grow(tokens[:1], ended=True) == "\ufffd"

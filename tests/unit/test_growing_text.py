"""Text of tokens that come one by one: whole characters, and no part of a stop."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from serve.generation.growing_text import GrowingText


def of_bytes(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode(errors="replace")


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

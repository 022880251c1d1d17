"""Which chats are one question, and which answers are near enough to it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from serve.gateway.models_file import SimilarSpec, TargetSpec
from serve.gateway.relay import Answer
from serve.gateway.requests import ChatRequest, read_chat, read_embeddings
from serve.gateway.similar import LONGEST, Question, SimilarAnswers

TARGET = TargetSpec(upstream="openai", model="gpt-5-mini")
ASKED: dict[str, Any] = {"model": "small", "temperature": 0, "messages": [{"role": "user", "content": "q"}]}
EAST = [1.0, 0.0]


def at(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


class Rig:
    def __init__(self, **spec: Any) -> None:
        self.now = 0.0
        self.drawn = 0.99
        self.similar = SimilarAnswers(
            SimilarSpec(**{"by": "vectors", "threshold": 0.9, **spec}),
            b"revision",
            100.0,
            lambda: self.now,
            lambda: self.drawn,
        )

    def question(
        self, tenant: str = "t", corpus: str | None = None, category: str | None = None, **changes: Any
    ) -> Question | None:
        asked = {name: value for name, value in (ASKED | changes).items() if value is not None}
        return self.similar.question(tenant, chat(asked), corpus, category)

    def keep(self, said: str, vector: list[float], **how: Any) -> None:
        question = self.question(**how)
        assert question is not None
        self.similar.keep(question, vector, answer(said))

    def found(self, vector: list[float], **how: Any) -> Any:
        question = self.question(**how)
        assert question is not None
        found = self.similar.find(question, vector)
        return None if found is None else found.answer.body["said"]


def chat(asked: dict[str, Any]) -> ChatRequest:
    return read_chat(msgspec.json.encode(asked))


def answer(said: str) -> Answer:
    return Answer(TARGET, {"said": said})


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_the_nearest_that_is_near_enough() -> None:
    rig = Rig()
    assert rig.found(EAST) is None
    rig.keep("30 away", at(30))
    assert rig.found(EAST) is None  # cosine 0.87
    rig.keep("20 away", at(20))
    rig.keep("10 away", at(-10))
    assert rig.found(EAST) == "10 away"
    question = rig.question()
    assert question is not None
    found = rig.similar.find(question, [3 * x for x in EAST])  # their length does not matter
    assert found is not None
    assert found.answer.similarity == pytest.approx(math.cos(math.radians(10)), abs=1e-3)
    assert rig.similar.state == {"kept": 3, "given": 2, "vetoed": 0, "sampled": 0, "wrong": 0}


def test_a_veto_passes_over_the_nearest() -> None:
    rig = Rig()
    rig.keep("of 1914", EAST, messages=says("what happened in 1914"))
    assert rig.found(EAST, messages=says("what happened in 1918")) is None
    assert rig.similar.state["vetoed"] == 1
    rig.keep("of 1918", at(5), messages=says("what came to pass in 1918"))
    assert rig.found(EAST, messages=says("what happened in 1918")) == "of 1918"


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "other"},
        {"corpus": "2026-11"},
        {"model": "large"},
        {"max_tokens": 5},
        {"seed": 7},
        {"top_p": 0.5},
        {"response_format": {"type": "json_object"}},
        {"user": "ada"},
        {"messages": [{"role": "system", "content": "Be brief."}, *says("q")]},
        {"messages": [{"role": "user", "content": "q", "name": "ada"}]},
    ],
)
def test_all_else_must_be_the_same(other: dict[str, Any]) -> None:
    rig = Rig()
    rig.keep("kept", EAST)
    assert rig.found(EAST) == "kept"
    assert rig.found(EAST, **other) is None
    rig.keep("of the other", EAST, **other)
    assert rig.found(EAST, **other) == "of the other"
    assert rig.found(EAST) == "kept"


def test_a_model_that_was_changed_is_another() -> None:
    ours, changed = Rig(), SimilarAnswers(SimilarSpec(by="vectors"), b"another", 100.0)
    request = chat(ASKED)
    one, other = (s.question("t", request, None, None) for s in (ours.similar, changed))
    assert one is not None
    assert other is not None
    assert one.scope != other.scope


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": None},
        {"temperature": 0.1},
        {"stream": True},
        {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "none"},
        {"messages": [*says("a"), {"role": "assistant", "content": "b"}, *says("q")]},
        {"messages": [{"role": "system", "content": "q"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": says("")},
        {"messages": says("x" * (LONGEST + 1))},
    ],
)
def test_what_is_not_one_question(changes: dict[str, Any]) -> None:
    assert Rig().question(**changes) is None


def test_an_embedding_is_no_question() -> None:
    request = read_embeddings(b'{"model": "vectors", "input": "q"}')
    assert Rig().similar.question("t", request, None, None) is None


def test_categories_have_thresholds_of_their_own() -> None:
    rig = Rig(categories={"faq": 0.8, "code": 0.999, "law": None})
    rig.keep("kept", at(20))
    asked = {"category": "faq"}, {"category": "code"}, {"category": "unheard of"}
    assert [rig.found(EAST, **one) for one in asked] == ["kept", None, "kept"]
    assert rig.question(category="law") is None


def test_a_sample_is_asked_for_all_the_same() -> None:
    rig = Rig(shadow=0.25)
    rig.keep("kept", EAST)
    question = rig.question()
    assert question is not None
    for drawn, is_sampled in ((0.2, True), (0.3, False)):
        rig.drawn = drawn
        found = rig.similar.find(question, EAST)
        assert found is not None
        assert found.is_sampled is is_sampled
    assert (rig.similar.sampled, rig.similar.given) == (1, 1)


def test_answers_leave_by_age_and_by_number() -> None:
    rig = Rig(answers=2)
    for number, degrees in enumerate((0, 90, 180)):
        rig.now = float(number)
        rig.keep(f"{degrees}", at(degrees), seed=number)
    assert rig.found(at(0), seed=0) is None
    assert rig.found(at(90), seed=1) == "90"
    rig.now = 101.5  # the second is older than 100 s, the third is not
    assert rig.found(at(90), seed=1) is None
    assert rig.found(at(180), seed=2) == "180"
    assert rig.similar.state["kept"] == 1
    rig.now = 200.0
    assert rig.found(at(180), seed=2) is None
    assert not rig.similar._by_scope


def test_vectors_that_are_no_numbers_or_of_another_length_are_near_to_nothing() -> None:
    rig = Rig()
    rig.keep("nan", [math.nan, 1.0])
    rig.keep("long", [1.0, 0.0, 0.0])
    rig.keep("zero", [0.0, 0.0])
    assert rig.found(EAST) is None
    assert rig.found([math.nan, 1.0]) is None
    rig.keep("kept", EAST)
    assert rig.found(EAST) == "kept"


def test_a_very_large_answer_is_not_kept() -> None:
    rig = Rig()
    rig.keep("x" * 70_000, EAST)
    assert rig.similar.state["kept"] == 0

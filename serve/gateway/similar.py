"""Answers to questions that were asked before in other words, found by the embeddings of the questions.

Off unless models.yaml says `similar` of a model: it trades some truth for money. Only a chat that is one question can be
answered so: `temperature: 0` said by the client, no tools, nothing said before but a system prompt. Everything else of the
request must be the same to the letter, and so must be the tenant, the model as it is now, and the corpus that the client
names. Of the answers found so a share is asked for all the same, and compared: that measures how often it is wrong.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from serve.gateway.models_file import SimilarSpec
from serve.gateway.particulars import Particulars, differ, particulars_of
from serve.gateway.relay import Answer
from serve.gateway.requests import ChatRequest, ModelRequest, SystemMessage, UserMessage

if TYPE_CHECKING:
    import numpy as np

LONGEST = 8_000  # characters of a question
_LARGEST_ANSWER = 64 * 1024  # bytes, as JSON


@dataclass(frozen=True)
class Question:
    """`scope` is a digest of all that its answer depends on beside the text."""

    text: str
    scope: bytes
    particulars: Particulars
    threshold: float


@dataclass(frozen=True)
class Found:
    """An answer to a question that was near enough. `is_sampled`: ask all the same, and compare."""

    answer: Answer
    is_sampled: bool


@dataclass
class _Kept:
    scope: bytes
    particulars: Particulars
    vector: np.ndarray[Any, Any]  # float32, of length 1
    answer: Answer
    until: float


class SimilarAnswers:
    """Of one model, in memory: the newest `answers`. `clock` in seconds; `draw` gives numbers from 0 to below 1."""

    def __init__(
        self,
        spec: SimilarSpec,
        revision: bytes,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.spec = spec
        self._revision = revision
        self._ttl_s = ttl_s
        self._clock = clock
        self._draw = draw
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._by_scope: dict[bytes, dict[int, _Kept]] = {}
        self._last = 0
        self.given = self.vetoed = self.sampled = self.wrong = 0

    def question(
        self, tenant: str, request: ModelRequest, corpus: str | None, category: str | None
    ) -> Question | None:
        """None for what must be answered by itself."""
        threshold = self.spec.categories.get(category or "", self.spec.threshold)
        text = _single_question(request)
        if threshold is None or text is None or not 0 < len(text) <= LONGEST:
            return None
        *before, last = request.body["messages"]
        rest = {**request.body, "messages": [*before, {**last, "content": None}]}
        scope = [tenant, self._revision.hex(), corpus, rest]
        return Question(
            text=text,
            scope=sha256(msgspec.json.encode(scope, order="deterministic")).digest(),
            particulars=particulars_of(text),
            threshold=threshold,
        )

    def find(self, question: Question, vector: Sequence[float]) -> Found | None:
        """The answer to the nearest question that is near enough and differs in nothing that counts."""
        import numpy as np

        self._forget_old()
        rows = list(self._by_scope.get(question.scope, {}).values())
        asked = _of_length_one(vector)
        rows = [row for row in rows if row.vector.shape == asked.shape]
        if not rows:
            return None
        near = np.stack([row.vector for row in rows]) @ asked
        vetoed = False
        for place in np.argsort(-near):
            if not near[place] >= question.threshold:  # also of what is no number
                break
            if differ(question.particulars, rows[place].particulars):
                vetoed = True
                continue
            if is_sampled := self._draw() < self.spec.shadow:
                self.sampled += 1
            else:
                self.given += 1
            return Found(replace(rows[place].answer, similarity=round(float(near[place]), 4)), is_sampled)
        self.vetoed += vetoed
        return None

    def keep(self, question: Question, vector: Sequence[float], answer: Answer) -> None:
        if len(msgspec.json.encode(answer.body)) > _LARGEST_ANSWER:
            return
        kept = _Kept(
            question.scope,
            question.particulars,
            _of_length_one(vector),
            answer,
            self._clock() + self._ttl_s,
        )
        self._last += 1
        self._kept[self._last] = kept
        self._by_scope.setdefault(question.scope, {})[self._last] = kept
        while len(self._kept) > self.spec.answers:
            self._drop(next(iter(self._kept)))

    @property
    def state(self) -> dict[str, int]:
        return {
            "kept": len(self._kept),
            "given": self.given,
            "vetoed": self.vetoed,
            "sampled": self.sampled,
            "wrong": self.wrong,
        }

    def _forget_old(self) -> None:
        while self._kept and next(iter(self._kept.values())).until <= self._clock():
            self._drop(next(iter(self._kept)))

    def _drop(self, number: int) -> None:
        scope = self._kept.pop(number).scope
        del self._by_scope[scope][number]
        if not self._by_scope[scope]:
            del self._by_scope[scope]


def text_of(answer: Answer) -> str | None:
    """What the answer says; None where it has no words of its own."""
    try:
        said = answer.body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    return said if isinstance(said, str) and said else None


def nearness(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors."""
    return float(_of_length_one(one) @ _of_length_one(other))


def _single_question(request: ModelRequest) -> str | None:
    if not isinstance(request, ChatRequest) or request.temperature != 0 or request.stream:
        return None
    if request.tools or request.tool_choice is not None or (request.n or 1) > 1:
        return None
    *before, last = request.messages
    if not isinstance(last, UserMessage) or not all(isinstance(one, SystemMessage) for one in before):
        return None
    return last.content if isinstance(last.content, str) else None


def _of_length_one(vector: Sequence[float]) -> np.ndarray[Any, Any]:
    import numpy as np

    found: np.ndarray[Any, Any] = np.array(vector, dtype=np.float32)
    found /= max(float(np.linalg.norm(found)), 1e-12)
    return found

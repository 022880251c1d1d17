"""What a host writes of itself for the process that beats on its behalf: one page of memory that both see.

Monotonic clocks count alike in all processes of a machine, so one can tell how old the other's times are.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import Self

_TICKED, _WATCHED, _BACKLOG, _AGENTS, _TURNS = range(5)  # eight bytes each, written at once
_WORDS_AT = 64
_WORDS = 512


@dataclass(slots=True)
class Vitals:
    """What a host says of itself."""

    backlog: int = 0
    agents: int = 0
    turns: int = 0


class Pulse:
    """`ticked` is when the event loop last came round, `watched` when the host's watching thread last ran."""

    def __init__(self, file: int) -> None:
        """`file` is the descriptor of a file of one page."""
        self._memory = mmap.mmap(file, mmap.PAGESIZE)
        self._numbers = memoryview(self._memory).cast("d")

    @classmethod
    def make(cls) -> tuple[Self, int]:
        """A pulse, and the descriptor by which another process sees it."""
        with tempfile.TemporaryFile() as file:
            file.truncate(mmap.PAGESIZE)
            return cls(file.fileno()), os.dup(file.fileno())

    @property
    def ticked(self) -> float:
        return self._numbers[_TICKED]

    @ticked.setter
    def ticked(self, monotonic: float) -> None:
        self._numbers[_TICKED] = monotonic

    @property
    def watched(self) -> float:
        return self._numbers[_WATCHED]

    @watched.setter
    def watched(self, monotonic: float) -> None:
        self._numbers[_WATCHED] = monotonic

    @property
    def vitals(self) -> Vitals:
        numbers = self._numbers
        return Vitals(int(numbers[_BACKLOG]), int(numbers[_AGENTS]), int(numbers[_TURNS]))

    @vitals.setter
    def vitals(self, vitals: Vitals) -> None:
        numbers = self._numbers
        numbers[_BACKLOG], numbers[_AGENTS], numbers[_TURNS] = vitals.backlog, vitals.agents, vitals.turns

    @property
    def blocker(self) -> str:
        """What holds the event loop, as the watching thread has seen it; empty when nothing does."""
        words = self._memory[_WORDS_AT : _WORDS_AT + _WORDS]
        return words.partition(b"\0")[0].decode(errors="replace")

    @blocker.setter
    def blocker(self, where: str) -> None:
        words = where.encode()[: _WORDS - 1]
        self._memory[_WORDS_AT : _WORDS_AT + _WORDS] = words.ljust(_WORDS, b"\0")

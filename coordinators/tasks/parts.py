"""The parts of a task that was split, as its agent collects them."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, Field

from actors.task_messages import MAX_PARTS

MAX_PARTS_BYTES = 8 * 1024 * 1024  # of JSON in all; half of what an agent's state may hold


class TooManyParts(Exception):
    """The parts of one task are more, or larger, than its agent may keep."""


class Parts(BaseModel):
    """Results by the name of their part; parts may report before anybody has said how many there will be."""

    expected: int | None = None
    results: dict[str, Any] = Field(default_factory=dict)
    size: int = 0  # bytes of JSON

    def add(self, part: str, result: Any) -> bool:
        """Keep a result; False when that part has reported before. Raises TooManyParts."""
        if part in self.results:
            return False
        self.size += len(json.dumps(result, ensure_ascii=False).encode())
        if len(self.results) >= MAX_PARTS:
            raise TooManyParts(f"The task has more than {MAX_PARTS} parts.")
        if self.size > MAX_PARTS_BYTES:
            raise TooManyParts(f"The results of its parts have more than {MAX_PARTS_BYTES} bytes in all.")
        self.results[part] = result
        return True

    @property
    def progress(self) -> float | None:
        return min(1.0, len(self.results) / self.expected) if self.expected else None

    @property
    def is_complete(self) -> bool:
        return self.expected is not None and len(self.results) >= self.expected

    def aggregate(self) -> dict[str, Any]:
        """One field for each part, in the order of their names."""
        return dict(sorted(self.results.items()))

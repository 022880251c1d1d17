"""The messages of a task that were given up, and that nobody has mended yet."""

from __future__ import annotations

from pydantic import BaseModel, Field

MAX_KNOWN = 1_000  # ids in a task agent's state; of further ones only the number is kept


class DeadWork(BaseModel):
    """Ids of dead letters; a letter that was retried and died again is there again."""

    known: list[str] = Field(default_factory=list)
    more: int = 0

    def __bool__(self) -> bool:
        return bool(self.known or self.more)

    def add(self, message: str) -> None:
        if message in self.known:
            return
        if len(self.known) < MAX_KNOWN:
            self.known.append(message)
        else:
            self.more += 1

    def remove(self, message: str) -> bool:
        """False when there is no such letter."""
        if message in self.known:
            self.known.remove(message)
            return True
        if self.more:
            self.more -= 1
            return True
        return False

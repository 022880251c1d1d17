"""What happens to an agent when its handler fails: supervision as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from actors.retry import RetryPolicy


class Directive(Enum):
    """What to do after a failure."""

    RETRY = "retry"  # keep the message's place and try again later, as the retry policy allows
    DEAD_LETTER = "dead_letter"  # give the message up; the next one goes on with the state before it
    PAUSE = "pause"  # keep the message and pause the agent until somebody resumes it


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """The first rule whose error type fits decides; without one, the message is retried.

    RETRY turns into DEAD_LETTER when the retry policy allows no further try.
    """

    rules: tuple[tuple[type[Exception], Directive], ...] = ()

    def decide(self, error: Exception, failures: int, retry: RetryPolicy) -> Directive:
        """`failures` counts this one."""
        directive = next((d for kind, d in self.rules if isinstance(error, kind)), Directive.RETRY)
        if directive is Directive.RETRY and not retry.allows(error, failures):
            return Directive.DEAD_LETTER
        return directive

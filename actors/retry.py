"""When and how often a failed message is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from numbers import Real

from bus.errors import AskCycle, CallboardError, InvalidMessage, NotAwaited, WasCancelled

MOST_ATTEMPTS = 32_000  # a mailbox counts failures in 16 bits
MOST_S = (
    366 * 24 * 3600.0
)  # Postgres refuses a next try past its last year, and a host could not put its message off


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter. Times are seconds, a year at the most.

    `attempts` counts all tries, the first included; above 32,000 it counts as that. An error that is a `give_up_on` is not tried again; nor
    is one that is not a `retry_on`. `jitter` is the share of a delay that is random: 0.2 gives 80% to 100%.
    """

    attempts: int = 5
    first_delay_s: float = 0.1
    factor: float = 3.0
    max_delay_s: float = 60.0
    jitter: float = 0.2
    retry_on: tuple[type[Exception], ...] = (Exception,)
    give_up_on: tuple[type[Exception], ...] = (InvalidMessage, AskCycle, NotAwaited, WasCancelled)

    def __post_init__(self) -> None:
        """Raises CallboardError."""
        if not (isinstance(self.attempts, int) and self.attempts >= 1):
            raise CallboardError(
                f"A policy of attempts={self.attempts!r} tries nothing.", fix="Give a whole number from 1 up."
            )
        for errors in (self.retry_on, self.give_up_on):
            if not (isinstance(errors, tuple) and all(map(_is_error, errors))):
                raise CallboardError(f"{self!r} goes by no errors.", fix="Give a tuple of exception classes.")
        numbers = self.first_delay_s, self.factor, self.max_delay_s, self.jitter
        bounded = all(isinstance(number, Real) and 0 <= number <= MOST_S for number in numbers)
        if not (bounded and self.jitter <= 1):
            raise CallboardError(
                f"{self!r} has no delays.", fix="Give times from 0 s to a year, and a jitter from 0 to 1."
            )

    def allows(self, error: Exception, failures: int) -> bool:
        """Whether a message that has now failed `failures` times is tried again."""
        return (
            failures < min(self.attempts, MOST_ATTEMPTS)
            and isinstance(error, self.retry_on)
            and not isinstance(error, self.give_up_on)
        )

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """How long to wait after the given number of failures (at least 1)."""
        try:
            delay = min(self.max_delay_s, self.first_delay_s * self.factor ** (failures - 1))
        except OverflowError:  # after some hundred failures
            delay = self.max_delay_s
        return delay * (1 - self.jitter * rng.random())


def _is_error(given: object) -> bool:
    return isinstance(given, type) and issubclass(given, BaseException)


NO_RETRY = RetryPolicy(attempts=1)

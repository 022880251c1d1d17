"""Messages that were given up."""

from __future__ import annotations

from datetime import datetime

import msgspec

from bus.errors import UnknownDeadLetter
from storage.domains import Connection
from storage.inspect.rows import domain_names, fetch_all


class DeadLetterView(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was given up. One that was `asked` has somebody who was told. `was` is its number as a dead letter before it was tried again; `frames` are
    lines of `file:line in function`, down to where its handler failed; `header` and `payload` are set when one is looked
    at alone."""

    domain: str
    tenant: str
    id: int
    agent: str
    message: str
    at: datetime
    reason: str
    error: str
    failures: int
    frames: str
    type: str
    sender: str
    task: str | None
    was: int | None
    asked: bool = False
    header: str | None = None
    payload: str | None = None

    @property
    def address(self) -> str:
        return f"{self.domain}/{self.agent}"


async def list_dead_letters(
    db: Connection, *, tenant: str, domain: str | None = None, after: int = 0, limit: int = 100
) -> list[DeadLetterView]:
    """Dead letters by number; raises UnknownDomain."""
    names = await domain_names(db, domain)
    return await fetch_all(db, DeadLetterView, "inspect_dead_letters", names, tenant, after, limit)


async def list_dead_letters_of_task(
    db: Connection, ref: str, *, tenant: str, limit: int = 100
) -> list[DeadLetterView]:
    """The dead letters that a task (`domain/id`) waits for, in whatever domain, by number."""
    return await fetch_all(db, DeadLetterView, "inspect_dead_letters_of_task", tenant, ref, limit)


async def dead_again(db: Connection, letter: DeadLetterView) -> DeadLetterView | None:
    """The dead letter that its message has become since, if it has."""
    names = await domain_names(db, letter.domain)
    found = await fetch_all(
        db, DeadLetterView, "inspect_dead_letter_again", names, letter.tenant, letter.id, letter.message
    )
    return found[0] if found else None


async def find_dead_letter(db: Connection, number: int, *, tenant: str) -> DeadLetterView:
    """Raises UnknownDeadLetter."""
    names = await domain_names(db, None)
    found = await fetch_all(db, DeadLetterView, "inspect_dead_letter", names, tenant, number)
    if not found:
        raise UnknownDeadLetter(
            f"There is no dead letter {number}.",
            fix="`callboard dead-letters` lists them; one that was retried or dropped is in its agent's history.",
        )
    return found[0]

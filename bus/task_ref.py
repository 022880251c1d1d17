"""How a task is referred to: `domain/id`, one word that means the same wherever its messages travel."""

from __future__ import annotations

import uuid

from bus.address import require_word
from bus.errors import InvalidAddress, InvalidMessage, InvalidPayload

MAX_CHARACTERS = 200


def task_ref(task: str, domain: str) -> str:
    """The reference `domain/id`; an id alone is a task of `domain`."""
    return task if "/" in task else f"{domain}/{task}"


def given_task_ref(task: str, domain: str) -> str:
    """The same of what an author gives; raises InvalidMessage for what no index of Postgres would take: a message that is
    part of it could not even become a dead letter."""
    ref = task_ref(task, domain)
    if "\0" in ref or len(ref) > MAX_CHARACTERS:
        raise InvalidMessage(f"{task[:60]!r} is no task.", fix="Hand on what `ctx.task` says.")
    return ref


def published_task_ref(task: str, domain: str) -> str:
    """The same of what a publisher gives; raises InvalidPayload for what no task is called."""
    named, _, id_ = task_ref(task, domain).partition("/")
    try:
        return task_ref(str(uuid.UUID(id_)), require_word(named, "domain"))
    except (ValueError, InvalidAddress):
        raise InvalidPayload(
            f"{task[:60]!r} is no task.", fix="Set Callboard-Task to a task's id, or to domain/id."
        ) from None


def split_task_ref(ref: str) -> tuple[str, str]:
    """The domain and the id in a reference."""
    domain, _, task = ref.partition("/")
    return domain, task

"""The NATS subjects (DESIGN section 6). They never hold user-made text: keys become partition numbers."""

from __future__ import annotations

EVENTS_STREAM = "CALLBOARD_EVENTS"
EVENTS_ALL = "callboard.events.*.*"  # a longer one nobody would read: the server refuses it


def agents(domain: str, partition: int) -> str:
    """Committed messages on their way to the owner of a partition."""
    return f"callboard.agents.{domain}.{partition}"


def events(domain: str, name: str = "*") -> str:
    """Events and triggers from outside, kept by JetStream."""
    return f"callboard.events.{domain}.{name}"


def placement(domain: str) -> str:
    """The coordinator's word that ownership changed in a domain, or that an epoch has ended."""
    return f"callboard.placement.{domain}"


def task_submit(domain: str) -> str:
    return f"callboard.tasks.{domain}.submit"


def task_cancel(domain: str) -> str:
    return f"callboard.tasks.{domain}.cancel"


def tasks_waiting(domain: str) -> str:
    """The word that a task was submitted, or that another one may be assigned now."""
    return f"callboard.tasks.{domain}.waiting"


def task_events(domain: str, task_id: str) -> str:
    return f"callboard.tasks.{domain}.{task_id}.events"

"""How a task is referred to: `domain/id`, one word that means the same wherever its messages travel."""

from __future__ import annotations


def task_ref(task: str, domain: str) -> str:
    """The reference `domain/id`; an id alone is a task of `domain`."""
    return task if "/" in task else f"{domain}/{task}"


def split_task_ref(ref: str) -> tuple[str, str]:
    """The domain and the id in a reference."""
    domain, _, task = ref.partition("/")
    return domain, task

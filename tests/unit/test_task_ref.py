"""What a publisher may call the task that an event is part of."""

from __future__ import annotations

import pytest

from actors.event_message import _task_of
from bus.errors import InvalidPayload
from bus.event import TASK_HEADER, Event


def task_of(given: str) -> str | None:
    event = Event(name="raised", seq=1, at_ns=0, headers={TASK_HEADER: given}, data=b"{}")
    return _task_of(event, "alerts")


ID = "01934a5e-7c00-7000-8000-0123456789ab"


@pytest.mark.parametrize("given", [ID, f"alerts/{ID}", f"alerts/{ID.upper()}", ID.replace("-", "")])
def test_a_published_task_is_an_id_or_a_domain_and_an_id(given: str) -> None:
    assert task_of(given) == f"alerts/{ID}"


def test_a_published_task_may_be_one_of_another_domain() -> None:
    assert task_of(f"secops/{ID}") == f"secops/{ID}"


@pytest.mark.parametrize("given", ["nope", "secops/123", f"No Word/{ID}", f"/{ID}", f"a/b/{ID}", f"{ID}/"])
def test_what_no_task_is_called_is_refused(given: str) -> None:
    with pytest.raises(
        InvalidPayload, match=r"is no task\. Set Callboard-Task to a task's id, or to domain/id"
    ):
        task_of(given)

"""What tests of the store do to the mailboxes of a rig: give, mark and read."""

from __future__ import annotations

from typing import Any

from bus.envelope import Envelope
from storage.records import Mark, Share
from tests.contract.rig import DOMAIN, Rig, letter

MUCH = 1_000_000


def mark(seq: int, **more: Any) -> Mark:
    return Mark(tenant="default", partition=0, agent="order/1", seq=seq, **more)


async def given(rig: Rig, *agents: str, **more: Any) -> list[int]:
    """A message from outside for each agent."""
    numbers = [await rig.accept(letter(agent, **more)) for agent in agents or ("order/1",)]
    return [number for number in numbers if number is not None]


async def mail_of(rig: Rig, agent: str, *, partition: int = 0, messages: int = 10) -> list[Envelope]:
    share = Share(messages=messages, size=MUCH)
    found, _ = await rig.store.load_agent(DOMAIN, partition, "default", agent, share)
    return found

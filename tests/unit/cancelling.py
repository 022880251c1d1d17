"""What the tests of cancelled tasks share: what is booked and released, and how a task is cancelled and looked at."""

from __future__ import annotations

import asyncio

from bus.errors import TaskCancelled
from callboard import Agent, Context
from callboard.testing import TestKit
from tests.unit.agents import Keeper
from tests.unit.tasks.worker import Worker
from tests.unit.waiter import until

AT = "test/worker/w"
KINDS: list[type[Agent]] = [Worker, Keeper]


def book(name: str) -> str:
    Worker.log.append(f"book {name}")
    return name


def release(name: str) -> None:
    Worker.log.append(f"release {name}")


def kinds(kit: TestKit, task: str) -> list[str]:
    return [event.kind for (_, _, of, _), event in kit.store.tasks.events.items() if of == task]


def leftovers(kit: TestKit) -> tuple[int, int, int, int]:
    """Open turns, promises, messages and timers."""
    waits, store = kit.store.waits, kit.store
    return (
        len(waits.turns),
        len(waits.promises.rows),
        sum(map(len, store.mail.boxes.values())),
        len(store.timers),
    )


async def look(kit: TestKit, times: int = 10) -> None:
    """Let every host look for cancellations so often."""
    for _ in range(times):
        await kit.advance(seconds=0.1)


async def cancelled(kit: TestKit, task: str) -> None:
    await kit.cancel_task(task, "not needed")
    await look(kit)
    assert kit.task(task).status == "cancelled"
    assert kit.task(task).error == {"code": "cancelled", "message": "not needed", "by": "external/test"}
    assert kinds(kit, task)[-2:] == ["cancelling", "cancelled"]


async def cancelling(kit: TestKit, task: str) -> None:
    """Cancel it, and let every host look for that while what is under way goes on."""
    await kit.cancel_task(task, "not needed")
    await until(lambda: kit.task(task).status == "cancelling")
    for _ in range(3):
        kit.clock.move_to(kit.clock.now() + 1)
        for _ in range(20):
            await asyncio.sleep(0)


async def sleeps(self: Worker, ctx: Context) -> None:
    ctx.compensate(release, await ctx.step(book, ctx.address.key))
    try:
        await ctx.sleep(1_000)
    except TaskCancelled as error:
        by = error.message.partition(" has cancelled task ")[0]
        Worker.log.append(f"told {ctx.address.key} by {by}")
        raise
    finally:
        Worker.log.append(f"left {ctx.address.key}")

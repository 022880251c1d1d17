"""The kit: real hosts over storage in memory, a bus inside the process, and a clock that stands still."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from actors import control
from actors.agent import Agent
from actors.directory import Directory, DomainEntry
from actors.domain import (
    DomainSpec,
    LimitSpec,
    TaskSpec,
    load_domain,
    read_domain,
)
from actors.event_spec import EventSpec
from actors.models import ModelClient, NoModels
from actors.queries import run_query
from actors.schedule import ScheduleSpec
from actors.scope import WHOLE, Scope
from actors.secret import GivenSecrets
from actors.task_messages import CancelTask, PauseTask, ResumeTask
from actors.values import encode_answer
from bus.address import DEFAULT_TENANT, Address
from bus.envelope import Priority, new_id
from bus.errors import InvalidMessage
from bus.registry import encode_json, wire_name_of
from bus.task_limits import TaskLimits, limits_of
from bus.transport import LoopbackTransport
from callboard.testing.children import ChildAssigner
from callboard.testing.clock import START, VirtualClock
from callboard.testing.committed import Committed
from callboard.testing.given import domain_of
from callboard.testing.hosts import Hosts, Running
from callboard.testing.post import Post, parsed
from coordinators.equipment import SYSTEM_KINDS
from coordinators.tasks.messages import FailTask, TaskAssigned
from storage.memory import MemoryStore

_FEW_PARTITIONS = 8  # of a domain given as classes: enough for two hosts to have agents on both


class TestKit(Committed):
    """One domain on `hosts` hosts in this event loop; use it with `async with`.

    `domain_folder_or_kinds` is a folder with a domain.yaml, or agent classes; those need the `domain`'s name,
    and may have `events`, `topics`, `schedules`, `tasks` and `limits` as domain.yaml would declare them. Messages to domains in
    `others` are accepted and stay in their mailboxes: `sent` shows them.

    Addresses are `domain/kind/key`; everything happens in `tenant`. Reads show committed rows only.
    """

    __test__ = False  # pytest: it begins with Test, and is none

    def __init__(
        self,
        domain_folder_or_kinds: str | Path | Sequence[type[Agent]],
        *,
        domain: str = "test",
        hosts: int = 1,
        partitions: int = _FEW_PARTITIONS,
        tenant: str = DEFAULT_TENANT,
        others: Iterable[str] = (),
        events: Sequence[EventSpec] = (),
        topics: Mapping[str, tuple[str, ...]] | None = None,
        schedules: Sequence[ScheduleSpec] = (),
        tasks: TaskSpec | None = None,
        limits: LimitSpec | None = None,
        secrets: Mapping[str, str] | None = None,
        models: ModelClient | None = None,
        start: float = START,
        system_kinds: tuple[type[Agent], ...] = SYSTEM_KINDS,
    ) -> None:
        if isinstance(domain_folder_or_kinds, (str, Path)):
            folder = Path(domain_folder_or_kinds)
            loaded = load_domain(read_domain(folder), folder, system_kinds=system_kinds)
        else:
            spec = DomainSpec(
                domain=domain, partitions=partitions, kinds=(), events=tuple(events), topics=dict(topics or {}),
                schedules=tuple(schedules), tasks=tasks or TaskSpec(), limits=limits or LimitSpec(),
            )  # fmt: skip
            loaded = domain_of(spec, (*domain_folder_or_kinds, *system_kinds))
        self.clock = VirtualClock(start)
        self.transport = LoopbackTransport()
        directory = Directory(
            {
                loaded.name: DomainEntry(partitions=loaded.spec.partitions, kinds=frozenset(loaded.kinds)),
                **{name: DomainEntry(partitions=1) for name in others},
            }
        )
        super().__init__(loaded, directory, MemoryStore(self.clock.now), tenant)
        self._scope = Scope(loaded, directory, self.clock, random.Random(0))
        self._scope.secrets = GivenSecrets(secrets or {})
        self._scope.models = models or NoModels()
        self._wanted_hosts = hosts
        self.processes_are_gone = True
        self._hosts = Hosts(self._scope, loaded.spec.partitions, self.store, self.transport, self.clock)
        self._post = Post(self._scope, self.store, self.transport, tenant)
        self._hosts.beside = ChildAssigner(loaded.registered(), self.store, self._post, tenant).assign

    async def __aenter__(self) -> Self:
        self._hosts.start_all(self._wanted_hosts)
        await self.quiet()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._hosts.kill_all()

    # -- giving it something to do -------------------------------------------------------------------

    async def send(
        self,
        address: str | Address,
        message: BaseModel,
        *,
        key: str | None = None,
        sender: str = "external/test",
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
        task: str | None = None,
    ) -> str | None:
        """Put a message from outside into a mailbox; return its id, or None when its `key` was seen before.

        `task` is the id of a task of the recipient's domain, or `domain/id`. Raises what a sender would get:
        InvalidAddress, UnknownDomain, UnknownKind, InvalidPayload, PayloadTooLarge.
        """
        return await self._post.message(
            parsed(address), message, key=key, sender=sender, priority=priority, deadline=deadline, task=task
        )

    async def give_task(
        self,
        address: str | Address,
        *,
        goal: str = "",
        input: Any = None,
        priority: int = 5,
        deadline: float | None = None,
        limits: Mapping[str, float | Decimal | str] | TaskLimits | None = None,
    ) -> str:
        """Give an agent a task, as its domain's coordinator would; return its id, for `task`. `limits` are those of
        `tasks.limits` in domain.yaml, by their names. Raises InvalidTask."""
        if limits is None:
            limits = self.domain.spec.tasks.limits
        elif not isinstance(limits, TaskLimits):
            limits = limits_of(limits)
        task = new_id()
        self.store.tasks.add(self.domain.name, self.tenant, task)
        self.store.spending.limits[(self.tenant, f"{self.domain.name}/{task}")] = limits.model_dump(
            exclude_none=True
        )
        assigned = TaskAssigned(
            id=task,
            goal=goal,
            input=input,
            priority=priority,
            deadline=deadline,
            wall_s=limits.wall_s,
            policy="direct",
            assignee=str(parsed(address)),
            on_dead_letter=self.domain.spec.tasks.on_dead_letter,
        )
        await self.send(f"{self.domain.name}/task/{task}", assigned, task=task)
        return task

    async def cancel_task(self, task: str, reason: str = "no reason") -> None:
        """Cancel a task that was given; what is part of it ends as the clock goes on."""
        await self.send(f"{self.domain.name}/task/{task}", CancelTask(reason=reason), task=task)

    async def pause_task(self, task: str, reason: str = "") -> None:
        """Pause a task that was given; hosts see it as the clock goes on."""
        await self.send(f"{self.domain.name}/task/{task}", PauseTask(reason=reason), task=task)

    async def resume_task(self, task: str) -> None:
        await self.send(f"{self.domain.name}/task/{task}", ResumeTask(), task=task)

    def pause_domain(self, reason: str = "") -> None:
        """Pause the whole domain; hosts see it as the clock goes on."""
        self.store.pauses[(self.domain.name, *WHOLE)] = reason

    def resume_domain(self) -> None:
        del self.store.pauses[(self.domain.name, *WHOLE)]

    async def fail_task(self, task: str, reason: str = "no reason") -> None:
        """End a task as failed, as an operator would."""
        await self.send(f"{self.domain.name}/task/{task}", FailTask(reason=reason), task=task)

    async def send_json(self, address: str | Address, wire_name: str, payload: str) -> str | None:
        """Put any payload under any wire name into a mailbox, as a sender of another release might."""
        return self._post.json(parsed(address), wire_name, payload)

    async def publish_event(
        self, name: str, message: BaseModel, *, key: str | None = None, task: str | None = None
    ) -> str | None:
        """Publish an event as a NATS publisher would: domain.yaml's `events` say who gets it. `task` feeds it.

        Raises InvalidMessage when the domain does not subscribe to it.
        """
        event = self.domain.events.get((name, wire_name_of(type(message))))
        if event is None:
            raise InvalidMessage(
                f"The domain {self.domain.name!r} has no event {name!r} of type {wire_name_of(type(message))}.",
                fix="Declare it under `events` in domain.yaml.",
            )
        target = event.target(message.model_dump(mode="json"))
        address = f"{self.domain.name}/{target}"
        sender = f"external/events/{name}"
        key = None if key is None else f"event:{key}"  # events have keys of their own
        return await self._post.message(
            parsed(address), message, key=key, sender=sender, task=task, shared=event.shared
        )

    async def pause(self, address: str | Address, reason: str = "") -> None:
        await self._post.control(parsed(address), control.Pause(reason=reason))

    async def resume(self, address: str | Address) -> None:
        await self._post.control(parsed(address), control.Resume())

    async def destroy(self, address: str | Address, *, leave_done: bool = False) -> None:
        await self._post.control(parsed(address), control.Destroy(leave_done=leave_done))

    async def skip_turn(self, address: str | Address, reason: str = "", *, leave_done: bool = False) -> None:
        """Give the agent's open turn up; its message becomes a dead letter, and what it has done is undone, unless
        `leave_done`."""
        await self._post.control(parsed(address), control.SkipTurn(reason=reason, leave_done=leave_done))

    async def edit_turn(self, address: str | Address, key: str, value: str | None) -> None:
        """Change what the open turn has recorded at a key: its result as JSON text, or None for a step not made."""
        await self._post.control(parsed(address), control.EditTurn(key=key, value=value))

    async def retry_dead_letter(self, number: int, *, force: bool = False) -> None:
        """Put a dead letter back into its agent's mailbox; one whose task has ended only by `force`."""
        await self._post.control(
            self._address_of_dead(number), control.RetryDeadLetter(id=number, force=force)
        )

    async def drop_dead_letter(self, number: int, reason: str = "") -> None:
        await self._post.control(
            self._address_of_dead(number), control.DropDeadLetter(id=number, reason=reason)
        )

    async def resolve(self, ref: str, value: Any) -> bool:
        """Resolve a promise from outside; False when it was settled before."""
        owner, _, promise = ref.rpartition("#")
        to = parsed(owner)
        wake = self.store.waits.promises.settle(
            to.domain, self.tenant, promise, status="resolved", value=encode_answer(value), by="external/test"
        )
        if wake is None:
            return False
        self._post.nudge(to)
        return True

    async def approve(self, id_: str, *, by: str = "tester", comment: str = "") -> bool:
        """Approve as a person would; False when that person may not, or somebody has decided before."""
        return await self._decide(id_, "approved", by, encode_json({"comment": comment}))

    async def deny(self, id_: str, *, by: str = "tester", comment: str = "") -> bool:
        return await self._decide(id_, "denied", by, encode_json({"comment": comment}))

    async def say(self, id_: str, *, happened: bool, result: Any = None, again: bool = True) -> bool:
        """Say what a call has done of which nobody knows."""
        said = {"happened": happened, "result": result, "again": again}
        return await self._decide(id_, "resolved", "tester", encode_json(said))

    async def _decide(self, id_: str, status: str, by: str, value: str) -> bool:
        domain = self.domain.name
        wake = self.store.waits.promises.settle(
            domain, self.tenant, id_, status=status, value=value, by=f"external/{by}"
        )
        if wake is None:
            return False
        self._post.nudge(parsed(f"{domain}/{wake.agent}"))
        await self.quiet()
        return True

    async def query(self, address: str | Address, question: BaseModel, *, timeout_s: float = 5.0) -> Any:
        """The answer of a @query handler, from a copy of the committed state; raises what run_query raises."""
        return await run_query(
            self._scope, self.store, parsed(address), question, tenant=self.tenant, timeout_s=timeout_s
        )

    # -- letting it happen ---------------------------------------------------------------------------

    async def quiet(self, *, timeout_s: float = 30.0) -> None:
        """Wait until nothing is left to do at this moment; what waits for a later time keeps waiting.

        Raises CallboardError when a host has ended by itself, or when agents are still at work after
        `timeout_s` seconds of real time.
        """
        await self._hosts.quiet(timeout_s=timeout_s)

    async def advance(
        self, *, seconds: float = 0.0, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0
    ) -> None:
        """Move the clock, stopping wherever a timer or a retry is due, and wait for quiet at each stop."""
        await self._hosts.advance(seconds + 60 * minutes + 3600 * hours + 86400 * days)

    async def crash(self, host: int = 0) -> None:
        """Kill a host as `kill -9` would: what had not committed is gone. `recover` brings its agents back."""
        await self._hosts.running[host].kill()

    async def recover(self) -> None:
        """Give the partitions of every crashed host to a new epoch, and wait for quiet.

        Unless `processes_are_gone`, nobody knows whether a crashed host is merely frozen.
        """
        await self._hosts.recover(gone=self.processes_are_gone)

    # -- inside --------------------------------------------------------------------------------------

    def _start(self, partitions: frozenset[int], suspect: frozenset[int] = frozenset()) -> Running:
        return self._hosts.start(partitions, suspect)

    @property
    def _running(self) -> list[Running]:
        return self._hosts.running

    def _address_of_dead(self, number: int) -> Address:
        row = self.store.agents.dead_letters[(self.tenant, number)]
        return parsed(f"{self.domain.name}/{row.agent}")

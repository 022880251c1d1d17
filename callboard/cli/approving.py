"""Who decides the approvals of a task that is followed: people, nobody, or the domain's written policy."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from callboard.cli.asked import is_for_people, login_name
from callboard.cli.terminal import note

if TYPE_CHECKING:
    from actors.approval import Asked, Ruling
    from actors.domain import DomainSpec
    from bus.transport import Transport
    from callboard.cluster import Cluster
    from storage.decisions import Waiting
    from storage.domains import Connection


class Mode(StrEnum):
    """What becomes of an approval that the task asks for."""

    ASK = "ask"
    DENY = "deny"
    POLICY = "policy"


Approve = Annotated[
    Mode,
    typer.Option(
        "--approve",
        help="Who decides what the task asks people to approve: `ask` waits for them (`callboard approve`), `deny` "
        "refuses it, also in the place of named approvers, `policy` is the domain's written policy.",
    ),
]


def check_mode(mode: Mode, spec: DomainSpec) -> None:
    """Raise InvalidTask for a domain without the policy that is to decide."""
    from bus.errors import InvalidTask

    if mode is Mode.POLICY and spec.approve is None:
        raise InvalidTask(
            f"The domain {spec.domain} has no written policy that could decide.",
            fix="Use --approve ask or deny, or name a function in its domain.yaml: `approve: module:function`.",
        )


class Approving:
    """Decides the approvals of one task as they come; what it may not or cannot decide is left to people."""

    def __init__(self, db: Connection, transport: Transport, tenant: str, task: str, rule: Rule) -> None:
        self._db = db
        self._transport = transport
        self._tenant = tenant
        self._task = task
        self._rule = rule
        self._left: set[str] = set()

    async def __call__(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """Decide what can be decided; return what waits for people."""
        for promise in filter(is_for_people, waiting):
            if promise.id not in self._left and not await self._decide(promise):
                self._left.add(promise.id)
        return [promise for promise in waiting if promise.id in self._left]

    async def _decide(self, promise: Waiting) -> bool:
        from bus.errors import AlreadySettled, DecisionError, InvalidPayload
        from bus.registry import encode_json
        from storage.decisions import settle
        from storage.intake import nudge
        from storage.journal import Kind

        ruling = self._rule(_asked(promise, self._task)) if promise.kind == Kind.APPROVAL else None
        if ruling is None:
            return False
        status = "approved" if ruling.approved else "denied"
        try:
            value = encode_json({"comment": ruling.comment})
            owner = await settle(
                self._db,
                promise,
                tenant=self._tenant,
                status=status,
                value=value,
                by=ruling.by,
                kind=Kind.APPROVAL,
            )
        except AlreadySettled:
            return True
        except (DecisionError, InvalidPayload) as error:
            note(f"Left to people: {error}")
            return False
        nudge(self._transport, [owner])
        await self._transport.flush()
        return True


Rule = Callable[["Asked"], "Ruling | None"]
Decider = Callable[[Sequence["Waiting"]], Awaitable[list["Waiting"]]]


async def by_people(waiting: Sequence[Waiting]) -> list[Waiting]:
    """The decider of `ask`: it leaves everything."""
    return [promise for promise in waiting if is_for_people(promise)]


def decider(mode: Mode, spec: DomainSpec, cluster: Cluster, task: str) -> Decider:
    """What decides for a task (`domain/id`); the domain's code must be loaded. Raises InvalidDomainFile."""
    if mode is Mode.ASK:
        return by_people
    if mode is Mode.POLICY:
        assert spec.approve is not None
        rule = _written_policy(spec.domain, spec.approve)
    else:
        rule = _deny
    return Approving(cluster.postgres, cluster.transport, cluster.settings.tenant, task, rule)


def _deny(asked: Asked) -> Ruling:
    from actors.approval import Ruling

    return Ruling(
        approved=False, by="callboard run --approve deny", comment=f"{login_name()} has started it so"
    )


def _written_policy(domain: str, path: str) -> Rule:
    from actors.approval import Ruling
    from bus.registry import first_line
    from callboard.cli.hooks import load_hook

    function = load_hook(path)

    def rule(asked: Asked) -> Ruling | None:
        try:
            found = function(asked)
        except Exception as error:  # a policy that breaks approves nothing
            note(
                f"The policy of {domain} failed, so people decide: {type(error).__name__}: {first_line(error)}"
            )
            return None
        if found is None or isinstance(found, Ruling):
            return found
        note(f"The policy of {domain} returned {type(found).__name__}, which is no Ruling; people decide.")
        return None

    return rule


def _asked(promise: Waiting, task: str) -> Asked:
    from actors.approval import Asked

    question = json.loads(promise.details or "{}")
    return Asked(
        id=promise.id,
        address=f"{promise.domain}/{promise.agent}",
        task=task,
        action=question["action"],
        details=question["details"],
        approvers=tuple(question["approvers"]),
    )

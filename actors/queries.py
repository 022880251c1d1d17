"""Queries: a read-only handler answers from a copy of the committed state, beside the mailbox."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from pydantic import BaseModel

from actors.activation import Activation
from actors.agent import Agent, Handler
from actors.context import Context
from actors.scope import Scope
from actors.threads import in_thread
from bus.address import DEFAULT_TENANT, Address, partition_of
from bus.envelope import Envelope, Header, header_to_json, new_id
from bus.errors import CallboardError, DeadlineExceeded, InvalidMessage, NoHandler, QueryFailed, UnknownKind
from bus.registry import first_line, wire_name_of
from storage.records import StoredState

QUERY_TIMEOUT_S = 5.0


class StateReader(Protocol):
    """What a query needs of storage."""

    async def load_states(
        self, domain: str, agents: Sequence[tuple[str, str]]
    ) -> tuple[list[StoredState], int]: ...


async def run_query(
    scope: Scope,
    store: StateReader,
    address: Address,
    question: BaseModel,
    *,
    tenant: str = DEFAULT_TENANT,
    timeout_s: float = QUERY_TIMEOUT_S,
) -> BaseModel:
    """Ask an agent of the scope's domain; an agent that no message has reached answers with a new state.

    Raises UnknownKind, UnknownMessageType, NoHandler, InvalidPayload (the stored state does not fit), QueryFailed
    with the handler's error as its cause, or DeadlineExceeded after `timeout_s` seconds of real time.
    """
    kind = scope.kinds.get(address.kind)
    if kind is None:
        raise UnknownKind(f"The domain {scope.domain!r} has no agent kind {address.kind!r}.")
    wire_name = wire_name_of(type(question))
    handler = kind.queries.get(wire_name)
    if handler is None:
        raise NoHandler(
            f"{kind.cls.__qualname__} has no query handler for {wire_name}.",
            fix="Add a method with @query whose argument has that type.",
        )
    partition = partition_of(tenant, address.agent, scope.directory.partitions(address.domain, address.kind))
    activation = Activation(tenant, address.agent, partition, kind)
    try:
        async with asyncio.timeout(timeout_s) as bound:
            stored, _ = await store.load_states(scope.domain, [activation.key])
            activation.restore(stored[0] if stored else None)
            agent = activation.make_instance()
            context = _QueryContext(scope, _envelope(scope, activation, wire_name), scope.clock.now())
            answer = await _call(agent, handler, question, context)
    except CallboardError:
        raise
    except Exception as error:
        if isinstance(error, TimeoutError) and bound.expired():
            raise DeadlineExceeded(f"{address} did not answer within {timeout_s:g} s.") from None
        raise QueryFailed(
            f"{kind.cls.__qualname__}.{handler.method} failed: {type(error).__name__}: {first_line(error).rstrip('.')}."
        ) from error
    if not isinstance(answer, BaseModel):
        raise QueryFailed(
            f"{kind.cls.__qualname__}.{handler.method} answered with {type(answer).__name__}.",
            fix="Return a pydantic model.",
        )
    return answer


async def _call(agent: Agent, handler: Handler, question: BaseModel, context: Context) -> Any:
    await agent.on_activated()
    method = getattr(agent, handler.method)
    if handler.is_async:
        return await method(question, context)
    return await in_thread(method, question, context)


def _envelope(scope: Scope, activation: Activation, wire_name: str) -> Envelope:
    header = Header(id=new_id(), type=wire_name, sender="external/query", sent_at=scope.clock.now())
    return Envelope(
        seq=0,
        tenant=activation.tenant,
        agent=activation.agent,
        header=header,
        header_json=header_to_json(header),
        payload="null",
    )


class _QueryContext(Context):
    """A context whose turn never commits: what would have effects is refused, not dropped."""

    __slots__ = ()

    def _refuse(self, *arguments: Any, **more: Any) -> NoReturn:
        raise InvalidMessage("A query only reads.", fix="Send the agent a message to have it do something.")

    _send = _settle = _journal = explain = destroy = _refuse

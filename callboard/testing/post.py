"""How messages from outside get into the mailboxes of a kit."""

from __future__ import annotations

from hashlib import sha256

import msgspec
from pydantic import BaseModel

from actors.scope import Scope
from bus import subjects
from bus.address import Address, parse_address, partition_of
from bus.envelope import Header, Outgoing, Priority, header_to_json, new_id
from bus.errors import PayloadTooLarge
from bus.registry import encode_payload, wire_name_of
from bus.task_ref import task_ref
from bus.transport import LoopbackTransport
from bus.wire import encode_parcel, nudge
from storage.memory import MemoryStore


class Post:
    """Writes them as storage/intake.py does, into storage in memory."""

    def __init__(self, scope: Scope, store: MemoryStore, transport: LoopbackTransport, tenant: str) -> None:
        self._scope = scope
        self._store = store
        self._transport = transport
        self._tenant = tenant

    async def message(
        self,
        to: Address,
        message: BaseModel,
        *,
        key: str | None = None,
        sender: str = "external/test",
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
        task: str | None = None,
        root: str | None = None,
        shared: bool = False,
    ) -> str | None:
        """Accept it; return its id, or None when its `key` was seen before."""
        payload, blob = await self._checked_in(to, message)
        header = Header(
            id=new_id(), type=wire_name_of(type(message)), sender=sender, sent_at=self._scope.clock.now(),
            priority=int(priority), deadline=deadline, blob=blob,
            task=task if task is None else task_ref(task, to.domain), root=root,
            undoes=shared, shared=shared,
        )  # fmt: skip
        return self._accept(self._outgoing(to, header, payload), key)

    async def control(self, to: Address, message: BaseModel) -> None:
        """A message that passes the queue, as an operator's."""
        header = Header(
            id=new_id(),
            type=wire_name_of(type(message)),
            sender="external/operator",
            sent_at=self._scope.clock.now(),
        )
        outgoing = self._outgoing(to, header, encode_payload(message))
        self._accept(msgspec.structs.replace(outgoing, control=True), None)

    def json(self, to: Address, wire_name: str, payload: str) -> str | None:
        """Any payload under any wire name."""
        header = Header(id=new_id(), type=wire_name, sender="external/test", sent_at=self._scope.clock.now())
        return self._accept(self._outgoing(to, header, payload), None)

    async def _checked_in(self, to: Address, message: BaseModel) -> tuple[str, str | None]:
        limits = self._scope.limits
        payload = encode_payload(message)
        data = payload.encode()
        if len(data) > limits.payload_bytes:
            raise PayloadTooLarge(f"The payload has {len(data)} bytes; {limits.payload_bytes} is the limit.")
        if len(data) <= limits.claim_check_bytes:
            return payload, None
        digest = sha256(data).hexdigest()
        await self._store.put_blob(to.domain, self._tenant, digest, data)
        return "null", digest

    def _outgoing(self, to: Address, header: Header, payload: str) -> Outgoing:
        return Outgoing(
            domain=to.domain, tenant=self._tenant, agent=to.agent, partition=self.partition(to),
            header=header, header_json=header_to_json(header), payload=payload,
        )  # fmt: skip

    def partition(self, to: Address) -> int:
        """Raises UnknownDomain or UnknownKind."""
        partitions = self._scope.directory.partitions(to.domain, to.kind)
        return partition_of(self._tenant, to.agent, partitions)

    def _accept(self, message: Outgoing, key: str | None) -> str | None:
        if self._store.accept(message, key=key) is None:
            return None
        self._nudge(message.domain, message.partition, message.agent)
        return message.header.id

    def nudge(self, to: Address) -> None:
        """Tell the owner of an agent that something has come for it."""
        self._nudge(to.domain, self.partition(to), to.agent)

    def _nudge(self, domain: str, partition: int, agent: str) -> None:
        parcel = nudge(partition, [(self._tenant, agent)])
        self._transport.publish(subjects.agents(domain, partition), encode_parcel(parcel))


def parsed(address: str | Address) -> Address:
    return address if isinstance(address, Address) else parse_address(address)

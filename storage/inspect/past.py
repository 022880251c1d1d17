"""An agent's state as it was, put together from its history."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256

import msgspec

from bus.address import Address
from bus.envelope import Header
from bus.errors import UnknownVersion
from storage import state_delta
from storage.chain import STATE, Chain, Link
from storage.domains import Connection
from storage.inspect.history import LAST_VERSION, Transition, list_history
from storage.records import FULL_STATE_EVERY


class PastState(msgspec.Struct, frozen=True, kw_only=True):
    """The state after a version; None when the agent was destroyed. `state_hash` is the one in the hash chain, and
    that of `state` (sha256 in hex; empty without one). `newest` is the newest version now."""

    address: str
    tenant: str
    version: int
    newest: int
    at: datetime
    decision: str
    lifecycle: str
    header: Header
    state: str | None
    state_hash: str


class _Message(msgspec.Struct, frozen=True):
    header: Header


class _Body(msgspec.Struct, frozen=True):
    decision: str
    lifecycle: str
    message: _Message
    state_hash: str
    state: msgspec.Raw = msgspec.Raw(b"")  # absent where it has not changed
    delta: state_delta.Delta | None = None


_body_of = msgspec.json.Decoder(_Body).decode


async def state_at(db: Connection, address: Address, version: int, *, tenant: str) -> PastState:
    """Read at most 64 transitions, check that they follow each other, and put the state together.

    Raises UnknownVersion for one that is not there (yet, or any more), BrokenChain where the history was edited.
    """
    newest = await list_history(db, address, tenant=tenant, below=LAST_VERSION, limit=1)
    whole = max(version - version % FULL_STATE_EVERY, 1)
    found = await list_history(
        db, address, tenant=tenant, below=version + 1, limit=max(version - whole, 0) + 1
    )
    if not newest or not 1 <= version <= newest[0].version:
        raise UnknownVersion(
            f"{address} has no version {version}.",
            fix=f"It has versions up to {newest[0].version}." if newest else "It has no history.",
        )
    chain, rows = Chain(str(address), None), found[::-1]
    begins = bool(rows) and rows[0].version == 1
    state: str | msgspec.UnsetType | None = None if begins else msgspec.UNSET
    for row in rows:
        chain.follow(_link(row))
        body = _body_of(row.body)
        if not body.state_hash:
            state = None
        elif text := bytes(body.state).decode():
            state = text
        elif body.delta is not None and isinstance(state, str):
            state = state_delta.applied(state, body.delta)
    if not rows or rows[-1].version != version or state is msgspec.UNSET:
        raise UnknownVersion(
            f"What {address} was at version {version} is no longer kept: retention has dropped what was before.",
            fix=f"Ask for version {whole + FULL_STATE_EVERY - whole % FULL_STATE_EVERY} or a later one.",
        )
    if (sha256(state.encode()).hexdigest() if state is not None else "") != body.state_hash:
        raise chain.broken(version, STATE, "does not hash to the state that its history gives")
    return PastState(
        address=str(address), tenant=tenant, version=version, newest=newest[0].version, at=rows[-1].at,
        decision=body.decision, lifecycle=body.lifecycle, header=body.message.header, state=state,
        state_hash=body.state_hash,
    )  # fmt: skip


def _link(row: Transition) -> Link:
    is_sound = sha256(row.prev + row.body.encode()).digest() == row.hash
    return Link(version=row.version, prev=row.prev, hash=row.hash, is_sound=is_sound)

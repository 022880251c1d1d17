"""An agent's history as a hash chain: each transition's hash covers its body and the hash before it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256

import msgspec

from bus.errors import BrokenChain
from storage.records import GENESIS, StoredState


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One stored transition. `body` is the JSON text exactly as stored."""

    version: int
    body: str
    prev: bytes
    hash: bytes


class Chain:
    """Follows one history transition by transition, so that it need not fit into memory.

    Every method raises BrokenChain with the first broken `version`. Retention may have dropped the oldest
    months, so a history that begins later than version 1 is trusted up to its beginning.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.length = 0
        self.last: Transition | None = None

    def follow(self, transition: Transition) -> None:
        """The next transition must follow the last one, and hash to what is stored with it."""
        expected = transition.version if self.last is None else self.last.version + 1
        if transition.version != expected:
            raise self._broken(expected, "is missing")
        prev = self.last.hash if self.last is not None else GENESIS if expected == 1 else transition.prev
        if transition.prev != prev:
            raise self._broken(expected, "does not follow the one before it")
        if sha256(prev + transition.body.encode()).digest() != transition.hash:
            raise self._broken(expected, "does not hash to what is stored")
        self.length += 1
        self.last = transition

    def end(self, newest: StoredState) -> None:
        """The history must lead to the agent's own row: so one whose tail was cut off is found."""
        if self.last is None:
            return  # all of it may be older than the retention
        version = self.last.version
        if newest.version > version:
            raise self._broken(version + 1, "is missing")
        if newest.version < version or newest.hash != self.last.hash:
            raise self._broken(version, "is not what the agent's state was made by")
        digest = sha256(newest.state.encode()).hexdigest() if newest.state is not None else ""
        if json.loads(self.last.body).get("state_hash") != digest:
            raise self._broken(version, "does not hash to the state that is stored")

    def _broken(self, version: int, what: str) -> BrokenChain:
        return BrokenChain(
            f"The history of {self._address} is broken: version {version} {what}.", version=version
        )


def verify_chain(address: str, history: Iterable[Transition], newest: StoredState | None = None) -> None:
    """Check a history, in the order of its versions, and that it leads to the agent's row; see Chain."""
    chain = Chain(address)
    for transition in history:
        chain.follow(transition)
    if newest is not None:
        chain.end(newest)

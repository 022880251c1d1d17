"""An agent's history as a hash chain: each transition's hash covers its body and the hash before it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256

import msgspec

from bus.errors import BrokenChain
from storage.records import GENESIS, StoredState

MISSING, PREVIOUS, BODY = "missing version", "previous hash", "body hash"
NEWEST, STATE, JOURNAL = "newest hash", "state hash", "journal value"


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One stored transition. `body` is the JSON text exactly as stored."""

    version: int
    body: str
    prev: bytes
    hash: bytes


class Link(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One transition without its body; `is_sound` tells whether that and `prev` hash to `hash`."""

    version: int
    prev: bytes
    hash: bytes
    is_sound: bool


class Tip(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An agent's own row: its version and newest hash, and the digest of its state beside the one that the newest
    transition has (both empty without a state)."""

    version: int
    hash: bytes
    state_hash: str
    recorded_state_hash: str


class Chain:
    """Follows one history transition by transition, so that it need not fit into memory.

    Every method raises BrokenChain with the first broken `version` and `what` differs there. Retention may have
    dropped the oldest months, so a history that begins later than version 1 is trusted up to its beginning.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.length = 0
        self.since: int | None = None
        self.last: Link | None = None

    def follow(self, link: Link) -> None:
        """The next transition must follow the last one, and hash to what is stored with it."""
        expected = link.version if self.last is None else self.last.version + 1
        if link.version != expected:
            raise self.broken(expected, MISSING, "is missing")
        prev = self.last.hash if self.last is not None else GENESIS if expected == 1 else link.prev
        if link.prev != prev:
            raise self.broken(expected, PREVIOUS, "does not follow the one before it")
        if not link.is_sound:
            raise self.broken(expected, BODY, "does not hash to what is stored")
        self.length += 1
        self.since = self.since or expected
        self.last = link

    def end(self, tip: Tip) -> None:
        """The history must lead to the agent's own row: so one whose tail was cut off is found."""
        if self.last is None:
            return  # all of it may be older than the retention
        version = self.last.version
        if tip.version > version:
            raise self.broken(version + 1, MISSING, "is missing")
        if tip.version < version or tip.hash != self.last.hash:
            raise self.broken(version, NEWEST, "is not what the agent's state was made by")
        if tip.state_hash != tip.recorded_state_hash:
            raise self.broken(version, STATE, "does not hash to the state that is stored")

    def broken(self, version: int, what: str, text: str) -> BrokenChain:
        return BrokenChain(
            f"The history of {self.address} is broken: version {version} {text}.",
            version=version, what=what, detail=text,
        )  # fmt: skip


def verify_chain(address: str, history: Iterable[Transition], newest: StoredState | None = None) -> None:
    """Check a history, in the order of its versions, and that it leads to the agent's row; see Chain."""
    chain = Chain(address)
    body = "{}"
    for t in history:
        body = t.body
        is_sound = sha256(t.prev + body.encode()).digest() == t.hash
        chain.follow(Link(version=t.version, prev=t.prev, hash=t.hash, is_sound=is_sound))
    if newest is not None:
        digest = sha256(newest.state.encode()).hexdigest() if newest.state is not None else ""
        recorded = json.loads(body).get("state_hash", "")
        chain.end(
            Tip(version=newest.version, hash=newest.hash, state_hash=digest, recorded_state_hash=recorded)
        )

"""An agent's history as a hash chain: each transition's hash covers its body and the hash before it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256

import msgspec

from bus.errors import BrokenChain
from storage.records import GENESIS, StoredState

MISSING, PREVIOUS, BODY = "missing version", "previous hash", "body hash"
NEWEST, STATE, JOURNAL, PAYLOAD, TASK = "newest hash", "state hash", "journal value", "payload", "task"


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


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """What a history must follow: the newest transition that retention has dropped, and when; or the beginning of all."""

    version: int
    hash: bytes
    dropped_at: datetime | None = None


BEGINNING = Anchor(version=0, hash=GENESIS)


class Tip(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An agent's own row: its version and newest hash, and the digest of its state beside the one that the newest
    transition has (both empty without a state)."""

    version: int
    hash: bytes
    state_hash: str
    recorded_state_hash: str


class Chain:
    """Follows one history transition by transition, so that it need not fit into memory.

    Every method raises BrokenChain with the first broken `version` and `what` differs there. The first transition must
    follow the `anchor`; of a part of a history, whose anchor is None, it is trusted. Retention may move the anchor on
    while the history is read; what is left of what it has dropped is passed over.
    """

    def __init__(self, address: str, anchor: Anchor | None = BEGINNING) -> None:
        self.address = address
        self.anchor = anchor
        self.length = 0
        self.since: int | None = None
        self.last: Link | None = None

    def follow(self, link: Link) -> bool:
        """The next transition must follow the last one, and hash to what is stored with it. False: it was passed over."""
        if self.anchor is not None and 0 < link.version <= self.anchor.version:
            return False
        before = self._newest()
        expected = link.version if before is None else before.version + 1
        if link.version != expected:
            raise self.broken(expected, MISSING, "is missing")
        if before is not None and link.prev != before.hash:
            raise self.broken(expected, PREVIOUS, "does not follow the one before it")
        if not link.is_sound:
            raise self.broken(expected, BODY, "does not hash to what is stored")
        self.length += 1
        self.since = self.since or expected
        self.last = link
        return True

    def end(self, tip: Tip) -> None:
        """The history must lead to the agent's own row: so one whose tail was cut off is found."""
        newest = self._newest()
        if newest is None:
            return
        version = newest.version
        if tip.version > version:
            raise self.broken(version + 1, MISSING, "is missing")
        if tip.version < version or tip.hash != newest.hash:
            raise self.broken(version, NEWEST, "is not what the agent's state was made by")
        if newest is self.last and tip.state_hash != tip.recorded_state_hash:
            raise self.broken(version, STATE, "does not hash to the state that is stored")

    def _newest(self) -> Link | Anchor | None:
        """What the next transition must follow."""
        if self.last is None or (self.anchor is not None and self.anchor.version > self.last.version):
            return self.anchor
        return self.last

    def broken(self, version: int, what: str, text: str) -> BrokenChain:
        return BrokenChain(
            f"The history of {self.address} is broken: version {version} {text}.",
            version=version, what=what, detail=text,
        )  # fmt: skip


def verify_chain(
    address: str,
    history: Iterable[Transition],
    newest: StoredState | None = None,
    anchor: Anchor | None = BEGINNING,
) -> None:
    """Check a history, in the order of its versions, and that it leads to the agent's row; see Chain."""
    chain = Chain(address, anchor)
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

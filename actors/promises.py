"""The promises that one turn has made: which of them are open, and how the others were settled."""

from __future__ import annotations

import msgspec

from actors.draft import Draft
from actors.task_messages import LEADS
from actors.wake import Wake
from bus.envelope import new_id
from bus.registry import encode_json
from storage.edges import Gate
from storage.journal import Kind, OpenPromise, PromiseWrite


class Promises:
    """A promise exists once the write has committed that it was made in."""

    __slots__ = ("_by_place", "_draft", "_let_go", "_open", "outcomes")

    def __init__(self, draft: Draft) -> None:
        self.outcomes: dict[str, Wake] = {}
        """By their places, as far as this run of the turn has come to them."""
        self._draft = draft
        self._open: dict[str, OpenPromise] = {}
        self._by_place: dict[str, OpenPromise] = {}
        self._let_go: dict[str, list[OpenPromise]] = {}  # by the gathers that have let them go

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def __contains__(self, id_: str) -> bool:
        """Whether it is open, as far as this run knows."""
        return id_ in self._open

    def at(self, place: str) -> OpenPromise | None:
        """The one that was made at a place and is not on record as settled, or has been settled in this run."""
        return self._by_place.get(place)

    def make(
        self, place: str, kind: Kind, name: str, *, id_: str | None = None, target: str | None = None,
        message: str | None = None, gates: tuple[Gate, ...] = (), due_at: float | None = None,
        details: str | None = None,
    ) -> str:  # fmt: skip
        """Make one; return its id. Raises InvalidPayload for a name that Postgres could not hold."""
        encode_json(name)
        id_ = id_ or new_id()
        self._draft.promises.append(
            PromiseWrite(
                id=id_, key=place, kind=kind, name=name, target=target, message=message, gates=gates,
                due_at=due_at, details=details,
            )
        )  # fmt: skip
        self.expect(
            OpenPromise(
                id=id_, key=place, kind=kind, name=name, status="pending", target=target, due_at=due_at
            )
        )
        return id_

    def expect(self, promise: OpenPromise) -> None:
        self._open[promise.id] = promise
        self._by_place[promise.key] = promise

    def settle(self, wake: Wake) -> OpenPromise | None:
        """The promise that is settled so; None for one of an earlier turn, or that was settled twice by a mistake of ours."""
        promise = self._open.pop(wake.promise, None)
        if promise is not None:
            self._draft.done.append(promise.id)
            self._draft.asks_done += promise.kind == Kind.ASK
        else:
            promise = self._decided_after_all(wake.promise)
        if promise is not None:
            self.outcomes[promise.key] = wake
        return promise

    def _decided_after_all(self, id_: str) -> OpenPromise | None:
        """One that a gather has let go: should that not go on record, the decision counts."""
        for gone in self._let_go.values():
            for promise in gone:
                if promise.id == id_:
                    gone.remove(promise)
                    return promise
        return None

    def awaited(self, place: str) -> str:
        """The id of the promise at a place: somebody waits for it."""
        id_ = self._by_place[place].id
        if id_ in self._open:
            self._give_up(self._open[id_], False)
        return id_

    def give_up_asks(self, prefixes: tuple[str, ...]) -> None:
        """Nobody waits for the asks at these places any more."""
        for promise in list(self._open.values()):
            if promise.kind == Kind.ASK and promise.key.startswith(prefixes):
                self._give_up(promise, True)

    def let_go_questions(self, gather: str, prefixes: tuple[str, ...]) -> None:
        """Nobody needs the approvals at these places any more, nor to hear what a call has done, once it is on record how
        the gather has ended: nobody is to be told that they count."""
        asked = (Kind.APPROVAL, Kind.OUTCOME)
        gone = [p for p in self._open.values() if p.kind in asked and p.key.startswith(prefixes)]
        for promise in gone:
            del self._open[promise.id]
            self._draft.done.append(promise.id)
        self._let_go[gather] = gone

    def keep_questions(self, gather: str) -> None:
        """How the gather has ended is not on record after all: its calls are made again."""
        for promise in self._let_go.pop(gather, ()):
            self._open[promise.id] = promise
            self._draft.done.remove(promise.id)

    def _give_up(self, promise: OpenPromise, given_up: bool) -> None:
        if promise.given_up is not given_up:
            self._open[promise.id] = msgspec.structs.replace(promise, given_up=given_up)
            self._draft.given_up[promise.id] = given_up

    def asks_below(self, prefix: str) -> list[OpenPromise]:
        """The asks of a branch that are not answered."""
        return [p for p in self._open.values() if p.kind == Kind.ASK and p.key.startswith(prefix)]

    @property
    def awaits_a_task(self) -> bool:
        """Whether a branch waits for one, or is about to: whoever leads its parent was asked."""
        asks = (p for p in self._open.values() if p.kind == Kind.ASK and not p.given_up)
        return any((ask.target or "").partition("/")[2].startswith(LEADS) for ask in asks)

    def unmake(self) -> None:
        """Those that no write has taken along were never made."""
        for promise in self._draft.promises:
            self._open.pop(promise.id, None)
            self._by_place.pop(promise.key, None)
            self._draft.given_up.pop(promise.id, None)
        self._draft.promises = []

    @property
    def still_open(self) -> list[OpenPromise]:
        return list(self._open.values())

    def let_go(self) -> None:
        """The turn ends: nobody waits for those that are open."""
        self._draft.done.extend(self._open)
        self._draft.asks_done += sum(promise.kind == Kind.ASK for promise in self._open.values())

"""Messages that wait for their next try, in their place or overtaken."""

from __future__ import annotations

import msgspec

from actors.activation import Activation
from actors.books import size_of
from actors.mailboxes import Mailboxes
from actors.scope import Scope
from bus.envelope import Envelope
from storage.records import Mark

STORAGE_RETRY_S = 0.5  # a turn that storage was away for
_ASIDE_SHARE = 0.25  # of the cache, for messages that are overtaken; past that they keep their place


class NextTries:
    """Most messages block their agent meanwhile; one whose handler says so is set aside, and those behind it go on."""

    def __init__(self, scope: Scope, mailboxes: Mailboxes) -> None:
        self._scope = scope
        self._mailboxes = mailboxes
        self._aside = 0  # bytes of what others overtake

    def after_failure(self, activation: Activation, envelope: Envelope, mark: Mark) -> None:
        """Its turn has failed, as the mark says."""
        delay = mark.delay_s or 0.0
        again = msgspec.structs.replace(envelope, failures=envelope.failures + mark.failed, open=mark.open)
        handler = activation.type.handlers.get(envelope.header.type)
        size = size_of(again)
        # An open turn keeps its place.
        may_be_overtaken = handler is not None and handler.overtake and not mark.open
        if may_be_overtaken and self._aside + size <= self._scope.limits.cached_bytes * _ASIDE_SHARE:
            self._aside += size
            clock = self._scope.clock
            clock.call_at(clock.now() + delay, self._try_again, activation, again, size)
            if activation.more:  # no commit of this turn brings the next messages
                self._mailboxes.refill(activation)
        else:
            if again.is_control:
                again = msgspec.structs.replace(again, retry_at=self._scope.clock.now() + delay)
            self._block(activation, again, delay)

    def after_storage_was_away(self, activation: Activation, envelope: Envelope) -> None:
        """Its turn could not begin, and has left nothing behind."""
        self._block(activation, envelope, STORAGE_RETRY_S)

    def _block(self, activation: Activation, envelope: Envelope, delay: float) -> None:
        activation.blocked_until = self._scope.clock.now() + delay
        self._mailboxes.put_back(activation, envelope)

    def _try_again(self, activation: Activation, envelope: Envelope, size: int) -> None:
        self._aside -= size
        if activation.alive:
            self._mailboxes.put_back(activation, envelope)
            self._mailboxes.schedule(activation)

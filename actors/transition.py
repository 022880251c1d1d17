"""The text of a transition: what explains one turn, as it stands in the agent's history."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from json.encoder import encode_basestring as _quote

from actors.journal import Journal
from bus.envelope import Envelope, Outgoing
from storage import state_delta
from storage.records import FULL_STATE_EVERY

FULL_STATE_BYTES = 4096  # a larger state stands in the history as its changed fields


def transition_body(
    version: int,
    at: float,
    envelope: Envelope,
    decision: str,
    old_state: str | None,
    state: str | None,
    lifecycle: str,
    notes: Sequence[str],
    sent: Sequence[Outgoing],
    journal: Journal | None,
) -> str:
    """The canonical text of a transition: one JSON object, its keys in this order, no spaces."""
    sends = ""
    for send in sent:
        to = _quote(f"{send.domain}/{send.agent}")
        sends += f'{"," if sends else ""}{{"id":"{send.header.id}","to":{to},"type":"{send.header.type}"}}'
    calls = ""
    if journal is not None:
        sends = ",".join(filter(None, (journal.entries.sent_body(), sends)))
        calls = f'"turn":"{journal.turn}","began":{journal.now:.6f},"calls":[{journal.entries.calls_body()}],'
    failures = f'"failures":{envelope.failures},' if envelope.failures else ""
    return (
        f'{{"version":{version},"at":{at:.6f},"decision":"{decision}","lifecycle":"{lifecycle}",'
        f'{failures}"message":{{"header":{envelope.header_json},"payload":{envelope.payload}}},'
        f'"notes":[{",".join(notes)}],{calls}"sends":[{sends}],{_state_part(version, old_state, state)}}}'
    )


def _state_part(version: int, old: str | None, new: str | None) -> str:
    if new is None:
        return '"state_hash":""' if old is None else '"state_hash":"","state":null'
    digest = sha256(new.encode()).hexdigest()
    is_due = version % FULL_STATE_EVERY == 0
    if new == old and not is_due:
        return f'"state_hash":"{digest}"'
    delta = None if old is None or is_due or len(new) <= FULL_STATE_BYTES else state_delta.between(old, new)
    if delta is None:
        return f'"state_hash":"{digest}","state":{new}'
    return f'"state_hash":"{digest}","delta":{delta}'

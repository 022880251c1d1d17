"""The text of a transition: what explains one turn, as it stands in the agent's history."""

from __future__ import annotations

import json
from hashlib import sha256

from actors.consequences import Consequences
from actors.journal import Journal
from bus.envelope import Envelope

FULL_STATE_BYTES = 4096  # a larger state stands in the history as its changed fields...
FULL_STATE_EVERY = 64  # ...except every so many versions, so that replay is short


def transition_body(
    version: int,
    at: float,
    envelope: Envelope,
    decision: str,
    old_state: str | None,
    state: str | None,
    lifecycle: str,
    puts: Consequences,
    journal: Journal | None,
) -> str:
    """The canonical text of a transition: one JSON object, its keys in this order, no spaces."""
    sends = ",".join(
        f'{{"id":"{s.header.id}","to":{_quote(s.domain + "/" + s.agent)},"type":"{s.header.type}"}}'
        for s in puts.sends
    )
    calls = ""
    if journal is not None:
        sends = ",".join(filter(None, (journal.sent_body(), sends)))
        calls = f'"turn":"{journal.turn}","calls":[{journal.calls_body()}],'
    return (
        f'{{"version":{version},"at":{at:.6f},"decision":"{decision}","lifecycle":"{lifecycle}",'
        f'"message":{{"header":{envelope.header_json},"payload":{envelope.payload}}},'
        f'"notes":[{",".join(puts.notes)}],{calls}"sends":[{sends}],{_state_part(version, old_state, state)}}}'
    )


def _state_part(version: int, old: str | None, new: str | None) -> str:
    digest = sha256(new.encode()).hexdigest() if new is not None else ""
    if new == old:
        return f'"state_hash":"{digest}"'
    if new is None:
        return '"state_hash":"","state":null'
    if old is None or len(new) <= FULL_STATE_BYTES or version % FULL_STATE_EVERY == 0:
        return f'"state_hash":"{digest}","state":{new}'
    before, after = json.loads(old), json.loads(new)
    delta = {
        "set": {name: value for name, value in after.items() if name not in before or before[name] != value},
        "drop": [name for name in before if name not in after],
    }
    text = json.dumps(delta, separators=(",", ":"), ensure_ascii=False)
    return f'"state_hash":"{digest}","delta":{text}'


_quote = json.JSONEncoder(ensure_ascii=False).encode

"""Whether an event that JetStream has acknowledged survives a crash of its server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bus.errors import CallboardError, ServiceUnavailable
from callboard.doctor.finding import Finding, fail, good, warn

if TYPE_CHECKING:
    from callboard.services import Endpoints

CHECK = "event stream"
ENOUGH_REPLICAS = 3
_TIMEOUT_S = 5.0
_NO_STREAM = 10059  # JetStream's error code
_MEND = (
    "Set `sync_interval: always` in the jetstream block of every NATS server's configuration, or keep the stream on 3 "
    "servers (`nats stream edit CALLBOARD_EVENTS --replicas 3`)."
)


async def examine_events(endpoints: Endpoints) -> Finding:
    """Our own server syncs always. Of another one only the stream can be seen, not what the server is set to."""
    try:
        config = await _stream_config(endpoints.nats_url)
    except CallboardError as error:
        return fail(CHECK, error.message, error.fix)
    if config is not None and config.get("storage") != "file":
        return fail(
            CHECK, "it is kept in memory, and is gone when NATS stops", "Delete it; Callboard makes it anew."
        )
    if config is not None and config.get("persist_mode") == "async":
        return fail(
            CHECK,
            "it acknowledges events before it writes them (persist_mode async)",
            "Delete it; Callboard makes it anew.",
        )
    if endpoints.embedded_nats:
        return good(CHECK, "an acknowledged event is on disk: our own NATS syncs always")
    replicas = (config or {}).get("num_replicas", 1)
    if replicas >= ENOUGH_REPLICAS:
        return good(CHECK, f"{replicas} servers keep it; whether they sync always cannot be seen from here")
    return warn(
        CHECK,
        "whether this NATS syncs an event before it acknowledges it cannot be seen from here; by default it syncs every "
        "2 minutes, and a crash loses what it acknowledged since",
        _MEND,
    )


async def _stream_config(url: str) -> dict[str, Any] | None:
    """The configuration of the stream as its server shows it; None when there is no stream yet."""
    # Imported here, because the driver brings an HTTP client along: 0.3 s that `callboard status` saves.
    from bus.nats import NatsTransport
    from bus.subjects import EVENTS_STREAM

    transport = await NatsTransport.connect(url, name="callboard doctor")
    try:
        answer = json.loads(
            await transport.request(f"$JS.API.STREAM.INFO.{EVENTS_STREAM}", b"", timeout_s=_TIMEOUT_S)
        )
    finally:
        await transport.close()
    error = answer.get("error")
    if error is None:
        config: dict[str, Any] = answer["config"]
        return config
    if error.get("err_code") == _NO_STREAM:
        return None
    raise ServiceUnavailable(
        f"JetStream does not show its stream of events: {error.get('description', 'no reason given')}.",
        fix="Let the account that Callboard uses read $JS.API.STREAM.INFO.",
    )

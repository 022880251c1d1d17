"""`callboard events`: which events the domains take, where they are published, and which nobody takes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.table import table
from callboard.cli.terminal import console, emit, plain
from callboard.cli.untaken_view import untaken_lines

if TYPE_CHECKING:
    from callboard.untaken import Untaken


@asynchronous
async def events(
    url: Annotated[
        bool, typer.Option("--url", help="Print the URL of NATS with its password, and nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show which events the domains take from NATS publishers, the subject of each, and the events that nobody takes."""
    from bus.errors import ServiceUnavailable
    from callboard.services import redacted, running_endpoints
    from callboard.settings import load_settings

    endpoints = running_endpoints(load_settings())
    if endpoints is None:
        raise ServiceUnavailable(
            "Callboard does not run: there is no NATS to publish to.",
            fix="Start it with `callboard up --detach`.",
        )
    if url:
        if as_json:
            emit({"url": endpoints.nats_url})
        else:
            sys.stdout.write(endpoints.nats_url + "\n")
        return
    nats = ", ".join(redacted(part) for part in endpoints.nats_url.split(","))
    found, untaken = await _taken(), await _untaken()
    if as_json:
        emit({"nats": nats, "events": found, "untaken": untaken})
        return
    out = console()
    out.print(plain(f"Publish over JetStream to {nats}; `callboard events --url` has the password."))
    if not found:
        out.print(plain("No domain takes events. List some under `events` in a domain.yaml."))
    else:
        header = ("subject", "type", "goes to")
        rows = [tuple(one[name] for name in ("subject", "type", "to")) for one in found]
        out.print(table(header, rows, whole=header))
    for line in untaken_lines(untaken, len(untaken.subjects)):
        out.print(line)


async def _untaken() -> Untaken:
    """Raises ServiceUnavailable."""
    # Imported here, because the driver brings an HTTP client along.
    from bus.events import EventStream
    from bus.nats import NatsTransport
    from callboard.cli.connection import opened
    from callboard.untaken import untaken_events

    async with opened() as at:
        transport = await NatsTransport.connect(at.endpoints.nats_url, name="callboard events", timeout_s=1.0)
        try:
            return await untaken_events(EventStream(transport), at.db)
        finally:
            await transport.close()


async def _taken() -> list[dict[str, Any]]:
    """What the registered domains list in their domain.yaml, by domain."""
    from actors.domain import DomainSpec
    from bus import subjects
    from callboard.cli.connection import opened
    from storage.domains import all_domains

    async with opened() as at:
        specs = [DomainSpec.from_json(row.spec) for row in await all_domains(at.db)]
    return [
        {
            "domain": spec.domain,
            "subject": subjects.events(spec.domain, event.name),
            "type": event.type,
            "to": f"{spec.domain}/{event.to}",
            "shared": event.shared,
        }
        for spec in specs
        for event in spec.events
    ]

"""`callboard events`: which events the domains take, and where they are published."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.table import table
from callboard.cli.terminal import console, emit, plain


@asynchronous
async def events(
    url: Annotated[
        bool, typer.Option("--url", help="Print the URL of NATS with its password, and nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show which events the domains take from NATS publishers, and the subject of each."""
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
    found = await _taken()
    if as_json:
        emit({"nats": nats, "events": found})
        return
    out = console()
    out.print(plain(f"Publish over JetStream to {nats}; `callboard events --url` has the password."))
    if not found:
        out.print(plain("No domain takes events. List some under `events` in a domain.yaml."))
        return
    header = ("subject", "type", "goes to")
    out.print(
        table(header, [tuple(one[name] for name in ("subject", "type", "to")) for one in found], whole=header)
    )


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

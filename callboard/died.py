"""What people are told of services and hosts that have died."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.inspect import HostView

_MOST_NAMED = 3


def died_services_text(died: Sequence[str], *, kept: bool) -> str:
    """Which embedded services have died, and what starts them again."""
    names, verb, which = " and ".join(died), *(("has", "it") if len(died) == 1 else ("have", "them"))
    return f"{names} {verb} died; {'the keeper' if kept else '`callboard up`'} starts {which} again."


def died_hosts_text(died: Sequence[HostView]) -> str:
    """How many hosts have died in the last hour, and of the newest which, when and how."""
    named = "; ".join(
        f"{host.host}, {host.ended_at:%H:%M:%S} ({host.ended_why})" for host in died[:_MOST_NAMED]
    )
    more = f"; and {len(died) - _MOST_NAMED} before" if len(died) > _MOST_NAMED else ""
    hosts = "1 host" if len(died) == 1 else f"{len(died)} hosts"
    return f"{hosts} died in the last hour: {named}{more}"

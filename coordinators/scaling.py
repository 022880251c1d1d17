"""How many hosts a domain should have, from its backlog."""

from __future__ import annotations

from dataclasses import dataclass

from actors.domain import HostSpec


@dataclass(frozen=True, kw_only=True)
class Load:
    """A domain as the master sees it. `backlog` counts messages that wait on its hosts."""

    hosts: int
    backlog: int
    since_change_s: float


def desired_hosts(spec: HostSpec, load: Load) -> int:
    """The number of hosts to aim at: one more when the backlog per host is above `grow_above`, one less when
    it is below `shrink_below`, never two changes within `cool_down_s`, always within min and max."""
    wanted = min(spec.max, max(spec.min, load.hosts))
    if wanted != load.hosts or load.since_change_s < spec.cool_down_s:
        return wanted
    per_host = load.backlog / max(1, wanted)
    if per_host > spec.grow_above:
        return min(spec.max, wanted + 1)
    if per_host < spec.shrink_below:
        return max(spec.min, wanted - 1)
    return wanted

"""Room for hosts, in words: what they wait for, and what makes some."""

from __future__ import annotations

from storage.lack import Lack


def lack_text(lack: Lack) -> str:
    """What hosts wait for, as the rest of a sentence that begins with their domain."""
    hosts = "1 host waits" if lack.hosts == 1 else f"{lack.hosts} hosts wait"
    if lack.behind is not None:
        return f"{hosts} until those of {lack.behind} are ready, since Ray has no room for all of them"
    if lack.cpus > lack.largest:
        return f"{hosts} for room in Ray: each asks for {_cpus(lack.cpus)}, and the largest node has {lack.largest:g}"
    free = f"no node has more than {lack.free:g} free" if lack.free else "none is free"
    others = f"; {lack.others} more of other domains or models wait as well" if lack.others else ""
    return f"{hosts} for room in Ray: each asks for {_cpus(lack.cpus)}, and {free}{others}"


def lack_mend(domain: str, lack: Lack) -> str:
    """What a person can do about it."""
    if lack.behind is not None:
        return f"It passes once the hosts of {lack.behind} are ready; if they never are, their log says why."
    lower = f"Lower `hosts.cpus` in the domain.yaml of {domain}"
    again = "and call `callboard up DOMAIN_DIR`"
    if lack.cpus > lack.largest:
        return f"{lower} {again}, or give Ray a node that is large enough."
    return (
        f"{lower} or of another domain, or `hosts.min` and `hosts.max`, {again}; remove a domain (`callboard domains`); "
        "or give Ray more nodes."
    )


def _cpus(amount: float) -> str:
    return f"{amount:g} CPU{'s' if amount > 1 else ''}"

"""Where a login came from: one spelling per source, and the network it belongs to."""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# What one attacker usually commands: a small provider block, or one IPv6 subnet.
SWEEP_PREFIX = {4: 24, 6: 64}

# A host name needs a letter, or a mistyped address would pass for one; 253 is RFC 1035's limit.
_NAME = re.compile(r"(?=[^a-z]*[a-z])[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")
_LONGEST_BYTES = 300  # an agent's key has room for 512


def normalise(text: str) -> str | None:
    """Return the one spelling of a source, or None when it names nobody.

    IPv4 and IPv6 in `ipaddress`' canonical form (a scope such as `%eth0` is kept: the same link-local
    address on two links is two machines), IPv4 mapped into IPv6 as IPv4, host names in lower case without
    a trailing dot. sshd's `UNKNOWN` is nobody.
    """
    text = text.strip("[]")
    if len(text.encode()) > _LONGEST_BYTES:
        return None
    address = parse(text)
    if address is not None:
        return str(address)
    name = text.lower().rstrip(".")
    return name if name != "unknown" and _NAME.fullmatch(name) else None


def parse(text: str) -> Address | None:
    """Return the IP address that `text` spells, None for a host name."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def network_of(source: str) -> str | None:
    """Return the /24 or /64 that a normalised source lies in, None for a host name."""
    address = parse(source)
    if address is None:
        return None
    # Without its scope, which no network has.
    plain = int(address)
    prefix = SWEEP_PREFIX[address.version]
    factory = ipaddress.IPv4Network if address.version == 4 else ipaddress.IPv6Network
    return str(factory((plain, prefix), strict=False))


def sort_key(source: str) -> tuple[int, int, str]:
    """Order IPv4 before IPv6 before host names, each in its own order."""
    address = parse(source)
    return (9, 0, source) if address is None else (address.version, int(address), source)

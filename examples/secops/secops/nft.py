"""An nftables script that holds one table with a set of addresses for each version of IP."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_address

from pydantic import BaseModel, ConfigDict

from .address import sort_key

TABLE = "secops"
SETS = {4: "blocked4", 6: "blocked6"}
MAX_COMMENT = 120  # nft takes 128 characters

_HEAD = f"""\
#!/usr/sbin/nft -f
# Addresses that Callboard's secops example has blocked. A dry run: nothing loads this file, and a set alone drops
# nothing. `nft -c -f` checks it, `nft -f` loads it, and a chain of yours uses it:
#   ip saddr @{SETS[4]} drop    ip6 saddr @{SETS[6]} drop
# A timeout counts from the moment of loading. Loaded later than it was written, an address stays blocked for longer than
# the `until` of its comment, which is when it was meant to end.
# Written whole each time; what is written into it by hand keeps it from being written again.
"""
_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_ENTRY = re.compile(
    r'^\t\t\t(?P<address>[0-9a-f.:]+) timeout (?P<hours>[0-9]{1,4})h comment "until (?P<until>\S+) \[(?P<call>[0-9a-f]{12})\]: '
    r'(?P<why>[^"]*)",?$',
    re.MULTILINE,
)
_UNWRITTEN = re.compile(r'[^ -~]|["\\]')


class Entry(BaseModel):
    """One blocked address: until when, by which call (the end of its idempotency key), and in a few words why."""

    model_config = ConfigDict(frozen=True)

    address: str
    hours: int
    until: datetime
    call: str
    why: str


def entry(address: str, hours: int, until: datetime, call: str, why: str) -> Entry:
    """An entry as the script can hold it: to the second, its words in printable ASCII and short enough."""
    until = until.astimezone(UTC).replace(microsecond=0)
    call = call[-12:]
    room = MAX_COMMENT - len(_comment(until, call, ""))
    return Entry(address=address, hours=hours, until=until, call=call, why=_UNWRITTEN.sub("?", why)[:room])


def render(entries: Iterable[Entry]) -> str:
    """Return the script, the addresses of each set in their order."""
    by_version: dict[int, list[Entry]] = {version: [] for version in SETS}
    for each in sorted(entries, key=lambda one: sort_key(one.address)):
        by_version[ip_address(each.address).version].append(each)
    sets = "\n".join(_set(*each) for each in by_version.items())
    return f"{_HEAD}table inet {TABLE} {{\n{sets}}}\n"


def read(script: str) -> list[Entry] | None:
    """Return the entries of a script that `render` has written, None for any other text."""
    try:
        entries = [Entry.model_validate(found.groupdict()) for found in _ENTRY.finditer(script)]
        return entries if render(entries) == script else None
    except ValueError:
        return None


def _set(version: int, entries: list[Entry]) -> str:
    lines = [f"\tset {SETS[version]} {{", f"\t\ttype {_TYPES[version]}", "\t\tflags timeout"]
    if entries:  # an empty list of elements is no nft
        elements = ",\n".join(
            f'\t\t\t{each.address} timeout {each.hours}h comment "{_comment(each.until, each.call, each.why)}"'
            for each in entries
        )
        lines += ["\t\telements = {", elements, "\t\t}"]
    return "\n".join([*lines, "\t}", ""])


def _comment(until: datetime, call: str, why: str) -> str:
    return f"until {until:%Y-%m-%dT%H:%M:%SZ} [{call}]: {why}"

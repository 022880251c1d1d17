"""Where each agent lives. Keys are any Unicode: an address, a network, a digest, a task's id."""

from __future__ import annotations

import math
from hashlib import blake2b

from .address import network_of

DOMAIN = "secops"

# A log's sources are shared out over so many rosters: 40 on each for a log with 5,000 of them.
ROSTERS = 128
# So many rosters report through one clerk: the reporter hears 11 messages, and its state is written as often.
ROSTERS_PER_CLERK = 12

# A log is read and judged once for all tasks that want it, so that work must not end with one task's deadline.
NO_DEADLINE = math.inf


def desk(task: str) -> str:
    return f"{DOMAIN}/desk/{task}"


def reader(log: str) -> str:
    return f"{DOMAIN}/reader/{log}"


def roster(log: str, number: int) -> str:
    return f"{DOMAIN}/roster/{log}/{number}"


def watchman(source: str) -> str:
    return f"{DOMAIN}/watchman/{source}"


def investigator(source: str) -> str:
    """The investigator of the network that a source lies in; a host name has one of its own."""
    return f"{DOMAIN}/investigator/{network_of(source) or source}"


def analyst(log: str) -> str:
    return f"{DOMAIN}/analyst/{log}"


def responder(case: str, source: str) -> str:
    """The responder for one source in one case: a log that is judged, or a task that acts."""
    return f"{DOMAIN}/responder/{source}/{case}"


def clerk(task: str, number: int) -> str:
    return f"{DOMAIN}/clerk/{task}/{number}"


def clerk_number(roster_number: int) -> int:
    return roster_number // ROSTERS_PER_CLERK


def reporter(task: str) -> str:
    return f"{DOMAIN}/reporter/{task}"


def roster_number(source: str) -> int:
    """Which of a log's rosters a source is on: all sources of one network are on the same one."""
    network = network_of(source) or source
    return int.from_bytes(blake2b(network.encode(), digest_size=4).digest(), "big") % ROSTERS

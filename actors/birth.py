"""Which process a pid stands for, and where: the number alone may be another's by now, or of another machine."""

from __future__ import annotations

import os
import socket
from functools import cache
from hashlib import sha256
from pathlib import Path

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NUMBERS = Path("/proc/self/ns/pid")
_MACHINE = Path("/etc/machine-id")
_NETWORK = Path("/sys/class/net")
_FIRST_NUMBERS = (
    "pid:[4026531836]"  # those of the machine itself, outside of any container: a constant of Linux
)


def born(pid: int) -> str | None:
    """When the process began, in words that stay the same for as long as it lives; None for one that has ended.

    On Linux these are the machine's start and the ticks since: the time of day at which a process began changes
    whenever somebody sets the clock. Elsewhere the kernel keeps it as it was.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if _BOOT.exists() else _elsewhere(pid)
    is_over = fields[0] in (b"Z", b"X")
    return None if is_over else f"{_BOOT.read_text().strip()} {fields[19].decode()}"


@cache
def machine() -> str:
    """The machine of this process, its user, and its name space of pids; empty where that cannot be told.

    It stays the same when the machine is started again. Machines that were copied from each other differ in their
    network's addresses; containers of one image may differ in nothing but the machine's start, which `born` has.
    """
    if not _BOOT.exists() or not os.path.lexists(_NUMBERS):
        return ""
    names = [_machine_id(), *_addresses(), socket.gethostname(), str(os.getuid())]
    return f"{sha256(' '.join(names).encode()).hexdigest()[:32]} {os.readlink(_NUMBERS)}"


def was_here(on: str, was: str) -> bool:
    """Whether a process that was born so `on` such a machine was one of this very machine, seen as from here: if there
    is none like it any more, it has ended.

    Since the machine's last start, the machine and the name space of pids are proof. Before it, also containers on
    other machines may look the same: then only what ran in none of them is known.
    """
    if not on or on != machine():
        return False
    is_of_this_start = was.startswith(f"{_BOOT.read_text().strip()} ")
    is_one_of_a_kind = on.endswith(_FIRST_NUMBERS) and _machine_id() != "" and _addresses() != []
    return is_of_this_start or is_one_of_a_kind


def _machine_id() -> str:
    return _MACHINE.read_text().strip() if _MACHINE.exists() else ""


def _addresses() -> list[str]:
    """Of the network cards; what a container has is none."""
    cards = [card for card in _NETWORK.glob("*") if card.joinpath("device").exists()]
    return sorted(card.joinpath("address").read_text().strip() for card in cards)


def _elsewhere(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.NoSuchProcess:
        return None

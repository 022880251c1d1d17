"""Which process a pid stands for: the number alone may be another's by now."""

from __future__ import annotations

from pathlib import Path

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")


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


def _elsewhere(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.NoSuchProcess:
        return None

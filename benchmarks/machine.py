"""What a benchmark ran on, and which process used its processors."""

import os
import platform
from pathlib import Path

import psutil


def processor() -> str:
    """How many processors of which kind."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return f"{os.cpu_count()} x {line.split(':', 1)[1].strip()}"
    return f"{os.cpu_count()} x {platform.processor()}"


def cpu_seconds(pid: int) -> float:
    """The processor time of a server and its children, also of those that have ended."""
    server = psutil.Process(pid)
    own = server.cpu_times()
    living = [child.cpu_times() for child in server.children()]
    return own.children_user + own.children_system + sum(t.user + t.system for t in (own, *living))

"""How a coordinator starts hosts and learns of their death."""

from __future__ import annotations

from typing import Protocol


class HostProcess(Protocol):
    """A host that was started."""

    async def ended(self) -> None:
        """Return when the process is gone, as soon as that is known."""
        ...

    async def kill(self) -> None: ...


class Launcher(Protocol):
    async def start(self, domain: str, host: str) -> HostProcess:
        """Start a host process; it registers an epoch of its own."""
        ...

    async def attach(self, domain: str, host: str, pid: int) -> HostProcess | None:
        """The process of a host that another incarnation of the coordinator started; None if it is gone."""
        ...

"""How coordinators start processes and learn of their end: hosts, and the coordinators of domains."""

from __future__ import annotations

from typing import Protocol


class HostProcess(Protocol):
    """A host that was started."""

    async def ended(self) -> str | None:
        """Return when the process is gone, as soon as that is known: why it cannot run the domain's code, if that was it."""
        ...

    async def kill(self) -> None: ...


class Launcher(Protocol):
    async def start(self, domain: str, host: str) -> HostProcess:
        """Start a host process; it registers an epoch of its own."""
        ...

    async def attach(self, domain: str, host: str, pid: int) -> HostProcess | None:
        """The process of a host that another incarnation of the coordinator started; None if it is gone."""
        ...


class Leaders(Protocol):
    """The coordinators of domains, as the master starts and ends them."""

    async def lead(self, domain: str) -> None:
        """Start the domain's coordinator unless it runs."""
        ...

    async def led(self) -> set[str]:
        """The domains that have a coordinator, whoever started it."""
        ...

    async def end(self, domain: str) -> None:
        """End the domain's coordinator for good, with what is left of its hosts."""
        ...

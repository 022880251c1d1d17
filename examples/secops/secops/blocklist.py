"""The default adapter of `block_address`: a file with an nftables script, written whole, private to its owner."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from callboard.settings import load_settings

from .errors import NotBlocked
from .nft import Entry, entry, read, render

VARIABLE = "SECOPS_BLOCKLIST"
MAX_BLOCKED = 10_000
_LOCK_WITHIN_S = (
    10.0  # far more than writing takes; a process that is stopped in the midst of it holds the lock
)
_LOCK_EVERY_S = 0.02


class Block(NamedTuple):
    """The block of an address that is in force, and the one that was before: the same where that ends later."""

    entry: Entry
    before: Entry | None


class Blocklist:
    """Addresses that are to be blocked, each once, until its time is over.

    Several processes may write: one at a time, under a lock beside the file. A reader sees the file as it was before a
    change or as it is after it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, address: str) -> Entry | None:
        """Return the block that stands in the file, be its time over or not; raises NotBlocked if it cannot be read."""
        return next((each for each in self._read() if each.address == address), None)

    def add(self, address: str, hours: int, call: str, why: str, *, now: datetime | None = None) -> Block:
        """Block an address for so long from now on. An earlier block is extended, and never cut short: it stands if it
        ends later.

        Raises NotBlocked when the file is as it was, OSError when that is not known.
        """
        now = now or datetime.now(UTC)
        with self._locked():
            kept = [each for each in self._read() if each.until > now]
            before = next((each for each in kept if each.address == address), None)
            added = entry(address, hours, now + timedelta(hours=hours), call, why)
            if before is not None and before.until > added.until:
                return Block(before, before)
            if before is None and len(kept) >= MAX_BLOCKED:
                raise NotBlocked(f"{self.path} holds {MAX_BLOCKED} addresses already.")
            self._write(render([*(each for each in kept if each is not before), added]))
            return Block(added, before)

    def _read(self) -> list[Entry]:
        try:
            script = self.path.read_text("utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise NotBlocked(f"{self.path} cannot be read: {error}.") from None
        entries = read(script)
        if entries is None:
            raise NotBlocked(f"{self.path} was not written by this example, or edited since.")
        return entries

    def _write(self, script: str) -> None:
        folder = self.path.parent
        written = None
        try:
            with tempfile.NamedTemporaryFile(  # readable by its owner alone
                "w", encoding="utf-8", dir=folder, prefix=f".{self.path.name}.", delete=False
            ) as file:
                written = file.name
                file.write(script)
                file.flush()
                os.fsync(file.fileno())
            os.replace(written, self.path)
        except OSError as error:
            if written is not None:
                with contextlib.suppress(OSError):
                    os.unlink(written)
            raise NotBlocked(f"{self.path} cannot be written: {error.strerror}.") from None
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise NotBlocked(f"{self.path} cannot be locked: {error.strerror}.") from None
        try:
            self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        until = time.monotonic() + _LOCK_WITHIN_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise NotBlocked(f"Another process holds {self.path}.lock.") from None
            except OSError as error:
                raise NotBlocked(f"{self.path} cannot be locked: {error.strerror}.") from None
            time.sleep(_LOCK_EVERY_S)


def configured() -> Blocklist:
    """The blocklist of this process: the file that SECOPS_BLOCKLIST names, or one in Callboard's data folder.

    Raises NotBlocked for a path that is not absolute.
    """
    given = os.environ.get(VARIABLE)
    path = Path(given).expanduser() if given else load_settings().home / "secops" / "blocklist.nft"
    if not path.is_absolute():
        raise NotBlocked(f"{VARIABLE} must be an absolute path.")
    return Blocklist(path)

"""Which Callboard this is, as hosts and coordinators register it."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from storage.migrate import migrations


@cache
def release() -> str:
    """The version of the installed distribution."""
    try:
        return version("callboard")
    except PackageNotFoundError:  # from a bare checkout
        return "unreleased"


@cache
def schema() -> int:
    """The newest migration that this release knows: what its statements are written for."""
    return migrations()[-1].number

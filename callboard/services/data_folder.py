"""The servers' data folders, looked at while no server runs: what would keep one from starting."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from bus.errors import DataFolderError

from .program import POSTGRES_MAJOR, client_program


def require_version(data: Path, log: Path) -> None:
    """Raise DataFolderError for what no Postgres of our version has made."""
    try:
        found = (data / "PG_VERSION").read_bytes().strip()
    except FileNotFoundError:
        raise corrupt(data, log, "it has no PG_VERSION file") from None
    except PermissionError:
        raise DataFolderError(
            f"The data folder {data} belongs to another user.",
            fix="Run as that user, or set CALLBOARD_HOME to a folder of your own.",
        ) from None
    if not found.isdigit():
        raise corrupt(data, log, "its PG_VERSION names no version")
    if int(found) != POSTGRES_MAJOR:
        raise DataFolderError(
            f"The data folder {data} was made by Postgres {int(found)}, "
            f"and this is Postgres {POSTGRES_MAJOR}.",
            fix="`callboard backup` with the Callboard that made it, `callboard restore` with this one.",
        )


def check_postgres_data(data: Path, log: Path) -> bool:
    """Whether Postgres was shut down cleanly. Raises DataFolderError for what can be seen to be damaged: the version, the
    control file, the folders of the databases, the log that a start begins with."""
    require_version(data, log)
    control = _control_file(data, log)
    databases = [folder for folder in (data / "base").glob("*") if folder.name.isdigit()]
    # 1 is template1, which every cluster has.
    for folder in {data / "base" / "1", *databases}:
        if not (folder / "PG_VERSION").is_file():
            raise corrupt(data, log, f"{folder.relative_to(data)}/PG_VERSION is missing")
    first = control.get("Latest checkpoint's REDO WAL file", "")
    if not (data / "pg_wal" / first).is_file():
        raise corrupt(data, log, f"pg_wal/{first} is missing, which a start begins with")
    return control.get("Database cluster state") == "shut down"


def _control_file(data: Path, log: Path) -> dict[str, str]:
    """What `pg_controldata` says, by its own names."""
    done = subprocess.run(
        [client_program("pg_controldata"), data],
        cwd="/",
        env={"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if complaint := re.search(r"(?:warning|error): (.*)", done.stderr):
        raise corrupt(data, log, complaint[1])
    lines = (line.partition(":") for line in done.stdout.splitlines())
    return {name: value.strip() for name, _, value in lines}


def check_nats_data(data: Path, log: Path) -> None:
    """Raise DataFolderError for a store whose streams cannot be read."""
    store = data / "jetstream"
    if store.exists() and not store.is_dir():
        raise _corrupt_store(data, log, f"{store.name} is no folder")
    for path in store.glob("*/streams/*/meta.inf"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            raise _corrupt_store(data, log, f"{path.relative_to(data)} cannot be read") from None


def _corrupt_store(data: Path, log: Path, reason: str) -> DataFolderError:
    return DataFolderError(
        f"NATS cannot use {data}: {reason}.",
        fix=f"See {log}. Move the folder away: a new one is made, without the events that no agent has been given yet.",
    )


def corrupt(data: Path, log: Path, reason: str) -> DataFolderError:
    """Raised for a folder on which Postgres cannot start."""
    return DataFolderError(
        f"Postgres cannot start on {data}: {reason.rstrip('.')}.",
        fix=f"See {log}. If the folder is damaged, move it away and `callboard restore` a backup.",
    )

"""What steps in the journal have really been executed: an append-only file for each process, outside the database.

Each execution has a token of its own, `TURN#PLACE=NONCE`, which is the step's result; whoever sees another one for
the same place sees a step that was computed twice.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

FOLDER = "CALLBOARD_FAULTS_EXECUTIONS"

_files: dict[int, int] = {}


class Executions(NamedTuple):
    """Of one process, in the order in which they happened."""

    began_at: float  # the process, seconds since 1970
    tokens: list[str]


def note_process(folder: Path) -> None:
    """Called by each process before anything is executed in it."""
    os.environ[FOLDER] = str(folder)
    _write(f"{time.time()!r}\n")


def execute(place: str) -> str:
    """Execute the step at a place; return its token."""
    token = f"{place}={secrets.token_hex(6)}"
    if FOLDER in os.environ:
        _write(f"{token}\n")
    return token


def _write(line: str) -> None:
    pid = os.getpid()
    if pid not in _files:
        _files[pid] = os.open(
            Path(os.environ[FOLDER]) / str(pid), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
    os.write(_files[pid], line.encode())


def read_executions(folder: Path) -> list[Executions]:
    """Those of every process; what a kill has cut off is left out."""
    found = []
    for file in sorted(folder.iterdir()):
        began_at, *tokens = file.read_text().rpartition("\n")[0].splitlines()
        found.append(Executions(float(began_at), tokens))
    return found


def by_place(tokens: list[str]) -> dict[str, list[str]]:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for token in tokens:
        places[token.partition("=")[0]].append(token)
    return places

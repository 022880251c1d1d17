"""What the libraries of a model read from the environment, as they are imported."""

from __future__ import annotations

from collections.abc import MutableMapping

_WANTED = {
    "TOKENIZERS_PARALLELISM": "false",  # a thread of our own calls them
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # A thread that waits for the others of its batch sleeps: the cores are needed by those, and by Postgres and hosts
    # (decision 45).
    "OMP_WAIT_POLICY": "PASSIVE",
}


def prepare(environment: MutableMapping[str, str]) -> None:
    """What somebody has set stays as it is."""
    for name, value in _WANTED.items():
        environment.setdefault(name, value)

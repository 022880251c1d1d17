"""Why an application of Ray Serve has not started, in one line."""

from __future__ import annotations

from collections.abc import Iterable


def reason(said: str, raised: Iterable[str]) -> str:
    """What one of its deployments has raised, the last line of a traceback; else the first of what Serve has `said`, which
    only names deployments."""
    last = [text.strip().splitlines()[-1] for text in raised if text.strip()]
    first = said.strip().splitlines()[:1]
    return next(iter((*last, *first)), "it does not say why").strip().rstrip(".")

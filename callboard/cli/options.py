"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else.")]


def not_empty(given: str | None) -> str | None:
    """A name or a reason as it was given; raises BadParameter for one without words, as from a script's empty variable."""
    if given is not None and not given.strip():
        raise typer.BadParameter("It is empty.")
    return given


PART = "Four digits or more of one end will do, also as lists shorten it (…a04afa)."

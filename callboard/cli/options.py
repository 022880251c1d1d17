"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else.")]


def not_empty(given: str | None) -> str | None:
    """A name or a reason as it was given; raises BadParameter for one without words, as from a script's empty variable."""
    if given is not None and not given.strip():
        raise typer.BadParameter("It is empty.")
    return given


def json_value(text: str, what: str) -> Any:
    """The value of JSON text; raises BadParameter, which says `what` it was to be."""
    from bus.errors import InvalidPayload
    from bus.registry import read_json

    try:
        return read_json(text, what)
    except InvalidPayload as error:
        raise typer.BadParameter(str(error)) from None


PART = "Four digits or more of one end will do, also as lists shorten it (…a04afa)."

"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else.")]

PART = "Four digits or more of one end will do, also as lists shorten it (…a04afa)."

"""SQL in named blocks: `-- name: some_query` starts one in a file of storage/sql/."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def _blocks() -> dict[str, str]:
    blocks: dict[str, str] = {}
    for file in sorted(files("storage").joinpath("sql").iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".sql"):
            continue
        parts = _NAME.split(file.read_text(encoding="utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in blocks:
                raise ValueError(f"the query {name} stands twice in storage/sql/")
            blocks[name] = text.strip().rstrip(";")
    return blocks


def query(name: str) -> str:
    """The text of a named query."""
    return _blocks()[name]


def query_names() -> tuple[str, ...]:
    return tuple(_blocks())

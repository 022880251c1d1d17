"""Each line of the file is a note; a first line `refuse` makes the clerk fail, `wait` keep it waiting."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from callboard.cli.feeding import Publisher
from desk.agents import Note


async def feed(path: str, publish: Publisher, task_id: str) -> dict[str, Any]:
    lines = (await asyncio.to_thread(Path(path).read_text, "utf-8")).splitlines()
    if lines[:1] == ["refuse"]:
        return {"refuse": True}
    if lines[:1] == ["wait"]:
        return {"lines": 1}
    for number, line in enumerate(lines, 1):
        await publish("note", Note(task=task_id, number=number, text=line), key=f"{task_id}/{number}")
    return {"lines": len(lines) - lines.count("poison")}

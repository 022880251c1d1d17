"""The upstream of `callboard bench gateway` answers, and ends with whoever has started it."""

from __future__ import annotations

from callboard.bench.overhead import ask_all, played_upstream
from callboard.bench.own_gateway import client_at


async def test_it_answers_and_ends() -> None:
    async with played_upstream() as port, client_at(f"http://127.0.0.1:{port}/v1", "none") as client:
        assert len((await ask_all(client, 20, 4)).times_s) == 20

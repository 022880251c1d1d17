"""What `callboard bench gateway` counts, with the upstream that it asks; the gateway itself takes Ray."""

from __future__ import annotations

import httpx2
import pytest

from bus.errors import ServiceUnavailable
from callboard.bench.overhead import Pass, ask_all, run
from callboard.bench.own_gateway import client_at


def answering(*answers: httpx2.Response) -> httpx2.AsyncClient:
    given = list(answers)

    def answer(request: httpx2.Request) -> httpx2.Response:
        return given.pop(0) if len(given) > 1 else given[0]

    return httpx2.AsyncClient(base_url="http://g/v1", transport=httpx2.MockTransport(answer))


async def test_each_request_is_timed_once_by_so_many_clients() -> None:
    async with answering(httpx2.Response(200, json={"said": "Hello"})) as client:
        found = await ask_all(client, 50, 4)
    assert len(found.times_s) == 50


@pytest.mark.parametrize("wrong", [httpx2.Response(429, text="no"), httpx2.Response(200, text="{}")])
async def test_what_is_no_answer_does_not_count(wrong: httpx2.Response) -> None:
    async with answering(httpx2.Response(200, json={"said": "Hello"}), wrong) as client:
        with pytest.raises(ServiceUnavailable, match=f"The answer is {wrong.status_code}"):
            await ask_all(client, 5, 1)


def test_what_is_added_is_the_difference() -> None:
    direct, through = (Pass(seconds=2, times_s=[ms / 1000] * 10) for ms in (2, 5))
    found = run(8, direct, through)
    assert (found.direct_p50_ms, found.gateway_p99_ms, found.added_p50_ms) == (2, 5, 3)
    assert (found.concurrency, found.gateway_per_s) == (8, 5)


def test_a_client_has_the_key() -> None:
    assert client_at("http://h/v1", "k").headers["authorization"] == "Bearer k"

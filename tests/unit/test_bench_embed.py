"""What `callboard bench embed` counts; the gateway is played."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx2
import pytest

from bus.errors import ServiceUnavailable, SettingsError
from callboard.bench import embed, generate
from callboard.bench.embed import Load, Measured, ask, over_http, report
from callboard.bench.texts import made_up, read_texts


def played(
    asked: list[list[str]], *, at_once: list[int], status: int = 200, missing: int = 0
) -> httpx2.AsyncClient:
    under_way = 0

    async def answer(request: httpx2.Request) -> httpx2.Response:
        nonlocal under_way
        texts = json.loads(request.content)["input"]
        asked.append(texts)
        under_way += 1
        at_once.append(under_way)
        await asyncio.sleep(0)
        under_way -= 1
        if status != 200:
            return httpx2.Response(status, json={"error": {"message": "It is too much."}})
        data = [{"embedding": ""} for _ in texts[missing:]]
        tokens = sum(len(text.split()) for text in texts)
        return httpx2.Response(200, json={"data": data, "usage": {"total_tokens": tokens}})

    return httpx2.AsyncClient(base_url="http://gateway/v1", transport=httpx2.MockTransport(answer))


async def test_each_text_is_asked_for_once_by_so_many_clients() -> None:
    asked: list[list[str]] = []
    at_once: list[int] = []
    texts = [f"text {number}" for number in range(50)]
    async with played(asked, at_once=at_once) as client:
        found = await over_http(client, texts, 3, 4)
    assert sorted(text for some in asked for text in some) == sorted(texts)
    assert {len(some) for some in asked} == {3, 2}
    assert (found.tokens, len(found.times_s), max(at_once)) == (100, 17, 4)


async def test_what_is_not_all_of_it_does_not_count() -> None:
    async with played([], at_once=[], status=429) as client:
        with pytest.raises(ServiceUnavailable, match="It is too much"):
            await ask(client, ["a"])
    async with played([], at_once=[], missing=1) as client:
        with pytest.raises(ServiceUnavailable, match="1 vectors came for 2 texts"):
            await ask(client, ["a", "b"])


def test_the_ratio_is_to_the_bare_loop() -> None:
    load = Load(texts=["a"] * 40, model="m", device="cpu")
    passes = {8: Measured(seconds=2.0, tokens=400, times_s=[0.1] * 39 + [0.5])}
    found = report(load, 1.0, 0.2, passes, 512)
    assert (found.bare_texts_per_s, found.floor_texts_per_s, found.mean_tokens) == (40.0, 200.0, 10.0)
    [run] = found.runs
    assert (run.concurrency, run.texts_per_s, run.tokens_per_s) == (8, 20.0, 200.0)
    assert (run.ratio, run.of_floor, run.p50_ms) == (0.5, 0.1, 100.0)
    assert 100 < run.p99_ms <= 500


def test_made_up_texts_are_of_mixed_lengths_and_the_same_each_time() -> None:
    texts = made_up(300)
    assert texts == made_up(300)
    assert len(set(texts)) == 300
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) < 10
    assert max(lengths) > 150


def test_texts_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "text": "one"}\n{"text": "two"}\n{"text": " "}\n')
    assert read_texts(tmp_path) == ["one", "two"]
    lines = tmp_path / "lines.txt"
    lines.write_text("one\n\ntwo\none\n")
    assert read_texts(lines) == ["one", "two"]
    lines.write_text("")
    with pytest.raises(SettingsError, match="holds no text"):
        read_texts(lines)
    (tmp_path / "corpus.jsonl").write_text('{"title": "one"}')
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(SettingsError, match="cannot be read as texts"):
            read_texts(path)


@pytest.mark.parametrize("bench", [embed, generate])
async def test_without_a_gpu_it_says_so_before_anything_is_started(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = ModuleType("torch")
    torch.cuda = SimpleNamespace(is_available=lambda: False)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    load = bench.Load(device="cuda", **({"texts": ["a"], "model": "m"} if bench is embed else {}))
    said: list[str] = []
    with pytest.raises(ServiceUnavailable, match="torch finds no GPU on this machine"):
        await bench.measure(load, said.append)
    assert said == []
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ServiceUnavailable, match=r"pip install 'callboard\[models\]'"):
        await bench.measure(load, said.append)

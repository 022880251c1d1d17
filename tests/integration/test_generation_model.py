"""Transformers' continuous batching on a CPU, with a tiny model that is made for it. Importing torch takes seconds, once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from callboard.bench import made_up_model
from serve.gateway.errors import ApiError
from serve.generation.engine_protocol import Engine
from serve.generation.generator import Generated, GenerateRequest
from serve.generation.service import GenerationService
from serve.local.settings import GenerationSpec

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_model.make(tmp_path_factory.mktemp("models") / "chatter")


def loading(folder: Path, spec: GenerationSpec, made: list[Any]) -> Any:
    def load() -> Engine:
        from serve.generation.engine import TransformersEngine

        made.append(TransformersEngine(str(folder), spec, "cpu"))
        return made[0]  # type: ignore[no-any-return]

    return load


@pytest.fixture(scope="module")
async def made(folder: Path) -> AsyncIterator[tuple[GenerationService, list[Any]]]:
    engines: list[Any] = []
    spec = GenerationSpec(cache_tokens=2048, threads=1)
    service = GenerationService("chatter", spec, loading(folder, spec, engines))
    yield service, engines
    await service.close()
    assert not any(thread.name.startswith("Thread") for thread in threading.enumerate())  # the engine's


@pytest.fixture
def service(made: tuple[GenerationService, list[Any]]) -> GenerationService:
    return made[0]


def asking(text: str = "Hello", **more: Any) -> GenerateRequest:
    given: dict[str, Any] = {"temperature": 0.0, "max_tokens": 12, **more}
    return GenerateRequest(messages=({"role": "user", "content": text},), **given)


async def all_of(service: GenerationService, request: GenerateRequest) -> list[Generated]:
    return [piece async for piece in service.generate(request)]


async def whole(service: GenerationService, request: GenerateRequest) -> tuple[str, Generated]:
    pieces = await all_of(service, request)
    return "".join(piece.text for piece in pieces), pieces[-1]


async def test_together_they_say_what_generate_says_one_by_one(
    service: GenerationService, folder: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = ["Hello", "Why?", "a longer question, of several words", "ü", "Hello again", "x" * 60]
    found = await asyncio.gather(*(whole(service, asking(text)) for text in texts))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for text, (said, last) in zip(texts, found, strict=True):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        with torch.inference_mode():
            tokens = model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
        assert said == tokenizer.decode(tokens, skip_special_tokens=True)
        assert (last.prompt_tokens, last.tokens) == (prompt.shape[1], len(tokens))
        assert last.finish == ("stop" if tokens[-1] == tokenizer.eos_token_id else "length")


async def test_a_stream_is_the_whole_in_pieces(service: GenerationService) -> None:
    said, last = await whole(service, asking(max_tokens=40))
    pieces = await all_of(service, asking(max_tokens=40, piecemeal=True))
    assert len(pieces) > 5
    assert "".join(piece.text for piece in pieces) == said
    assert (pieces[-1].finish, pieces[-1].tokens) == (last.finish, last.tokens)


async def test_a_seed_gives_the_same_again_in_any_company(service: GenerationService) -> None:
    def drawn(seed: int | None, text: str = "Hello") -> GenerateRequest:
        return asking(text, seed=seed, temperature=1.3, max_tokens=24)

    alone = (await whole(service, drawn(7)))[0]
    together = await asyncio.gather(
        *(whole(service, one) for one in (drawn(7), drawn(8), drawn(None), drawn(7, "Other"), drawn(-7)))
    )
    others = [said for said, _ in together[1:]]
    assert together[0][0] == alone
    assert alone not in others
    assert len(set(others)) == 4


async def test_a_cold_temperature_draws_the_likeliest_and_a_narrow_top_p_too(
    service: GenerationService,
) -> None:
    likeliest = (await whole(service, asking()))[0]
    assert (await whole(service, asking(temperature=1e-4, seed=1)))[0] == likeliest
    assert (await whole(service, asking(temperature=2.0, top_p=0.0, seed=1)))[0] == likeliest
    assert (await whole(service, asking(temperature=2.0, seed=1)))[0] != likeliest


@pytest.mark.parametrize("temperature", [1e-37, 1e-40, 1e-300])
async def test_no_temperature_is_too_cold_for_the_engine(
    service: GenerationService, temperature: float
) -> None:
    likeliest = (await whole(service, asking()))[0]
    assert (await whole(service, asking(temperature=temperature)))[0] == likeliest
    assert (await whole(service, asking(temperature=temperature, top_p=0.5)))[0] == likeliest


async def test_it_ends_before_a_stop(
    service: GenerationService, made: tuple[GenerationService, list[Any]]
) -> None:
    said, _ = await whole(service, asking(max_tokens=40))
    stop = said[10:13]
    found, last = await whole(service, asking(max_tokens=40, stop=(stop, "never there")))
    assert found == said[: said.index(stop)]
    assert (last.finish, last.tokens < 40) == ("stop", True)
    await idle(made[1][0])


async def test_who_goes_away_ends_the_engines_work(
    service: GenerationService, made: tuple[GenerationService, list[Any]]
) -> None:
    endless = service.generate(asking(max_tokens=400, piecemeal=True))
    await anext(endless)
    assert (made[1][0].running, made[1][0].steps > 0) == (1, True)
    await endless.aclose()
    await idle(made[1][0])
    assert (await whole(service, asking()))[1].tokens > 0


async def test_a_step_that_is_read_after_its_sequence_was_cancelled_is_left_out(
    service: GenerationService, made: tuple[GenerationService, list[Any]]
) -> None:
    """Steps are asynchronous on GPUs only, so the reading is called by hand."""
    from transformers.generation.continuous_batching.requests import RequestState

    await whole(service, asking())
    processor = made[1][0]._manager.batch_processor
    gone = RequestState(request_id="gone", initial_tokens=[1] * 64)
    processor.cache.mark_complete_blocks(gone, dict.fromkeys(processor.cache.cache_allocators, 1))
    assert all("gone" not in one.block_table for one in processor.cache.cache_allocators.values())
    assert (await whole(service, asking()))[1].tokens > 0


async def test_what_does_not_fit_is_refused_and_the_next_one_is_answered(
    service: GenerationService,
) -> None:
    for request, param in (
        (asking("x" * 600), "messages"),
        (asking(max_tokens=511), "max_tokens"),
    ):
        with pytest.raises(ApiError, match="chatter holds 512 tokens together") as caught:
            await all_of(service, request)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)
    assert (await whole(service, asking()))[1].tokens > 0


async def test_more_than_the_cache_holds_at_once_wait_and_are_all_answered(folder: Path) -> None:
    spec = GenerationSpec(cache_tokens=256, sequences=8, threads=1)
    service = GenerationService("chatter", spec, loading(folder, spec, []))
    found = await asyncio.gather(*(whole(service, asking(f"{at:3}", max_tokens=90)) for at in range(12)))
    assert all(said for said, _ in found)
    assert found[3] == await whole(service, asking("  3", max_tokens=90))
    await service.close()


async def test_an_engine_that_has_died_is_said_and_noticed(folder: Path) -> None:
    engines: list[Any] = []
    spec = GenerationSpec(cache_tokens=256, threads=1)
    service = GenerationService("chatter", spec, loading(folder, spec, engines))
    await whole(service, asking())
    service.check()

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of everything\nat 0x7f")

    engines[0]._model.forward = broken
    for _ in range(2):  # the one that it dies of, and one that comes later
        with pytest.raises(ApiError) as caught:
            await whole(service, asking())
        assert (caught.value.status, caught.value.message.count("\n")) == (500, 0)
    async with asyncio.timeout(20):
        while engines[0].alive:  # noqa: ASYNC110  # its requests hear of it before its thread has ended
            await asyncio.sleep(0.01)
    with pytest.raises(RuntimeError, match="The engine of chatter has died"):
        service.check()
    await service.close()


@pytest.mark.parametrize("harm", ["no template", "no weights", "nonsense"])
async def test_a_broken_folder_is_said_in_a_line(harm: str, tmp_path: Path) -> None:
    folder = made_up_model.make(tmp_path / "model")
    if harm == "no template":
        (folder / "chat_template.jinja").unlink()
    elif harm == "no weights":
        (folder / "model.safetensors").unlink()
    else:
        (folder / "config.json").write_text("{")
    spec = GenerationSpec(cache_tokens=256)
    service = GenerationService("chatter", spec, loading(folder, spec, []))
    with pytest.raises(ApiError) as caught:
        await whole(service, asking())
    assert (caught.value.status, caught.value.code) == (503, "model_not_loaded")
    assert "\n" not in caught.value.message
    await service.close()


async def idle(engine: Any) -> None:
    """Within the time that a test has."""
    while engine.running:
        await asyncio.to_thread(lambda: None)

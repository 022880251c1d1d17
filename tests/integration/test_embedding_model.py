"""Models as sentence-transformers has them, in this process. Its import takes seconds: the acceptance test of the gateway
asks one that runs in Ray, in every run."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from callboard.bench.bare_encode import flop
from serve.embedding.embedder import Embedded, EmbedRequest
from serve.embedding.encoder_protocol import Encoder
from serve.embedding.service import EmbeddingService
from serve.gateway.errors import ApiError
from serve.local.model_folder import model_folder
from serve.local.settings import DEFAULT_MODEL, BatchedSpec

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]
README = (Path(__file__).parents[2] / "README.md").read_text()
# Of one word to more than the model reads.
TEXTS = tuple(README[at : at + 1 + at % 1900] for at in range(0, 12_000, 311))


def service_of(model: str, **spec: Any) -> EmbeddingService:
    def load() -> Encoder:
        from serve.embedding.encoder import SentenceEncoder

        return SentenceEncoder(model, BatchedSpec(**spec), "cpu")

    return EmbeddingService(model, BatchedSpec(**spec), load)


def table(found: Embedded) -> Any:
    return np.frombuffer(found.vectors, "<f4").reshape(-1, found.dimensions)


@pytest.fixture(scope="module")
async def minilm() -> AsyncIterator[EmbeddingService]:
    service = service_of(DEFAULT_MODEL, batch_tokens=1000, truncate=True, dtype="float32")
    yield service
    await service.close()


@pytest.fixture(scope="module")
def bare() -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(model_folder(DEFAULT_MODEL)), device="cpu")


@pytest.fixture
def prompted(bare: Any, tmp_path: Path) -> Path:
    """The same model, with prompts that it leaves out of the mean."""
    folder = tmp_path / "prompted"
    bare.save(str(folder))
    said = folder / "config_sentence_transformers.json"
    config = json.loads(said.read_text())
    config["prompts"] = {"query": "search for this: ", "passage": "text: "}
    said.write_text(json.dumps(config))
    [pooling] = folder.glob("*Pooling/config.json")
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"include_prompt": False}))
    return folder


async def test_the_numbers_are_those_of_encode(minilm: EmbeddingService, bare: Any) -> None:
    found = await minilm.embed(EmbedRequest(texts=TEXTS))
    np.testing.assert_allclose(table(found), bare.encode(list(TEXTS)), atol=1e-5)
    assert found.tokens == sum(len(ids) for ids in bare.tokenizer(list(TEXTS), truncation=True)["input_ids"])
    cut = await minilm.embed(EmbedRequest(texts=TEXTS, dimensions=100))
    wanted = bare.encode(list(TEXTS), truncate_dim=100, normalize_embeddings=True)
    np.testing.assert_allclose(table(cut), wanted, atol=1e-5)


async def test_what_stands_behind_a_word_without_end_is_not_left_out_unsaid(minilm: EmbeddingService) -> None:
    """To the model such a word is one token, and so are any number of blanks none."""
    texts = tuple(f"logs {filling * 20_000} of a database" for filling in ("x", " "))
    for place in range(2):
        with pytest.raises(ApiError, match=r"input\[0\] has more than 16,384 characters"):
            await minilm.embed(EmbedRequest(texts=texts[place:], truncate=False))
    cut = await minilm.embed(EmbedRequest(texts=texts))
    assert cut.tokens == (3 + 1) + 3  # the blanks are no token, the word is one


async def test_half_as_many_bits_change_little_and_lengths_stay_one(bare: Any) -> None:
    service = service_of(DEFAULT_MODEL, truncate=True, dtype="bfloat16")
    found = table(await service.embed(EmbedRequest(texts=TEXTS)))
    wanted = bare.encode(list(TEXTS))
    assert (found * wanted).sum(axis=1).min() > 0.999
    assert np.abs(found - wanted).max() > 1e-5  # it did compute in them
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    await service.close()


@pytest.mark.parametrize(("has_unit", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_processor_computes_in_bfloat16_where_it_has_a_unit_for_that(
    has_unit: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from serve.local.torch_settings import lower

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_unit})
    layer = torch.nn.Linear(1, 1)
    lower(layer, BatchedSpec(), "cpu")
    assert layer.weight.dtype == getattr(torch, dtype)


async def test_queries_and_documents_are_encoded_as_the_library_does(prompted: Path) -> None:
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(prompted), device="cpu")
    service = service_of(str(prompted), dtype="float32")
    texts = ("short", "a longer one, with more words in it")
    ways: Any = {None: library.encode, "query": library.encode_query, "document": library.encode_document}
    seen = []
    for kind, encode in ways.items():
        found = table(await service.embed(EmbedRequest(texts=texts, input_type=kind)))
        np.testing.assert_allclose(found, encode(list(texts)), atol=1e-5)
        seen.append(found)
    assert np.abs(seen[0] - seen[1]).max() > 0.01
    assert np.abs(seen[1] - seen[2]).max() > 0.01
    await service.close()


@pytest.mark.parametrize("harm", ["cut weights", "no weights", "no tokenizer", "nonsense"])
async def test_a_broken_folder_is_said_in_a_line(harm: str, tmp_path: Path) -> None:
    whole = model_folder(DEFAULT_MODEL)
    assert whole is not None
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    weights = folder / "model.safetensors"
    if harm == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif harm == "no weights":
        weights.unlink()
    elif harm == "no tokenizer":
        for name in ("tokenizer.json", "vocab.txt"):
            (folder / name).unlink()
    else:
        (folder / "config.json").write_text("{")
    service = service_of(str(folder))
    with pytest.raises(ApiError) as caught:
        await service.embed(EmbedRequest(texts=("a",)))
    assert (caught.value.status, caught.value.code) == (503, "model_not_loaded")
    assert caught.value.message.startswith(f"{folder} cannot be loaded: ")
    assert "\n" not in str(caught.value)
    await service.close()


def test_the_floor_counts_the_operations_that_torch_counts() -> None:
    from sentence_transformers import SentenceTransformer
    from torch.utils.flop_counter import FlopCounterMode

    # Eager: torch does not count those of its own attention on a CPU.
    eager = {"attn_implementation": "eager"}
    model = SentenceTransformer(str(model_folder(DEFAULT_MODEL)), device="cpu", model_kwargs=eager)
    for words in (1, 50, 400):
        text = "word " * words
        with FlopCounterMode(display=False) as counted:
            model.encode([text])
        assert flop(model, [text, text]) == pytest.approx(2 * counted.get_total_flops(), rel=0.02)
    assert flop(model, [text]) == pytest.approx(6.0e9, rel=0.01)  # 256 tokens, as many as it reads

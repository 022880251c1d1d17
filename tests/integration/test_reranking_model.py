"""A cross-encoder as sentence-transformers has it, in this process. Its import takes seconds: test_gateway_rerank.py has the
same endpoint with a played one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve.gateway.errors import ApiError
from serve.local.settings import BatchedSpec
from serve.reranking.reranker import ScoreRequest
from serve.reranking.scorer_protocol import Scorer
from serve.reranking.service import RerankingService
from tests import tiny_models

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
QUERY = "why is the database dead"
DOCUMENTS = tuple(" ".join(tiny_models.WORDS[at:] * (1 + at % 3)) for at in range(len(tiny_models.WORDS)))


def service_of(folder: Path, **spec: Any) -> RerankingService:
    def load() -> Scorer:
        from serve.reranking.scorer import CrossEncoderScorer

        return CrossEncoderScorer(str(folder), BatchedSpec(**spec), "cpu")

    return RerankingService(str(folder), BatchedSpec(**spec), load)


async def test_the_scores_are_those_of_predict_in_whatever_batches(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    folder = tiny_models.cross_encoder(tmp_path / "model")
    service = service_of(folder, batch_tokens=150, truncate=True, dtype="float32")
    found = await service.rerank(ScoreRequest(query=QUERY, documents=DOCUMENTS))
    wanted = CrossEncoder(str(folder), device="cpu").predict([(QUERY, one) for one in DOCUMENTS])
    assert found.scores == pytest.approx([float(one) for one in wanted], abs=1e-5)
    assert len({round(score, 3) for score in found.scores}) > 10  # it does tell them apart
    with pytest.raises(ApiError, match=r"documents\[1\] with the query has more than 64 tokens"):
        await service.rerank(ScoreRequest(query=QUERY, documents=("a", "dogs " * 80), truncate=False))
    await service.close()


async def test_half_as_many_bits_change_the_scores_little(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    folder = tiny_models.cross_encoder(tmp_path / "model")
    service = service_of(folder, dtype="bfloat16")
    found = await service.rerank(ScoreRequest(query=QUERY, documents=DOCUMENTS, truncate=True))
    wanted = CrossEncoder(str(folder), device="cpu").predict([(QUERY, one) for one in DOCUMENTS])
    assert found.scores == pytest.approx([float(one) for one in wanted], abs=0.01)
    assert len(set(found.scores)) == len(
        set(DOCUMENTS)
    )  # the head computes in float32: none is as good as another
    await service.close()


@pytest.mark.parametrize(
    ("labels", "harm", "words"),
    [(3, None, "it gives 3 numbers for a pair"), (1, "model.safetensors", "cannot be loaded")],
)
async def test_what_is_no_reranker_is_said_in_a_line(
    labels: int, harm: str | None, words: str, tmp_path: Path
) -> None:
    folder = tiny_models.cross_encoder(tmp_path / "model", labels=labels)
    if harm is not None:
        (folder / harm).unlink()
    service = service_of(folder)
    with pytest.raises(ApiError) as caught:
        await service.rerank(ScoreRequest(query="a", documents=("b",)))
    assert (caught.value.status, caught.value.code) == (503, "model_not_loaded")
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    await service.close()

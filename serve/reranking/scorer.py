"""A cross-encoder of sentence-transformers: pairs to tokens, and batches of tokens to scores. Both block; call them from
threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import sentence_transformers
import torch

from serve.local.model_folder import BrokenModel, model_folder
from serve.local.settings import BatchedSpec
from serve.local.torch_settings import LONGEST_TOKEN, MAX_TOKENS, WORDS, knows_no_words, lower
from serve.reranking.scorer_protocol import Pair


class CrossEncoderScorer:
    """Implements Scorer. Raises BrokenModel, and what the libraries raise for files that are none."""

    def __init__(self, model: str, spec: BatchedSpec, device: str) -> None:
        folder = model_folder(model)
        self.device = device
        if device == "cpu":
            # Ray would have it one, for an actor that reserves no CPU.
            torch.set_num_threads(spec.threads or len(os.sched_getaffinity(0)))
        self._model = sentence_transformers.CrossEncoder(
            str(folder or model), device=device, local_files_only=folder is not None
        )
        if self._model.num_labels != 1:
            raise BrokenModel(f"it gives {self._model.num_labels} numbers for a pair; a reranker gives one.")
        self._tokenizer = self._plain_tokenizer(model)
        self._model.eval()
        self._model.float()
        lower(self._model[0].model.base_model, spec, device)
        self.longest = min(self._model.max_seq_length or MAX_TOKENS, 1_000_000)
        self.characters = self.longest * LONGEST_TOKEN
        [pair] = self.tokens([WORDS], WORDS, most=self.longest)
        if knows_no_words(self._tokenizer, pair.ids):
            raise BrokenModel("its tokenizer knows no words; a file of it is missing.")
        self.scores([pair])  # warms it up

    def tokens(self, documents: Sequence[str], query: str, *, most: int) -> list[Pair]:
        found = self._tokenizer(
            [query[: self.characters]] * len(documents),
            [text[: self.characters] for text in documents],
            truncation="longest_first",  # as the library does
            max_length=most,
            return_attention_mask=False,
        )
        types = found.get("token_type_ids") or [None] * len(documents)
        return [Pair(ids, of) for ids, of in zip(found["input_ids"], types, strict=True)]

    def scores(self, batch: Sequence[Pair]) -> list[float]:
        rows: list[dict[str, Any]] = [
            {"input_ids": pair.ids} | ({} if pair.types is None else {"token_type_ids": pair.types})
            for pair in batch
        ]
        with torch.inference_mode():
            features: dict[str, Any] = {
                name: value.to(self.device, non_blocking=True)
                for name, value in self._tokenizer.pad(rows, return_tensors="pt").items()
            }
            features["modality"] = "text"
            try:
                logits = self._model(features)["scores"].float()
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()  # what is tried next is half of it
                raise
            scores: list[float] = self._model.activation_fn(logits).reshape(len(batch)).tolist()
            return scores

    def _plain_tokenizer(self, model: str) -> Any:
        first = self._model[0]
        kinds = getattr(first, "modality_config", {})
        tokenizer = getattr(self._model, "tokenizer", None)
        if (
            "text" not in kinds
            or "message" in kinds
            or len(self._model) != 1
            or not getattr(tokenizer, "is_fast", False)
        ):
            raise BrokenModel(f"{model} is no cross-encoder of plain texts, which is what can be served.")
        return tokenizer

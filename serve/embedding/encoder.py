"""A sentence-transformers model: texts to tokens, and batches of tokens to vectors. Both block; call them from threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sentence_transformers
import torch

from serve.embedding.embedder import InputType
from serve.embedding.encoder_protocol import Vector
from serve.local.model_folder import BrokenModel, model_folder
from serve.local.settings import BatchedSpec
from serve.local.torch_settings import LONGEST_TOKEN, MAX_TOKENS, WORDS, knows_no_words, lower


@dataclass(frozen=True)
class _Prompt:
    text: str
    tokens: int | None  # that pooling leaves out; None where it leaves out none


class SentenceEncoder:
    """Implements Encoder. Raises BrokenModel, and what the libraries raise for files that are none."""

    def __init__(self, model: str, spec: BatchedSpec, device: str) -> None:
        folder = model_folder(model)
        self.device = device
        if device == "cpu":
            # Ray would have it one, for an actor that reserves no CPU.
            torch.set_num_threads(spec.threads or len(os.sched_getaffinity(0)))
        self._model = sentence_transformers.SentenceTransformer(
            str(folder or model),
            device=device,
            model_kwargs=_model_kwargs(device),
            local_files_only=folder is not None,
        )
        self._model.eval()
        self._transformer, *rest = self._model
        lower(self._transformer, spec, device)
        for module in rest:
            module.float()
        self._tokenizer = self._plain_tokenizer(model)
        self.longest = min(self._model.max_seq_length or MAX_TOKENS, 1_000_000)
        self.characters = self.longest * LONGEST_TOKEN
        [ids] = self._tokens([WORDS], "", self.longest)
        if knows_no_words(self._tokenizer, ids):
            raise BrokenModel("its tokenizer knows no words; a file of it is missing.")
        self.dimensions = len(self.encode([ids], None)[0])  # also warms it up

    def tokens(self, texts: Sequence[str], input_type: InputType | None, *, most: int) -> list[list[int]]:
        return self._tokens(texts, self._prompt(input_type).text, most)

    def encode(self, batch: Sequence[list[int]], input_type: InputType | None) -> list[Vector]:
        with torch.inference_mode():
            features = self._features(batch, input_type)
            task = {} if input_type is None else {"task": input_type}
            try:
                found = self._model(features, **task)["sentence_embedding"]
                return list(found.to(device="cpu", dtype=torch.float32).numpy())
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()  # what is tried next is half of it
                raise

    def _tokens(self, texts: Sequence[str], prompt: str, most: int) -> list[list[int]]:
        found: list[list[int]] = self._tokenizer(
            [prompt + text[: self.characters] for text in texts],
            truncation=True,
            max_length=most,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return found

    def _features(self, batch: Sequence[list[int]], input_type: InputType | None) -> dict[str, Any]:
        if self._transformer.can_flatten_inputs:  # one row without padding, for flash attention
            features = self._transformer.data_collator([{"input_ids": ids} for ids in batch])
            features.pop("labels", None)
            features["position_ids"] = features["position_ids"] + self._transformer._flatten_position_offset
        else:
            features = self._padded(batch)
        features = {
            name: value.to(self.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        features["modality"] = "text"
        if (left_out := self._prompt(input_type).tokens) is not None:
            features["prompt_length"] = left_out
        return features

    def _padded(self, batch: Sequence[list[int]]) -> dict[str, Any]:
        longest = max(len(ids) for ids in batch)
        tokens: Any = np.full((len(batch), longest), self._tokenizer.pad_token_id or 0, dtype=np.int64)
        mask: Any = np.zeros((len(batch), longest), dtype=np.int64)
        for row, ids in enumerate(batch):
            at = (
                slice(0, len(ids))
                if self._tokenizer.padding_side == "right"
                else slice(longest - len(ids), None)
            )
            tokens[row, at] = ids
            mask[row, at] = 1
        return {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask)}

    def _prompt(self, input_type: InputType | None) -> _Prompt:
        """As `encode`, `encode_query` and `encode_document` of sentence-transformers choose it."""
        names = {"query": ("query",), "document": ("document", "passage", "corpus"), None: ()}[input_type]
        name = next((name for name in names if name in self._model.prompts), self._model.default_prompt_name)
        text = self._model.prompts.get(name) or "" if name is not None else ""
        if not text or all(getattr(module, "include_prompt", True) for module in self._model):
            return _Prompt(text, None)
        ids = self._tokens([text], "", self.longest)[0]
        return _Prompt(text, len(ids) - (ids[-1] in self._tokenizer.all_special_ids))

    def _plain_tokenizer(self, model: str) -> Any:
        kinds = getattr(self._transformer, "modality_config", {})
        tokenizer = getattr(self._model, "tokenizer", None)
        if "text" not in kinds or "message" in kinds or not getattr(tokenizer, "is_fast", False):
            raise BrokenModel(f"{model} is no transformer of plain texts, which is what can be served.")
        return tokenizer


def _model_kwargs(device: str) -> dict[str, Any]:
    """Flash attention needs no padding; its package is not part of the extra."""
    if device == "cuda":
        from importlib.util import find_spec

        if find_spec("flash_attn") is not None:
            return {"attn_implementation": "flash_attention_2", "dtype": torch.float16}
    return {}

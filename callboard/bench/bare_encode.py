"""The loop that embedding is measured beside, in a process of its own: sentence-transformers' `encode`, all texts at once.

Each line that comes in holds texts as JSON; each that goes out the seconds they took.
"""

from __future__ import annotations

import os
import sys
import time

import msgspec

BATCH = 32  # the library's own default


def main(model: str, device: str) -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    from serve.local.model_folder import model_folder

    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    loaded = SentenceTransformer(str(model_folder(model) or model), device=device)
    if device == "cuda":
        loaded.half()  # as the gateway's does
    for line in sys.stdin.buffer:
        texts = msgspec.json.decode(line, type=list[str])
        began = time.perf_counter()
        loaded.encode(texts, batch_size=BATCH, show_progress_bar=False)
        sys.stdout.write(f"{time.perf_counter() - began}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

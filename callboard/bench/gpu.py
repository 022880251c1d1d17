"""Whether there is what `--device cuda` measures."""

from __future__ import annotations

from bus.errors import ServiceUnavailable


def require_gpu(device: str) -> None:
    """For `cuda`, before anything is started. Blocks: it imports torch. Raises ServiceUnavailable."""
    if device != "cuda":
        return
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ServiceUnavailable(
            f"There is nothing to measure: {error}.",
            fix="Install its packages with `pip install 'callboard[models]'` (`make models`).",
        ) from None
    if not torch.cuda.is_available():
        raise ServiceUnavailable(
            "torch finds no GPU on this machine.",
            fix="See what `nvidia-smi` says; `--device cpu` measures without one.",
        )

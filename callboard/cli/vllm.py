"""`callboard vllm`: chat models on this machine's GPUs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from callboard.cli.running import asynchronous
from callboard.cli.terminal import console, note, plain


@asynchronous
async def vllm(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="Which models, and how; vllm.yaml in the data folder if omitted."
        ),
    ] = None,
) -> None:
    """Serve chat models with vLLM on this machine's GPUs, in a Ray of their own, until Ctrl-C. Needs `make vllm`."""
    from callboard.settings import load_settings
    from callboard.vllm import require_vllm, running_vllm
    from serve.vllm.settings import parse_vllm, read_vllm

    settings = load_settings()
    path = file or settings.home / "vllm.yaml"
    text = read_vllm(path)
    spec = parse_vllm(text, str(path))
    require_vllm()
    note("Ray starts, then the models load: that may take minutes.")
    async with running_vllm(settings, spec, text, path) as head:
        names = ", ".join(spec.models)
        console().print(
            plain(
                f"vLLM serves {names} at http://127.0.0.1:{spec.port}/v1, with the key in "
                f"{settings.secrets_folder / spec.api_key}; dashboard at {head.dashboard()}."
            )
        )
        note("Ctrl-C stops it.")
        try:
            await head.while_running(_for_ever())
        except asyncio.CancelledError:  # Ctrl-C and SIGTERM are the ways to end this command
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()


async def _for_ever() -> None:
    await asyncio.Event().wait()

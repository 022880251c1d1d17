"""Which models lack a key, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.secret import GivenSecrets, SecretFolder
from serve.gateway.models_file import parse_models
from serve.gateway.secret import MissingKey, missing_keys

FILE = parse_models(
    """
upstreams:
  openai: {type: openai, api_key: OPENAI_API_KEY}
  claude: {type: anthropic, api_key: ANTHROPIC_API_KEY}
  house: {type: openai_compatible, base_url: "http://10.0.0.7/v1"}
  unused: {type: openai, api_key: NOBODY_NEEDS_IT}
models:
  small: {targets: [{upstream: openai, model: a}, {upstream: openai, model: b}]}
  either: {targets: [{upstream: claude, model: c}, {upstream: openai, model: a}]}
  own: {targets: [{upstream: house, model: d}]}
"""
)


def test_a_key_that_is_not_there_is_missing_to_each_model_that_asks_its_upstream(tmp_path: Path) -> None:
    (tmp_path / "ANTHROPIC_API_KEY").write_text("sk-it-is-there\n")
    path = tmp_path / "OPENAI_API_KEY"
    assert missing_keys(FILE, SecretFolder(tmp_path)) == [
        MissingKey(
            upstream="openai",
            secret="OPENAI_API_KEY",
            models=("small", "either"),
            why="The upstream openai has no key: The secret OPENAI_API_KEY cannot be read: No such file or directory.",
            fix=f"Write it to {path}, with mode 600.",
        )
    ]
    path.write_text("sk-now-it-is\n")
    assert missing_keys(FILE, SecretFolder(tmp_path)) == []


@pytest.mark.parametrize("written", ["", "\n", "sk-of two\nlines", "sk-\u00e4"])
def test_what_cannot_be_a_key_is_missing_and_is_not_said(written: str) -> None:
    given = {"OPENAI_API_KEY": written.rstrip("\n"), "ANTHROPIC_API_KEY": "sk-good"}
    [found] = missing_keys(FILE, GivenSecrets(given))
    assert found.why == "The upstream openai has no key: The secret OPENAI_API_KEY holds no key."
    assert found.fix
    assert "sk-" not in repr(found)

"""`callboard gateway`, of a gateway that is played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import callboard.cli.gateway
from actors.model_gateway import GatewayAddress
from callboard.cli.main import invoke
from callboard.gateway import LocalGateway

STATE: dict[str, Any] = {
    "models": [
        {
            "model": "small",
            "serves": "chat",
            "level": "none",
            "targets": ["openai: gpt-5-mini"],
            "similar": None,
        }
    ],
    "running": 0,
    "upstreams": {"openai": "closed"},
    "errors": [
        {
            "upstream": "openai",
            "model": "gpt-5-mini",
            "code": "upstream_failed",
            "error": "It \x1b[2J burns.",
            "ago_s": 300.0,
        }
    ],
    "missing_keys": [
        {
            "upstream": "openai",
            "secret": "OPENAI_API_KEY",
            "models": ["small"],
            "why": "The upstream openai has no key.",
            "fix": "Write it to /x.",
        }
    ],
    "accounts": [
        {
            "tenant": "acme",
            "task": "desk/1",
            "agent": None,
            "model": "small",
            "requests": 3,
            "failed": 1,
            "cached": 2,
            "given_up": 4,
            "input_tokens": 1000,
            "output_tokens": 100,
            "unpriced": 1,
            "cost_usd": "0.5",
        }
    ],
}


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def ask(_: GatewayAddress) -> dict[str, Any]:
        return STATE

    monkeypatch.setenv("CALLBOARD_HOME", str(tmp_path))
    monkeypatch.setattr(LocalGateway, "address", lambda _: GatewayAddress(port=8417, key="cb-key"))
    monkeypatch.setattr(callboard.cli.gateway, "_ask", ask)


def test_it_says_which_key_is_missing_and_what_an_upstream_failed_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert invoke(["gateway"]) == 0
    said = capsys.readouterr().out
    assert "small: The upstream openai has no key. Write it to /x." in said
    [line] = [line for line in said.splitlines() if "burns" in line]
    assert line.split() == ["openai", "gpt-5-mini", "5", "min", "It", "\\x1b[2J", "burns."]


def test_it_says_what_each_tenant_has_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["gateway"]) == 0
    said = capsys.readouterr().out
    assert "answered  cached  failed  ended early  tokens in" in said
    [line] = [line for line in said.splitlines() if "acme" in line]
    figures = ["3", "2", "1", "4", "1,000", "100", "0.5", "and", "more"]
    assert line.split() == ["small", "acme", "desk/1", *figures]


def test_a_program_has_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["gateway", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in STATE} == STATE

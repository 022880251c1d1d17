"""`callboard gateway --key`: for `$(...)` as it stands, for a script as JSON."""

from __future__ import annotations

import json

import pytest

from actors.model_gateway import GatewayAddress
from callboard.cli.main import invoke
from callboard.gateway import LocalGateway


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalGateway, "address", lambda _: GatewayAddress(port=8417, key="cb-key"))


def test_the_key_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["gateway", "--key"]) == 0
    assert capsys.readouterr().out == "cb-key\n"


def test_with_json_it_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["gateway", "--key", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"key": "cb-key"}

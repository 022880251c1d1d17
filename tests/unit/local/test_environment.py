"""What is set for the libraries of a model."""

from __future__ import annotations

from serve.local.environment import prepare


def test_nothing_is_told_to_anybody_unless_somebody_wants_it() -> None:
    environment: dict[str, str] = {}
    prepare(environment)
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == "1"
    own = {"HF_HUB_DISABLE_TELEMETRY": "0"}
    prepare(own)
    assert own == environment | {"HF_HUB_DISABLE_TELEMETRY": "0"}

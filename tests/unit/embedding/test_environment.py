"""What is set for the libraries of a model."""

from __future__ import annotations

from serve.embedding.environment import prepare


def test_threads_do_not_spin_and_nothing_is_told_to_anybody_unless_somebody_wants_it() -> None:
    environment: dict[str, str] = {}
    prepare(environment)
    assert environment["GOMP_SPINCOUNT"] == "1000"
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == "1"
    own = {"GOMP_SPINCOUNT": "300000"}
    prepare(own)
    assert own == environment | {"GOMP_SPINCOUNT": "300000"}

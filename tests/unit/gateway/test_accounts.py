"""What a call has cost, and the bound on how many are told apart."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from serve.gateway import accounts
from serve.gateway.accounts import Accounts, Payer, Usage, cost_of, usage_of
from serve.gateway.models_file import TargetSpec, UpstreamSpec

OPENAI = UpstreamSpec(type="openai", api_key="KEY")
ANTHROPIC = UpstreamSpec(type="anthropic", api_key="KEY")
HOUSE = UpstreamSpec(type="openai_compatible", base_url="http://house/v1")


def target(model: str, **fields: Any) -> TargetSpec:
    return TargetSpec(upstream="u", model=model, **fields)


def test_prices_that_are_known_and_those_that_nobody_knows() -> None:
    million = Usage(input=1_000_000, output=1_000_000)
    assert cost_of(target("gpt-4o-mini"), OPENAI, million) == Decimal("0.75")
    assert cost_of(target("no-such-model"), OPENAI, million) is None
    assert cost_of(target("gpt-4o-mini"), HOUSE, million) is None  # of the same name only
    assert cost_of(target("own", price={"input": 0.1, "output": 3}), HOUSE, million) == Decimal("3.1")
    third = cost_of(target("own", price={"input": 1 / 3, "output": 0}), HOUSE, Usage(input=1))
    assert third == Decimal("0.000000333333")  # to where amounts of tasks end


def test_what_comes_from_the_upstreams_cache_is_cheaper() -> None:
    fresh, cached = Usage(input=1_000_000), Usage(input=1_000_000, cached=1_000_000)
    for spec, model in ((OPENAI, "gpt-4o-mini"), (ANTHROPIC, "claude-haiku-4-5")):
        full, less = cost_of(target(model), spec, fresh), cost_of(target(model), spec, cached)
        assert full is not None
        assert less is not None
        assert less < full


def test_a_usage_that_makes_no_sense_costs_nothing_known() -> None:
    assert cost_of(target("gpt-4o-mini"), OPENAI, Usage(input=5, cached=10)) is None


@pytest.mark.parametrize("body", [None, {}, {"usage": None}, {"usage": "many"}])
def test_no_usage(body: Any) -> None:
    assert usage_of(body) is None


def test_a_usage_in_part() -> None:
    body = {"usage": {"prompt_tokens": 7, "prompt_tokens_details": None, "completion_tokens": "x"}}
    assert usage_of(body) == Usage(input=7)


def test_past_the_bound_new_accounts_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MAX_ACCOUNTS", 2)
    kept = Accounts()
    for number in range(5):
        kept.charge(Payer("default", f"task-{number}"), "m", Usage(input=1), Decimal(1))
    assert [(one["task"], one["requests"]) for one in kept.listed()] == [
        ("task-0", 1),
        ("task-1", 1),
        ("(others)", 3),
    ]
    for number in range(5):
        kept.charge(Payer(f"tenant-{number}", "task"), "m", Usage(input=1), Decimal(1))
    assert [(one["tenant"], one["requests"]) for one in kept.listed()[3:]] == [
        ("tenant-0", 1),
        ("(others)", 4),
    ]

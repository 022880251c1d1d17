"""Shares of tenants, of whom there may be any number."""

from __future__ import annotations

import pytest

from serve.gateway import limits
from serve.gateway.errors import ApiError
from serve.gateway.limits import Limits
from serve.gateway.models_file import LimitSpec, ShareSpec


def test_past_the_bound_the_tenant_that_has_asked_longest_ago_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MOST_TENANTS", 2)
    found = Limits(LimitSpec(tenant=ShareSpec(requests_per_minute=1)), lambda: 0.0)

    def asks(tenant: str) -> bool:
        try:
            with found.entered(tenant):
                return True
        except ApiError:
            return False

    assert [asks(name) for name in ("a", "b", "a", "b", "a")] == [True, True, False, False, False]
    assert asks("c")  # in the place of b
    assert [asks(name) for name in ("a", "c", "b")] == [False, False, True]
    assert len(found._tenants) == 2


def test_one_that_is_forgotten_while_it_is_worked_for_is_counted_right_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MOST_TENANTS", 1)
    found = Limits(LimitSpec(tenant=ShareSpec(concurrent=1)), lambda: 0.0)
    with found.entered("a"), found.entered("b"), found.entered("a"):
        assert found.running == 3
        with pytest.raises(ApiError, match="by this tenant: 1 requests are under way"):
            found.entered("a").__enter__()
    assert found.running == 0
    with found.entered("a"):
        pass

"""Tokens and money: what each tenant, task and agent has used, by model. Since the gateway's start, in memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import genai_prices

from bus.amount import exact
from serve.gateway.models_file import TargetSpec, UpstreamSpec
from serve.gateway.upstream import Json

MAX_ACCOUNTS = 10_000  # past it, new ones are counted together for each tenant; past twice as many, for all
REST = "(others)"
_MILLION = Decimal(1_000_000)


@dataclass(frozen=True)
class Payer:
    """For whom a request is made, as its headers say."""

    tenant: str
    task: str | None = None
    agent: str | None = None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one request; `input` includes what was read from and written to the upstream's cache."""

    input: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output


@dataclass
class Account:
    """`given_up`: calls that ended before their upstream had answered; it may have worked on them all the same."""

    requests: int = 0
    failed: int = 0
    cached: int = 0
    given_up: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unpriced: int = 0
    cost_usd: Decimal = Decimal(0)


def usage_of(body: Json | None) -> Usage | None:
    """From an answer, or a stream's last chunk; None where the upstream has not said it readably."""
    found = body.get("usage") if body is not None else None
    if not isinstance(found, dict):
        return None
    details = found.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    return Usage(
        # Some who rerank say the total only.
        input=_count(found.get("prompt_tokens", found.get("total_tokens"))),
        cached=_count(details.get("cached_tokens")),
        written=_count(details.get("cache_write_tokens")),
        output=_count(found.get("completion_tokens")),
    )


def cost_of(target: TargetSpec, upstream: UpstreamSpec, usage: Usage) -> Decimal | None:
    """US dollars, rounded as charges of tasks are; None where nobody has said what the model costs."""
    if target.price is not None:
        price = target.price
        return exact(
            (Decimal(str(price.input)) * usage.input + Decimal(str(price.output)) * usage.output) / _MILLION
        )
    if upstream.type == "local":
        return Decimal(0)
    if upstream.type == "openai_compatible" or upstream.base_url is not None:
        return None  # a model of the same name may cost something else there
    try:
        found = genai_prices.calc_price(
            genai_prices.Usage(
                input_tokens=usage.input,
                cache_read_tokens=usage.cached,
                cache_write_tokens=usage.written,
                output_tokens=usage.output,
            ),
            target.model,
            provider_id=upstream.type,
        )
    except (LookupError, ValueError):
        return None
    return exact(found.total_price)


class Accounts:
    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str | None, str | None, str], Account] = {}

    def failed(self, payer: Payer, model: str) -> None:
        self._of(payer, model).failed += 1

    def free(self, payer: Payer, model: str) -> None:
        """Answered from the cache, or together with somebody else who pays."""
        account = self._of(payer, model)
        account.requests += 1
        account.cached += 1

    def give_up(self, payer: Payer, model: str, usage: Usage, cost: Decimal | None) -> None:
        account = self._of(payer, model)
        account.given_up += 1
        _add(account, usage, cost)

    def charge(self, payer: Payer, model: str, usage: Usage | None, cost: Decimal | None) -> None:
        account = self._of(payer, model)
        account.requests += 1
        _add(account, usage, cost)

    def listed(self) -> list[dict[str, Any]]:
        return [
            {
                "tenant": tenant,
                "task": task,
                "agent": agent,
                "model": model,
                **asdict(account),
                "cost_usd": f"{account.cost_usd:f}",
            }
            for (tenant, task, agent, model), account in self._accounts.items()
        ]

    def _of(self, payer: Payer, model: str) -> Account:
        key = (payer.tenant, payer.task, payer.agent, model)
        if key not in self._accounts and len(self._accounts) >= MAX_ACCOUNTS:
            key = (payer.tenant, REST, REST, model)
        if key not in self._accounts and len(self._accounts) >= 2 * MAX_ACCOUNTS:
            key = (REST, REST, REST, model)  # tenants, too, are what headers say
        return self._accounts.setdefault(key, Account())


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _add(account: Account, usage: Usage | None, cost: Decimal | None) -> None:
    if usage is not None:
        account.input_tokens += usage.input
        account.output_tokens += usage.output
    if cost is None:
        account.unpriced += 1
    else:
        account.cost_usd += cost

"""The written policy: which action a verdict and its severity call for."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .address import Network, parse
from .errors import PolicyError
from .verdict import Severity, Verdict

# `ipaddress`' is_private also holds documentation ranges, so the protected ones are named here.
PROTECTED: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(network), why)
    for network, why in (
        ("0.0.0.0/8", "this network (RFC 1122)"),
        ("10.0.0.0/8", "private (RFC 1918)"),
        ("100.64.0.0/10", "carrier-grade NAT (RFC 6598)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private (RFC 1918)"),
        ("192.168.0.0/16", "private (RFC 1918)"),
        ("224.0.0.0/3", "multicast and reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private (RFC 4193)"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    )
)


class Action(StrEnum):
    """What can be proposed. Of these, blocks are carried out; the others are for people."""

    NONE = "none"
    WATCH = "watch"
    BLOCK = "block"
    ESCALATE = "escalate"


class Proposal(BaseModel):
    """One proposed action; `hours` is set for a block only."""

    model_config = ConfigDict(frozen=True)

    action: Action
    hours: int | None = None
    why: str

    @property
    def text(self) -> str:
        return f"{self.action} {self.hours}h" if self.hours else str(self.action)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Allowed(_Strict):
    """A network that is never blocked."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    why: Annotated[str, Field(min_length=1)]


class Rule(_Strict):
    """The action for one verdict at some severities."""

    verdict: Verdict
    severity: Annotated[tuple[Severity, ...], Field(min_length=1)]
    action: Action
    hours: Annotated[int, Field(ge=1, le=24 * 365, strict=True)] | None = None
    why: Annotated[str, Field(min_length=1)]

    @field_validator("action", mode="before")
    @classmethod
    def _none_is_a_word(cls, value: object) -> object:
        # `action: none` is text in YAML 1.2 and in PyYAML; `null` and an empty value are not meant.
        if value is None:
            raise ValueError("write none, watch, block or escalate")
        return value

    @model_validator(mode="after")
    def _hours_belong_to_blocks(self) -> Self:
        if (self.action is Action.BLOCK) != (self.hours is not None):
            raise ValueError("`hours` is needed for block, and for block only")
        return self


class ByPolicy(_Strict):
    """The blocks that need no person where the policy decides."""

    severity: Annotated[tuple[Severity, ...], Field(min_length=1)]
    hours: Annotated[int, Field(ge=1, strict=True)]

    def covers(self, severity: Severity, hours: int) -> bool:
        return severity in self.severity and hours <= self.hours


class Approval(_Strict):
    """Which blocks are carried out only once they are approved, by whom, and within which time."""

    lowest: Severity = Field(alias="from")
    approvers: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    by_policy: ByPolicy | None = None

    def is_needed(self, severity: Severity) -> bool:
        return severity.rank >= self.lowest.rank

    @property
    def timeout_s(self) -> float | None:
        return None if self.hours is None else self.hours * 3600


class Grouping(_Strict):
    """Which sources are taken for one campaign, and what finding them may take.

    Two are alike when the embeddings of their behaviour, by this `model` of the gateway, have a cosine `similarity` of at
    least so much. The gravest `sources` are compared, in requests of `texts` at most; what takes longer than `within_s`
    seconds is done without.
    """

    model: Annotated[str, Field(min_length=1, max_length=200)]
    similarity: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    sources: Annotated[int, Field(ge=2, le=256, strict=True)]
    texts: Annotated[int, Field(ge=1, le=128, strict=True)]
    within_s: Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)]


class Policy(_Strict):
    """A whole policy. Every verdict at every severity is covered by a rule, and every rule can be reached."""

    version: Literal[1]
    allow: tuple[Allowed, ...] = ()
    approval: Approval
    rules: tuple[Rule, ...]
    grouping: Grouping | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        seen: set[tuple[Verdict, Severity]] = set()
        for rule in self.rules:
            pairs = {(rule.verdict, severity) for severity in rule.severity}
            if pairs & seen:
                verdict, severity = min(pairs & seen)
                raise ValueError(f"{verdict} at {severity} has two rules")
            seen |= pairs
        missing = [pair for pair in product(Verdict, Severity) if pair not in seen]
        if missing:
            raise ValueError(f"no rule for {missing[0][0]} at {missing[0][1]}")
        return self

    def propose(self, source: str, verdict: Verdict, severity: Severity) -> Proposal:
        """Return the action for one source; a block of a protected source, or of a name, is escalated."""
        rule = next(rule for rule in self.rules if rule.verdict is verdict and severity in rule.severity)
        if rule.action is Action.BLOCK and (reason := self.protected(source)) is not None:
            return Proposal(action=Action.ESCALATE, why=f"Not blocked: {reason}. A person decides.")
        return Proposal(action=rule.action, hours=rule.hours, why=rule.why)

    def protected(self, source: str) -> str | None:
        """Return why a source is never blocked, None if it may be."""
        address = parse(source)
        if address is None:
            return "a host name is what its owner says, and not an address to block"
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            return "the address holds on one link of one machine only"
        allowed: tuple[tuple[Network, str], ...] = tuple((each.network, each.why) for each in self.allow)
        for network, why in (*allowed, *PROTECTED):
            # Equal versions only: an address is never in a network of the other one.
            if address.version == network.version and int(address) in range(
                int(network.network_address), int(network.broadcast_address) + 1
            ):
                return f"{network} is protected ({why})"
        return None


def load_policy(path: str | Path) -> Policy:
    """Read a policy file strictly. Raises PolicyError with the place of the first mistake."""
    name = Path(path).name
    try:
        data = yaml.load(Path(path).read_text("utf-8"), Loader=_UniqueKeys)
        return Policy.model_validate(data)
    except OSError as error:
        raise PolicyError(f"Cannot read {name}: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PolicyError(f"{name} is not valid YAML: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise PolicyError(f"{name}: {place}: {first['msg']}.") from error


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)

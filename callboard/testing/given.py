"""A domain whose agents are given as classes, and not by a domain.yaml."""

from __future__ import annotations

from collections.abc import Sequence

from actors.agent import Agent, agent_type
from actors.domain import Domain, DomainSpec, KindSpec
from actors.schedule import check_schedules


def domain_of(spec: DomainSpec, classes: Sequence[type[Agent]]) -> Domain:
    """As load_domain does; raises what a class or a schedule that is not right raises there."""
    types = [agent_type(cls) for cls in classes]
    kinds = tuple(KindSpec.model_validate({"class": "given:Kind"}) for _ in types)
    domain = Domain(spec.model_copy(update={"kinds": kinds}), {kind.kind: kind for kind in types})
    check_schedules(spec.schedules, domain.kinds, spec.limits.claim_check_bytes)
    return domain

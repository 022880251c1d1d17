"""Each policy on its own, with members and loads given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from actors.domain import TaskSpec
from coordinators.tasks.policies import Assignment, Call, Refused, To, make_policy

MEMBERS = {"cooking": ["cook/b", "cook/a", "chef/z"]}


async def assign(
    spec: TaskSpec, load: Mapping[str, int] | None = None, name: str | None = None
) -> Assignment:
    async def loads(agents: Sequence[str]) -> Mapping[str, int]:
        return {agent: (load or {}).get(agent, 0) for agent in agents}

    policy = make_policy(name or spec.policy, spec, lambda skill: MEMBERS.get(skill, []), loads)
    return await policy.assign("7")


async def test_direct_puts_the_task_id_into_the_address() -> None:
    assert await assign(TaskSpec(policy="direct", to="cook/for {task}")) == To("cook/for 7")


async def test_direct_without_an_address_is_refused() -> None:
    assert isinstance(await assign(TaskSpec(policy="direct")), Refused)


@pytest.mark.parametrize(
    ("load", "chosen"),
    [
        ({}, "chef/z"),
        ({"chef/z": 1}, "cook/a"),
        ({"chef/z": 1, "cook/a": 1}, "cook/b"),
        ({"chef/z": 2, "cook/a": 2, "cook/b": 2}, "chef/z"),
    ],
)
async def test_least_loaded_takes_the_fewest_open_tasks_and_then_the_name(
    load: dict[str, int], chosen: str
) -> None:
    assert await assign(TaskSpec(policy="least_loaded", skill="cooking"), load) == To(chosen)


async def test_contract_net_asks_every_member_by_name() -> None:
    spec = TaskSpec(policy="contract_net", skill="cooking", bid_deadline_s=3)
    assert await assign(spec) == Call(("chef/z", "cook/a", "cook/b"), 3)


@pytest.mark.parametrize("policy", ["least_loaded", "contract_net"])
async def test_a_skill_that_nobody_has_is_refused_with_the_mend(policy: Any) -> None:
    refused = await assign(TaskSpec(policy=policy, skill="flying"))
    assert isinstance(refused, Refused)
    assert "members" in refused.reason


async def test_a_policy_that_the_domain_is_not_set_up_for_is_refused() -> None:
    refused = await assign(TaskSpec(policy="direct", to="cook/a"), name="contract_net")
    assert refused == Refused("domain.yaml names no `tasks.skill` for this policy.")

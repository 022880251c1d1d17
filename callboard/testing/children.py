"""Tasks that a kit's tasks have started: assigned as their domain's coordinator would."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from actors.domain import DomainSpec
from actors.task_messages import TASK_KIND
from bus.address import Address
from bus.task_ref import task_ref
from callboard.testing.post import Post
from coordinators.tasks.messages import TaskAssigned
from coordinators.tasks.policies import Call, Refused, To, make_policy
from storage.memory import MemoryStore
from storage.records import NewTask


class ChildAssigner:
    """Looks for submitted tasks of the domain, by the policy that its `tasks` name."""

    def __init__(self, spec: DomainSpec, store: MemoryStore, post: Post, tenant: str) -> None:
        self._spec = spec
        self._store = store
        self._post = post
        self._tenant = tenant
        self._assigned: set[str] = set()

    async def assign(self) -> bool:
        """Assign what waits; False when there was nothing."""
        found = [
            task
            for (domain, tenant, id_), task in self._store.tasks.children.items()
            if (domain, tenant) == (self._spec.domain, self._tenant) and id_ not in self._assigned
            and self._store.tasks.rows[(domain, tenant, id_)].status == "submitted"
        ]  # fmt: skip
        for task in found:
            self._assigned.add(task.id)
            await self._tell(task)
        return bool(found)

    async def _tell(self, task: NewTask) -> None:
        spec = self._spec
        name = task.policy or spec.tasks.policy
        policy = make_policy(name, spec.tasks, lambda skill: spec.members.get(skill, ()), _no_load)
        assignee: str | None = None
        candidates: tuple[str, ...] = ()
        within_s, refused = 0.0, None
        match await policy.assign(task.id):
            case To(agent):
                assignee = f"{spec.domain}/{agent}"
            case Call(agents, within_s):
                candidates = tuple(f"{spec.domain}/{agent}" for agent in agents)
            case Refused(reason):
                refused = reason
        assigned = TaskAssigned(
            id=task.id, goal=task.goal, input=json.loads(task.input), priority=task.priority, deadline=task.deadline,
            policy=name, on_dead_letter=spec.tasks.on_dead_letter, assignee=assignee, candidates=candidates,
            bid_within_s=within_s, refused=refused,
        )  # fmt: skip
        leader = Address(spec.domain, TASK_KIND, task.id)
        await self._post.message(leader, assigned, task=task_ref(task.id, spec.domain), root=task.root)


async def _no_load(agents: Sequence[str]) -> Mapping[str, int]:
    return dict.fromkeys(agents, 0)

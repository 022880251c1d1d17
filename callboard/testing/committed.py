"""What has committed in a kit: the part of TestKit that only reads."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

from actors.directory import Directory
from actors.domain import Domain
from bus.address import Address, partition_of
from bus.task_ref import split_task_ref, task_ref
from callboard.testing import views
from callboard.testing.post import parsed
from storage.chain import verify_chain
from storage.ledger import LedgerWrite
from storage.memory import MemoryStore
from storage.records import StoredState
from storage.spent import Spent

M = TypeVar("M", bound=BaseModel)


class Committed:
    """Reads one tenant's rows of a domain in storage in memory."""

    def __init__(self, domain: Domain, directory: Directory, store: MemoryStore, tenant: str) -> None:
        self.domain = domain
        self.store = store
        self.tenant = tenant
        self._directory = directory

    def state(self, address: str | Address) -> Any:
        """The committed state as the kind's State model; a new one when there is none."""
        to = parsed(address)
        kind = self.domain.kinds[to.kind]
        stored = self._stored(to)
        if stored is None or stored.state is None:
            return kind.new_state()
        return kind.load_state(stored.state, stored.schema_version)

    def lifecycle(self, address: str | Address) -> str:
        """`created`, `running`, `paused` or `destroyed`."""
        stored = self._stored(parsed(address))
        return stored.lifecycle if stored is not None else "created"

    def sent(
        self,
        *,
        to: str | Address | None = None,
        sender: str | Address | None = None,
        type: type[M] | None = None,
    ) -> list[Any]:
        """What agents have sent (timers included), in the order of their commits, as the models it was."""
        blobs = self._blobs()
        found = []
        for outgoing in self.store.sent:
            message = views.open_message(outgoing.header, outgoing.payload, blobs)
            if (
                (to is None or str(to) == f"{outgoing.domain}/{outgoing.agent}")
                and (sender is None or str(sender) == outgoing.header.sender)
                and (type is None or isinstance(message, type))
            ):
                found.append(message)
        return found

    def history(self, address: str | Address) -> list[views.Step]:
        """The agent's turns, oldest first; raises BrokenChain when their hashes do not add up."""
        to = parsed(address)
        transitions = self.store.agents.transitions.get((to.domain, self.tenant, to.agent), [])
        verify_chain(str(to), transitions, self._stored(to))
        return [views.step(transition, self._blobs()) for transition in transitions]

    def task(self, task: str) -> views.TaskState:
        """A task that was given: its status, and its result or error."""
        domain, id_ = split_task_ref(task_ref(task, self.domain.name))
        return views.task_state(self.store.tasks.rows[(domain, self.tenant, id_)])

    def spent(self, task: str) -> Spent:
        """What a task that was given has used, with all the tasks that it has started."""
        return self.store.spending.used(self.tenant, task_ref(task, self.domain.name))

    def mailbox(self, address: str | Address) -> list[views.WaitingMessage]:
        """What waits for the agent, in the order in which it will be handled."""
        to = parsed(address)
        rows = self.store.mail.boxes.get((to.domain, self.tenant, self._partition(to), to.agent), {})
        return [views.waiting(row, self._blobs()) for _, row in sorted(rows.items())]

    def dead_letters(self, address: str | Address | None = None) -> list[views.DeadMessage]:
        """The messages given up, of one agent or of all, oldest first."""
        rows = [
            row
            for (tenant, _), row in sorted(self.store.agents.dead_letters.items())
            if tenant == self.tenant
        ]
        found = [views.dead(self.domain.name, row, self._blobs()) for row in rows]
        return [letter for letter in found if address is None or letter.address == str(address)]

    def approvals(self) -> list[views.OpenQuestion]:
        """What people are asked and have not answered: approvals, and what calls have done; the oldest first."""
        return views.open_questions(self.store.waits, self.domain.name, self.tenant)

    def ledger(self, address: str | Address | None = None) -> list[LedgerWrite]:
        """The calls of tools, of one agent or of all, in the order in which they began."""
        return [
            row.call
            for (domain, tenant, _), row in self.store.waits.ledger.rows.items()
            if tenant == self.tenant and (address is None or str(address) == f"{domain}/{row.agent}")
        ]

    def _partition(self, to: Address) -> int:
        return partition_of(self.tenant, to.agent, self._directory.partitions(to.domain, to.kind))

    def _stored(self, to: Address) -> StoredState | None:
        return self.store.agents.states.get((to.domain, self.tenant, to.agent))

    def _blobs(self) -> dict[str, bytes]:
        return {digest: data for (_, _, digest), data in self.store.blobs.items()}

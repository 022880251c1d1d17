"""Agents that are held: what they would do next is part of what is paused, or might have to wait for a move."""

from __future__ import annotations

from collections.abc import Callable

from actors.activation import Activation
from actors.scope import Scope
from actors.task_messages import LEADS
from actors.wake import is_wake


class Held:
    """They are looked at again when something goes on."""

    def __init__(self, scope: Scope, schedule: Callable[[Activation], None]) -> None:
        self._scope = scope
        self._schedule = schedule
        self._agents: dict[Activation, None] = {}

    def add(self, activation: Activation) -> None:
        self._agents[activation] = None

    def discard(self, activation: Activation) -> None:
        self._agents.pop(activation, None)

    def takes(self, activation: Activation) -> bool:
        """Whether what the agent would do next is paused; it is held then."""
        head = activation.head()
        if head is None or not self._scope.is_held(head):
            return False
        self.add(activation)
        return True

    def stands_back(self, activation: Activation) -> bool:
        """Whether the agent begins nothing until there is room for more turns that wait for the move of its partition; it is
        held then. Its messages stay in its mailbox."""
        if not self._scope.flights.is_full(activation.partition):
            return False
        head = activation.head()
        if head is None or (head.is_control and not is_wake(head)) or activation.agent.startswith(LEADS):
            return False
        self.add(activation)
        return True

    def hold_turn(self, activation: Activation) -> None:
        """Its turn waits for something, and is not woken while what it is part of is paused."""
        activation.held_turn = True
        self.add(activation)

    def let_go(self) -> None:
        """What is paused has changed, or there is room."""
        agents, self._agents = self._agents, {}
        for activation in agents:
            activation.held_turn = False
            self._schedule(activation)

"""Agents that have nothing to do leave memory."""

from __future__ import annotations

import asyncio
import logging

from actors.exits import as_failures
from actors.mailboxes import Mailboxes
from actors.scope import Scope

_logger = logging.getLogger("callboard.eviction")

_EVERY_S = 1.0
_PASSIVATE_S = 2.0  # an author's hook may take so long before its agent leaves memory without it


async def evict_idle(scope: Scope, mailboxes: Mailboxes) -> None:
    """Runs for ever."""
    while True:
        await scope.clock.pause(_EVERY_S)
        older = scope.clock.now() - scope.limits.idle_s
        for activation in mailboxes.evict_idle(older_than=older):
            if activation.type.has_passivated_hook and activation.instance is not None:
                try:
                    with as_failures():
                        async with asyncio.timeout(_PASSIVATE_S):
                            await activation.instance.on_passivated()
                except Exception as error:  # the author's hook; the agent has left memory already
                    _logger.warning("on_passivated of %s failed: %r", activation.agent, error)

"""Turns: agents in memory, the handler, and what a commit writes for each message handled."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any

import msgspec
from uuid_utils import uuid7

from benchmarks.bare.records import (
    DOMAIN,
    EPOCH,
    TENANT,
    TYPE,
    Body,
    Delivery,
    Header,
    Histogram,
    Received,
    Sent,
    Tally,
    Text,
    address,
    message,
    partition_of,
)

_json = msgspec.json.Encoder().encode
_text = msgspec.json.Decoder(Text).decode


@dataclass(slots=True)
class Activation:
    """An agent in memory, ahead of its committed version by the turns that wait for the next commit."""

    version: int
    hash: bytes
    state: Tally


@dataclass(slots=True)  # frozen would cost 2 µs a turn
class Turn:
    """A handled message and its consequences."""

    agent: int
    seq: int
    version: int
    body: str
    prev: bytes
    hash: bytes
    state: str
    recipient: int
    id: str
    correlation: str
    hops: int
    header: bytes
    payload: bytes
    began_ns: int


class Agents:
    """The agents of one process."""

    def __init__(self, process: int, count: int) -> None:
        self.activations: dict[int, Activation] = {}
        self.latencies = Histogram()
        self._process = process
        self._names = [address(agent) for agent in range(count)]
        self._addresses = [f"{DOMAIN}/{name}" for name in self._names]
        self._partitions = [partition_of(agent) for agent in range(count)]
        self._random = Random(process)

    def handle(self, delivery: Delivery) -> Turn:
        """Count the message, remember its beginning, and send it on to an agent drawn at random.

        Half of all agents belong to the other process, so half of the hops cross.
        """
        now = time.monotonic_ns()
        if delivery.sent_ns:
            self.latencies.add(now - delivery.sent_ns)
        at = time.time()
        agent = self.activations[delivery.agent]
        text = _text(delivery.payload)
        agent.version += 1
        agent.state.hops += 1
        state = _json(agent.state)
        recipient = self._random.randrange(len(self._names))
        identity = str(uuid7())
        hops = delivery.hops + 1
        header = _json(
            Header(
                identity, TYPE, self._addresses[delivery.agent], at, delivery.correlation, delivery.id, hops
            )
        )
        body = _json(
            Body(
                agent.version,
                at,
                "handled",
                "running",
                Received(msgspec.Raw(delivery.header), msgspec.Raw(delivery.payload)),
                [],
                [Sent(identity, self._addresses[recipient], TYPE)],
                sha256(state).hexdigest(),
                msgspec.Raw(state),
            )
        )
        prev, agent.hash = agent.hash, sha256(agent.hash + body).digest()
        return Turn(
            delivery.agent, delivery.seq, agent.version, body.decode(), prev, agent.hash, state.decode(),
            recipient, identity, delivery.correlation, hops, header, message(text.hops + 1, text.text), now,
        )  # fmt: skip

    def arguments(self, turns: Sequence[Turn]) -> list[Any]:
        """The commit's parameters: the fence, the turns, the agents they leave behind, the messages they send."""
        names, partitions, tenants = self._names, self._partitions, [TENANT] * len(turns)
        last = {turn.agent: turn for turn in turns}
        first: dict[int, int] = {}
        for turn in turns:
            first.setdefault(turn.agent, turn.version - 1)
        return [
            DOMAIN, self._process, EPOCH, list({partitions[agent] for agent in last}),
            tenants, [partitions[t.agent] for t in turns], [names[t.agent] for t in turns],
            [t.seq for t in turns], [t.version for t in turns], [t.body for t in turns],
            [t.prev for t in turns], [t.hash for t in turns],
            tenants[: len(last)], [names[agent] for agent in last], list(first.values()),
            [t.version for t in last.values()], [t.state for t in last.values()], [t.hash for t in last.values()],
            tenants, [partitions[t.recipient] for t in turns], [names[t.recipient] for t in turns],
            [t.id for t in turns], [t.header.decode() for t in turns], [t.payload.decode() for t in turns],
        ]  # fmt: skip

    def delivery(self, turn: Turn, seq: int) -> Delivery:
        """The turn's outgoing message, committed as number `seq`."""
        return Delivery(
            seq, turn.recipient, turn.id, turn.correlation, turn.hops, turn.header, turn.payload,
            turn.began_ns,
        )  # fmt: skip

"""What the bare loop sends, stores and reports."""

from math import exp, log
from pathlib import Path
from typing import Final, Self

import msgspec

DOMAIN: Final = "bench"
TENANT: Final = "default"
TYPE: Final = "bench.hop.v1"
SCHEMA: Final = "limit_benchmark"
PARTITIONS: Final = 64
BUCKETS: Final = 50  # of a histogram, for each factor of e
PROCESSES: Final = 2
EPOCH: Final = 1
TEXT_CHARACTERS: Final = 180  # so that a message has 200 characters, as in DESIGN's table
SQL: Final = Path(__file__).parent / "sql"


def address(agent: int) -> str:
    """The agent in every table; within a text its domain stands before it."""
    return f"ring/{agent}"


def partition_of(agent: int) -> int:
    """The partition that holds the agent; process p owns those congruent to p."""
    return agent % PARTITIONS


def owner_of(agent: int) -> int:
    """The process that owns the agent's partition."""
    return partition_of(agent) % PROCESSES


class Histogram(msgspec.Struct):
    """Durations counted by buckets a fiftieth wide, so that a report of any run stays a short line."""

    counts: dict[int, int] = msgspec.field(default_factory=dict)

    def add(self, duration_ns: int) -> None:
        bucket = int(log(max(duration_ns, 1)) * BUCKETS)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def merge(self, other: Self) -> None:
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    def percentile_ms(self, share: float) -> float:
        """The upper edge of the bucket that `share` of the durations do not exceed; 0 when there are none."""
        rank = share * sum(self.counts.values())
        for bucket in sorted(self.counts):
            rank -= self.counts[bucket]
            if rank <= 0:
                return round(exp((bucket + 1) / BUCKETS) / 1e6, 3)
        return 0.0


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What the benchmark tells each of the two processes."""

    process: int
    agents: int
    seconds: float
    postgres_url: str
    nats_url: str
    sql: str
    steps: int = 0
    handlers: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a process measured."""

    commits: int
    latencies: Histogram
    seconds: float
    cpu_s: float


class Text(msgspec.Struct, frozen=True):
    """The payload of a message."""

    hops: int
    text: str


class Tally(msgspec.Struct):
    """The agent's state."""

    hops: int


class Delivery(msgspec.Struct, frozen=True, array_like=True):
    """One committed message on its way to its recipient's owner; `sent_ns` is when its turn began."""

    seq: int
    agent: int
    id: str
    correlation: str
    hops: int
    header: bytes
    payload: bytes
    sent_ns: int


class Header(msgspec.Struct, frozen=True):
    """A message's envelope, with the fields that the product's has."""

    id: str
    type: str
    sender: str
    sent_at: float
    correlation: str
    causation: str
    hops: int


class Received(msgspec.Struct, frozen=True):
    """The consumed message, as a transition explains it."""

    header: msgspec.Raw
    payload: msgspec.Raw


class Sent(msgspec.Struct, frozen=True):
    """A consequence, as a transition explains it."""

    id: str
    to: str
    type: str


class Body(msgspec.Struct, frozen=True):
    """A transition's canonical content: what the product's says."""

    version: int
    at: float
    decision: str
    lifecycle: str
    message: Received
    notes: list[str]
    sends: list[Sent]
    state_hash: str
    state: msgspec.Raw


_encode = msgspec.json.Encoder().encode


def message(hops: int, text: str) -> bytes:
    """A message's payload, 200 characters of JSON."""
    return _encode(Text(hops, text))

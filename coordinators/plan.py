"""Which host should own which partition: balanced, and with as few moves as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set


def plan_partitions(
    partitions: int, hosts: Sequence[int], wanted: Mapping[int, Set[int]]
) -> dict[int, frozenset[int]]:
    """Spread partitions 0..n-1 over host epochs so that no host has two more than another.

    `wanted` is the plan so far. A host keeps what it has up to its share; the rest goes to those below
    theirs. The result depends on nothing but the arguments.
    """
    if not hosts:
        return {}
    order = sorted(hosts)
    share, extra = divmod(partitions, len(order))
    kept: dict[int, list[int]] = {}
    free = set(range(partitions))
    for host in order:
        mine = sorted(free & wanted.get(host, frozenset()))
        kept[host] = mine
        free -= set(mine)
    # Those that hold the most keep the larger shares, so that the fewest partitions move.
    by_load = sorted(order, key=lambda host: (-len(kept[host]), host))
    target = {host: share + (1 if rank < extra else 0) for rank, host in enumerate(by_load)}
    for host in order:
        free.update(kept[host][target[host] :])
        del kept[host][target[host] :]
    pool = sorted(free)
    for host in order:
        missing = target[host] - len(kept[host])
        kept[host] += pool[:missing]
        del pool[:missing]
    return {host: frozenset(owned) for host, owned in kept.items()}

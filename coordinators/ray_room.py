"""What waits for room in a Ray cluster, as its own autoscaler is told."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import ray
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import RayError

from actors.ray_host import IMPLICIT
from coordinators.room import Waiting

_logger = logging.getLogger("callboard.coordinator")

_WITHIN_S = 5


def waiting(mark: str, cpus: float) -> Waiting:
    """What waits, beside the hosts of a domain: they have its mark, and ask for so many CPUs each. Nobody waits where more
    room is on its way."""
    try:
        told = get_cluster_status(ray.get_runtime_context().gcs_address, timeout=_WITHIN_S)
    except RayError as error:
        _logger.warning("Ray does not tell what waits for room: %s", str(error).splitlines()[0])
        return Waiting()
    return count(told, mark, cpus)


def count(status: ClusterStatus, mark: str, cpus: float) -> Waiting:
    """The same, of a status of the cluster. Others that no node is large enough for take no room, and do not count."""
    if status.pending_launches or status.pending_nodes:
        return Waiting()
    nodes = [*status.active_nodes, *status.idle_nodes]
    totals = [node.total_resources() for node in nodes]
    hosts = too_large = others = 0
    for demand in status.resource_demands.ray_task_actor_demand:
        for wanted in demand.bundles_by_count:
            fits = _fits(wanted.bundle, totals)
            if mark not in wanted.bundle:
                others += wanted.count * fits
            elif fits:
                hosts += wanted.count
            else:
                too_large += wanted.count
    for group in status.resource_demands.placement_group_demand:
        others += all(_fits(part.bundle, totals) for part in group.bundles_by_count)
    free = (round(node.available_resources().get("CPU", 0.0), 4) for node in nodes)
    return Waiting(
        hosts=hosts, too_large=too_large, others=others, cpus=cpus,
        free=max(free, default=0.0), largest=max((total.get("CPU", 0.0) for total in totals), default=0.0),
    )  # fmt: skip


def _fits(bundle: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> bool:
    wanted = {name: amount for name, amount in bundle.items() if not name.startswith(IMPLICIT)}
    return any(all(node.get(name, 0.0) >= amount for name, amount in wanted.items()) for node in nodes)

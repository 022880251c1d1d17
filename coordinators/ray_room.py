"""What waits for room in a Ray cluster, as its own autoscaler is told."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import ray
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import RayError

from coordinators.room import Waiting

_logger = logging.getLogger("callboard.coordinator")

_WITHIN_S = 5
_EXACT = 1e-4  # Ray's own


def waiting(cpus: float) -> Waiting:
    """What waits beside hosts of so many CPUs. Nobody does where more room is on its way, or no node is large enough."""
    try:
        return count(get_cluster_status(ray.get_runtime_context().gcs_address, timeout=_WITHIN_S), cpus)
    except RayError as error:
        _logger.warning("Ray does not tell what waits for room: %s", str(error).splitlines()[0])
        return Waiting()


def count(status: ClusterStatus, cpus: float) -> Waiting:
    """The same, of a status of the cluster."""
    if status.pending_launches or status.pending_nodes:
        return Waiting()
    nodes = [node.total_resources() for node in [*status.active_nodes, *status.idle_nodes]]
    hosts = others = 0
    for demand in status.resource_demands.ray_task_actor_demand:
        for wanted in demand.bundles_by_count:
            if not _fits(wanted.bundle, nodes):
                continue
            if _is_host(wanted.bundle, cpus):
                hosts += wanted.count
            else:
                others += wanted.count
    for group in status.resource_demands.placement_group_demand:
        others += all(_fits(part.bundle, nodes) for part in group.bundles_by_count)
    return Waiting(hosts=hosts, others=others)


def _is_host(bundle: Mapping[str, float], cpus: float) -> bool:
    return bundle.keys() == {"CPU"} and math.isclose(bundle["CPU"], cpus, abs_tol=_EXACT)


def _fits(bundle: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> bool:
    return any(all(node.get(name, 0.0) >= amount for name, amount in bundle.items()) for node in nodes)

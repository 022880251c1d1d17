"""One database is led from one Ray; embedded services serve one machine."""

from __future__ import annotations

from typing import cast

import pytest

from bus.errors import ServiceUnavailable
from callboard import ray_cluster
from callboard.ray_process import RayProcess
from callboard.services import Endpoints
from storage.connect import create_pool
from storage.placement import claim_coordinator
from tests.integration.cli import desk_at_work, until


async def test_a_database_whose_hosts_run_in_another_ray_is_refused(
    services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "FORGOTTEN_AFTER_S", 0.5)
    async with desk_at_work(
        services, database, monkeypatch
    ) as desk:  # its host says that its node is `local`
        await until(lambda: desk.fetch("select from hosts join heartbeats using (domain, epoch)"))
        await ray_cluster._check_not_elsewhere(desk.pool, ["local", "another"])
        with pytest.raises(ServiceUnavailable, match=r"in another Ray: desk-\S+ on its node local"):
            await ray_cluster._check_not_elsewhere(desk.pool, ["another"])
        await desk.forsake()
        await desk.kill_hosts()  # a Ray that has just died does not keep the next one from starting
        await ray_cluster._check_not_elsewhere(desk.pool, ["another"])


async def test_deployments_have_namespaces_by_database(services: Endpoints, database: str) -> None:
    pools = [
        await create_pool(url, application="callboard-test", size=1)
        for url in (database, f"{database}&sslmode=disable", services.postgres_url)
    ]
    try:
        one, same, other = [await ray_cluster.namespace_of(pool) for pool in pools]
    finally:
        for pool in pools:
            pool.terminate()
    assert one == same != other
    assert one.startswith("callboard-")


def test_embedded_services_are_refused_for_a_ray_of_several_machines() -> None:
    def endpoints(postgres: bool, nats: bool) -> Endpoints:
        return Endpoints(postgres_url="p", nats_url="n", embedded_postgres=postgres, embedded_nats=nats)

    ray_cluster._check_reachable(endpoints(True, True), {"192.0.2.1"})
    ray_cluster._check_reachable(endpoints(False, False), {"192.0.2.1", "192.0.2.2"})
    for given, variable in ((endpoints(True, False), "POSTGRES"), (endpoints(False, True), "NATS")):
        with pytest.raises(ServiceUnavailable, match=f"CALLBOARD_{variable}_URL"):
            ray_cluster._check_reachable(given, {"192.0.2.1", "192.0.2.2"})


class Ray:
    """Stands for the driver in a process of its own: remembers what it was told."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def call(self, name: str, **_: object) -> None:
        self.called.append(name)


@pytest.mark.parametrize(("runs", "ends"), [("0.0.1", True), ("9999.0", False), ("unreleased", False)])
async def test_coordinators_of_an_older_release_make_room_for_this_one(
    database: str, runs: str, ends: bool
) -> None:
    pool = await create_pool(database, application="callboard-test", size=1)
    try:
        await claim_coordinator(pool, "master", "node")
        ray = Ray()
        assert not await ray_cluster._end_older_coordinators(cast(RayProcess, ray), pool)
        await pool.execute("update coordinators set release = $1", runs)
        assert await ray_cluster._end_older_coordinators(cast(RayProcess, ray), pool) is ends
        assert ray.called == ["end_coordinators"] * ends
    finally:
        pool.terminate()

"""`callboard up A B` where both have code of the same names."""

from __future__ import annotations

from pathlib import Path

from actors.code_apart import code_apart
from bus.nats import NatsTransport
from callboard.cluster import Cluster
from callboard.services import Endpoints
from callboard.settings import Settings
from storage.connect import create_pool
from storage.domains import all_domains
from tests.unit.test_code_apart import domain


async def test_each_is_registered_with_its_own_kinds(
    services: Endpoints, database: str, tmp_path: Path
) -> None:
    pool = await create_pool(database, application="callboard-test", size=1)
    transport = await NatsTransport.connect(services.nats_url, name="test")
    cluster = Cluster(Settings(home=tmp_path), services, pool, transport)
    for folder in (domain(tmp_path, "left", "lamp"), domain(tmp_path, "right", "rope")):
        with code_apart():
            await cluster.add_domain(folder)
    rows = {row.domain: row.kinds for row in await all_domains(pool)}
    assert ("lamp" in rows["left"], "rope" in rows["left"]) == (True, False)
    assert ("lamp" in rows["right"], "rope" in rows["right"]) == (False, True)
    await transport.close()
    pool.terminate()

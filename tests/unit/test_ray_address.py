"""A Ray that is not there is said to be so at once, not after a minute."""

from __future__ import annotations

import pytest

from bus.errors import ServiceUnavailable
from callboard.ray_cluster import check_ray


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
async def test_an_address_where_nothing_listens_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(host: str, port: int) -> None:
        raise ConnectionRefusedError("refused") if port < 65_536 else OverflowError("no such port")

    monkeypatch.setattr("asyncio.open_connection", refuse)
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        await check_ray(address)


async def test_a_name_is_left_to_ray() -> None:
    await check_ray("auto")

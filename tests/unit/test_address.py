"""Addresses, and the partitions that rows on disk depend on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.address import MAX_KEY_BYTES, Address, parse_address, partition_of
from bus.errors import InvalidAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("secops/watchman/1.2.3.4", Address("secops", "watchman", "1.2.3.4")),
        ("a/b/c", Address("a", "b", "c")),
        ("a-1/b_2/with/slashes//", Address("a-1", "b_2", "with/slashes//")),
        ("a/b/Ünïcode 😀 and spaces\n", Address("a", "b", "Ünïcode 😀 and spaces\n")),
        ("a/b/" + "k" * MAX_KEY_BYTES, Address("a", "b", "k" * MAX_KEY_BYTES)),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text
    assert address.agent == text.split("/", 1)[1]


@pytest.mark.parametrize(
    "text",
    ["", "a", "a/b", "a/b/", "/b/c", "a//c", "A/b/c", "a/B/c", "1a/b/c", "a b/b/c", "a/b\n/c", "ä/b/c",
     "a/b/NUL\0", "a/b/half \ud800", "a/b/" + "k" * (MAX_KEY_BYTES + 1), "a/b/" + "é" * (MAX_KEY_BYTES // 2 + 1),
     "a" * 64 + "/b/c"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidAddress):
        parse_address(text)


@pytest.mark.parametrize(
    ("tenant", "agent", "of_64", "of_4096"),
    [
        ("default", "watchman/1.2.3.4", 11, 2379),
        ("default", "watchman/::1", 16, 2576),
        ("acme", "watchman/1.2.3.4", 54, 2486),
        ("default", "order/é/ü", 23, 3991),
        ("default", "task/0", 4, 1732),
    ],
)
def test_partitions_are_the_same_in_every_release(tenant: str, agent: str, of_64: int, of_4096: int) -> None:
    assert partition_of(tenant, agent, 64) == of_64
    assert partition_of(tenant, agent, 4096) == of_4096
    assert partition_of(tenant, agent, 1) == 0


@given(st.text(min_size=1, max_size=40).filter(lambda t: "\0" not in t), st.integers(1, 4096))
def test_every_agent_has_a_partition(key: str, partitions: int) -> None:
    try:
        address = parse_address(f"a/b/{key}")
    except InvalidAddress:
        return
    assert 0 <= partition_of("default", address.agent, partitions) < partitions


def test_partitions_are_filled_evenly() -> None:
    counts = [0] * 64
    for index in range(6_400):
        counts[partition_of("default", f"watchman/10.0.{index // 256}.{index % 256}", 64)] += 1
    assert min(counts) > 60
    assert max(counts) < 150

"""Partitions are spread evenly, all of them, with as few moves as possible."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.domain import HostSpec
from coordinators.plan import plan_partitions
from coordinators.scaling import Load, desired_hosts

hosts_and_wanted = st.integers(1, 40).flatmap(
    lambda partitions: st.tuples(
        st.just(partitions),
        st.lists(st.integers(1, 12), unique=True, max_size=8),
        st.dictionaries(st.integers(1, 12), st.frozensets(st.integers(0, partitions - 1)), max_size=10),
    )
)


@given(hosts_and_wanted)
def test_every_partition_has_one_host_and_no_host_two_more_than_another(
    given: tuple[int, list[int], dict[int, frozenset[int]]],
) -> None:
    partitions, hosts, wanted = given
    plan = plan_partitions(partitions, hosts, wanted)
    assert set(plan) == set(hosts)
    if hosts:
        assert sorted(p for owned in plan.values() for p in owned) == list(range(partitions))
        sizes = [len(owned) for owned in plan.values()]
        assert max(sizes) - min(sizes) <= 1


@given(hosts_and_wanted)
def test_a_plan_that_is_followed_does_not_change(
    given: tuple[int, list[int], dict[int, frozenset[int]]],
) -> None:
    partitions, hosts, wanted = given
    plan = plan_partitions(partitions, hosts, wanted)
    assert plan_partitions(partitions, hosts, plan) == plan


def test_a_host_that_joins_takes_only_its_share() -> None:
    before = plan_partitions(64, [1, 2], {})
    after = plan_partitions(64, [1, 2, 3], before)
    moved = [p for host in (1, 2) for p in before[host] - after[host]]
    assert len(moved) == len(after[3]) == 21


def test_a_host_that_dies_moves_only_its_own() -> None:
    before = plan_partitions(64, [1, 2, 3], {})
    after = plan_partitions(64, [1, 3], before)
    assert before[1] <= after[1]
    assert before[3] <= after[3]


SPEC = HostSpec(min=1, max=3, grow_above=100, shrink_below=10, cool_down_s=5)


def scaled(hosts: int, backlog: int, since_s: float = 60.0) -> int:
    return desired_hosts(SPEC, Load(hosts=hosts, backlog=backlog, since_change_s=since_s))


def test_hosts_follow_the_backlog_one_at_a_time_within_their_bounds() -> None:
    assert scaled(0, 0) == 1
    assert scaled(1, 101) == 2
    assert scaled(2, 10_000) == 3
    assert scaled(3, 10_000) == 3
    assert scaled(2, 100) == 2
    assert scaled(3, 29) == 2
    assert scaled(1, 0) == 1
    assert scaled(9, 0) == 3


def test_nothing_changes_while_it_cools_down() -> None:
    assert scaled(1, 10_000, since_s=4.9) == 1
    assert scaled(3, 0, since_s=4.9) == 3

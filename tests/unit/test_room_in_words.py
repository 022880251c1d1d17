"""What hosts wait for, and what makes room for them, in words."""

from __future__ import annotations

from msgspec.structs import replace

from callboard.room import lack_mend, lack_text
from storage.lack import Lack

LACK = Lack(hosts=2, cpus=0.5, free=0.25, largest=2.0, others=0)


def test_what_each_asks_for_stands_beside_what_is_free() -> None:
    assert lack_text(LACK) == (
        "2 hosts wait for room in Ray: each asks for 0.5 CPU, and no node has more than 0.25 free"
    )
    assert lack_text(replace(LACK, hosts=1, cpus=2.0, free=0.0, others=3)) == (
        "1 host waits for room in Ray: each asks for 2 CPUs, and none is free; "
        "3 more of other domains or models wait as well"
    )
    for way in ("`hosts.cpus`", "`hosts.min`", "another domain", "more nodes"):
        assert way in lack_mend("desk", LACK)


def test_a_host_that_no_node_is_large_enough_for_is_not_helped_by_other_domains() -> None:
    large = replace(LACK, cpus=3.0, others=1)
    assert (
        lack_text(large) == "2 hosts wait for room in Ray: each asks for 3 CPUs, and the largest node has 2"
    )
    assert "another domain" not in lack_mend("desk", large)
    assert "`hosts.cpus` in the domain.yaml of desk" in lack_mend("desk", large)


def test_a_domain_that_waits_for_its_turn_names_whose_it_is() -> None:
    waits = replace(LACK, behind="shop")
    assert lack_text(waits).startswith("2 hosts wait until those of shop are ready")
    assert "shop" in lack_mend("desk", waits)
    assert "`hosts.cpus`" not in lack_mend("desk", waits)

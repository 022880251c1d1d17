"""New code of domains whose hosts have all CPUs of the machine, as Ray counts them, and hosts that find none left."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import DESK
from tests.acceptance.program import Program, read_until
from tests.acceptance.test_own_cluster import CALLER, MIRROR, domain
from tests.conftest import make_home


@pytest.fixture
def alone() -> Iterator[Program]:
    folder = make_home()
    program = Program(folder / "home")
    yield program
    program("down")
    assert program.survivors() == []
    shutil.rmtree(folder)


@pytest.mark.timeout(300)
def test_it_takes_the_place_of_the_old_one(alone: Program, tmp_path: Path) -> None:
    folder = tmp_path / "desk"
    shutil.copytree(DESK, folder)
    written = folder / "domain.yaml"
    written.write_text(written.read_text().replace("max: 1}", f"max: 1, cpus: {os.cpu_count()}}}"))
    alone("up", "--detach", "--without-gateway", folder)
    (folder / "new.py").write_text("")
    alone("up", "--detach", "--without-gateway", folder)  # ends once the newest code is ready


@pytest.mark.long  # 40 s; tests/integration/test_full_cluster.py has two domains and no room in a cluster that is played
@pytest.mark.timeout(300)
def test_two_domains_take_turns_and_a_third_is_told_that_there_is_no_room(
    alone: Program, tmp_path: Path
) -> None:
    up = ("up", "--detach", "--without-gateway")
    quarter = (os.cpu_count() or 1) / 4
    both = [domain(tmp_path, "caller", CALLER), domain(tmp_path, "mirror", MIRROR)]
    for folder in both:
        takes(folder, hosts=2, cpus=quarter)
    alone(*up, *both)
    codes = newest(alone)
    for folder in both:
        (folder / "new.py").write_text("")
    said = alone(*up, *both).stderr  # ends once the newest code of both is ready
    assert ": 2 hosts wait " in said  # for room, or for the lease
    assert newest(alone).keys() == codes.keys()
    assert not set(newest(alone).values()) & set(codes.values())
    third = domain(tmp_path, "third", MIRROR)
    takes(third, hosts=1, cpus=quarter)
    waits = alone.start(*up, third)
    read_until(waits, "third: 1 host waits for room in Ray")
    assert "third: 1 host waits for room in Ray" in alone("status").stdout
    lacks = {c["name"]: c["lack"] for c in json.loads(alone("status", "--json").stdout)["coordinators"]}
    assert lacks["third"] == {
        "hosts": 1, "cpus": quarter, "free": 0.0, "largest": 4 * quarter, "others": 0, "behind": None,
    }  # fmt: skip
    found = {f["check"]: f for f in json.loads(alone("doctor", "--json", code=1).stdout)["findings"]}
    assert found["room"]["status"] == "fail"
    assert "`hosts.cpus`" in found["room"]["mend"]
    takes(third, hosts=1, cpus=0)
    alone(*up, third)
    waits.communicate(timeout=60)
    assert waits.returncode == 0


def takes(folder: Path, *, hosts: int, cpus: float) -> None:
    written = folder / "domain.yaml"
    lines = [line for line in written.read_text().splitlines() if not line.startswith("hosts:")]
    lines.append(f"hosts: {{min: {hosts}, max: {hosts}, cpus: {cpus}}}")
    written.write_text("\n".join(lines))


def newest(alone: Program) -> dict[str, str]:
    found = json.loads(alone("domains", "--json").stdout)["domains"]
    return {each["domain"]: each["code"] for each in found}

"""Sources that behaved alike, by the packaged model behind the gateway of `callboard up`; and without it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.acceptance.program import Program
from tests.conftest import make_home
from tests.unit.secops.triage_run import EXAMPLE, SAMPLE, comparable, real_log, reference

# Three clusters and a torch: two to three minutes. tests/unit/secops/test_analyst.py has the short forms, with a played model.
pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

ALIKE = {
    SAMPLE: [
        ["2001:db8:51a:1::9", "2001:db8:bad::17"],
        [f"198.51.100.{n}" for n in (32, 38, 62, 74, 26, 44, 68)],
        [f"198.51.100.{n}" for n in (56, 20, 50)],
    ]
}
# Of the last in the second group the rules say nothing: it is of another network, and did too little by itself.
REAL = [
    ["123.235.32.19", "5.36.59.76", "106.5.5.195", "60.2.12.12"],
    ["103.207.39.16", "103.207.39.212", "195.154.37.122"],
    ["104.192.3.34", "191.210.223.172"],
    ["183.136.162.51", "175.102.13.6"],
]


@pytest.fixture(scope="module")
def served() -> Iterator[Program]:
    """A Callboard with its gateway, whose model is loaded: that takes as long as the machine is busy."""
    folder = make_home()
    program = Program(folder / "home")
    program("up", "--detach")
    gateway = json.loads(program("gateway", "--json").stdout)["base_url"]
    key = program("gateway", "--key").stdout.strip()
    answer = httpx2.post(
        f"{gateway}/embeddings",
        json={"model": "all-MiniLM-L6-v2", "input": "root"},
        headers={"authorization": f"Bearer {key}"},
        timeout=180,
    )
    assert answer.status_code == 200, answer.text
    yield program
    program("down")
    assert program.survivors() == []
    shutil.rmtree(folder)


def triage(program: Program, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        program("run", EXAMPLE, "--input", path, "--approve", "policy", "--json").stdout
    )
    return found


def alike(report: dict[str, Any]) -> list[list[str]]:
    return [group["addresses"] for group in report["groups"]]


def test_the_packaged_model_finds_the_sources_that_behaved_alike(served: Program) -> None:
    for log in filter(None, (SAMPLE, real_log())):
        found = triage(served, log)
        assert alike(found) == ALIKE.get(log, REAL)
        assert comparable(found) | {"groups": None} == reference(log)
        assert found["groups_note"] == ""
        assert "## Groups" in found["markdown"]


def test_the_same_file_again_and_its_twin_have_the_same_groups(served: Program) -> None:
    found = triage(served, SAMPLE)
    assert comparable(triage(served, SAMPLE)) == comparable(found)
    assert triage(served, EXAMPLE / "sample" / "auth-iso.log.gz")["groups"] == found["groups"]


def test_once_the_gateway_is_gone_a_report_says_so_and_what_was_compared_is_known(
    served: Program, tmp_path: Path
) -> None:
    before = triage(served, SAMPLE)["groups"]
    served("down")
    (tmp_path / "log").write_text(SAMPLE.read_text("utf-8") + "one line more\n", "utf-8")
    found = triage(served, tmp_path / "log")  # `run` starts what it needs, which is no gateway
    assert comparable(found) == reference(tmp_path / "log")
    assert found["groups"] is None
    assert "The model gateway cannot be reached" in found["groups_note"]
    assert triage(served, SAMPLE)["groups"] == before

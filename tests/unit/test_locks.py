"""The lock files hold versions and hashes, no download addresses, and what the code beside them imports."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VLLM = ROOT / "requirements-vllm.lock"
LOCKS = [*(path.name for path in sorted(ROOT.glob("*.lock"))), "benchmarks/peers/requirements.lock"]
OURS = {"bus", "storage", "actors", "coordinators", "pipelines", "serve", "callboard"}


def pins(lock: Path) -> dict[str, str]:
    """The version of each distribution; of one that depends on the machine, any of them."""
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def imported(package: Path) -> Iterator[str]:
    """The names at the top of what a package's modules import, wherever they do."""
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (one.name.partition(".")[0] for one in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
                yield node.module.partition(".")[0]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_versions_and_hashes_and_no_address(name: str) -> None:
    lock = ROOT / name
    entries = re.split(r"\n(?=\S)", lock.read_text().strip())
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==\S+( ; [^\\]+)? \\\n", entry), entry
        assert re.fullmatch(r"( +--hash=sha256:[0-9a-f]{64}( \\)?\n?)+", entry.split("\n", 1)[1]), entry


def test_the_lock_of_vllm_has_all_that_its_module_imports() -> None:
    distributions = packages_distributions()
    wanted = {
        distributions[name][0].lower().replace("_", "-")
        for name in imported(ROOT / "serve" / "vllm")
        if name not in OURS | sys.stdlib_module_names
    }
    assert {"ray", "pydantic", "fastapi", "starlette"} == wanted
    assert wanted <= pins(VLLM).keys()


def test_the_lock_of_vllm_has_the_ray_that_is_tested_here_and_the_vllm_that_it_asks_for() -> None:
    found = pins(VLLM)
    assert found["ray"] == version("ray")
    asked = [re.match(r"vllm\[?.*?\]?==([^;\s]+)", one) for one in requires("ray") or ()]
    assert [one[1] for one in asked if one] == [found["vllm"]]
    assert {"hatchling", "editables", "asyncpg", "nats-py"} <= found.keys()  # for Callboard itself

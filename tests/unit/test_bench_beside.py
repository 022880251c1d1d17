"""What stands beside our own steps a second: the figures of two scripts that run after ours."""

import json
from pathlib import Path
from typing import Any

import pytest

from bus.errors import ServiceUnavailable, SettingsError
from callboard.bench import beside
from callboard.bench.steps import Load, Report

OURS = Report(
    steps_per_s=1_000.0, p50_ms=1.0, p99_ms=2.0, turns_per_s=100.0, commits_per_s=10.0, mean_group=100.0, steps=50, turns=5,
    steps_a_turn=10, agents=5, seconds=0.05, hosts=2, host_mib=100, ready_s=8.0, processors=2,
)  # fmt: skip


def test_whoever_has_no_checkout_with_dbos_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.steps_dbos.PEERS", tmp_path / "python")
    with pytest.raises(SettingsError, match="make peers"):
        beside.require_checkout()
    (tmp_path / "python").touch()
    beside.require_checkout()
    monkeypatch.setattr("callboard.bench.beside.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="from a checkout"):
        beside.require_checkout()


def script(folder: Path, name: str, body: str) -> None:
    package = folder / "benchmarks"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / f"{name}.py").write_text(f"import json, sys\n{body}\n")


async def test_both_are_measured_with_our_load_and_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = "open('{}', 'w').write(json.dumps(sys.argv[1:]))\nprint('what a library says first')\nprint(json.dumps({}))"
    script(tmp_path, "steps_limit", told.format(tmp_path / "limit", {"limit_steps_per_s": 4_000}))
    script(tmp_path, "steps_dbos", told.format(tmp_path / "dbos", {"steps_per_s": 250.0}))
    monkeypatch.chdir(tmp_path)
    found = await beside.measure_beside(
        Load(hosts=2, agents=300, turns=200, steps=10), OURS, lambda line: None
    )
    assert (found.limit_steps_per_s, found.of_limit) == (4_000, 0.25)
    assert (found.dbos_steps_per_s, found.times_dbos) == (250.0, 4.0)

    def words(name: str) -> Any:
        return json.loads((tmp_path / name).read_text())

    assert words("limit") == ["--agents=200", "--turns=200", "--steps=10", "--json"]
    assert words("dbos") == ["--inflight=100", "--turns=200", "--steps=10", "--json"]


async def test_a_script_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(tmp_path, "steps_limit", "sys.exit(3)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServiceUnavailable, match=r"benchmarks\.steps_limit has ended with status 3"):
        await beside.measure_beside(Load(hosts=2, agents=3, turns=2, steps=10), OURS, lambda line: None)

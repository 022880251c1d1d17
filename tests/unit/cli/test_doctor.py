"""What the doctor says of this machine."""

from __future__ import annotations

import errno
import json
import os
import shlex
from pathlib import Path

import asyncpg
import pytest

from callboard.cli.main import invoke
from callboard.doctor import GOOD, Finding, examine_data_folder, examine_machine
from callboard.doctor.machine import _fits
from callboard.ray_head import RayHead
from callboard.settings import Settings


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.60.0", ">=2.60,<3", True),
        ("3.0.0", ">=2.60,<3", False),
        ("2.9", ">=2.60", False),
        ("0.32.0", "<0.33,>=0.32", True),
        ("2.16.0rc1", ">=2.16", True),
        ("1", "", True),
    ],
)
def test_versions_are_compared_as_numbers(version: str, wanted: str, fits: bool) -> None:
    assert _fits(version, wanted) is fits


def test_this_installation_is_in_order(tmp_path: Path) -> None:
    found = {finding.check: finding for finding in examine_machine(Settings(home=tmp_path / "home"), None)}
    for check in ("versions", "private files", "listening", "ray"):
        assert found[check].status == GOOD, found[check]


@pytest.mark.parametrize("name", ["credentials.json", "gateway.key", "secrets/API KEY"])
def test_a_password_file_that_others_can_read_is_a_failure(tmp_path: Path, name: str) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / name).write_text("{}")
    (tmp_path / name).chmod(0o600)
    assert _private_files(tmp_path).status == "good"
    (tmp_path / name).chmod(0o644)
    (tmp_path / "secrets").chmod(0o755)
    for mode, status in (
        (0o711, "fail"),
        (0o700, "warn"),
    ):  # of the data folder, which nobody may pass through
        tmp_path.chmod(mode)
        found = _private_files(tmp_path)
        assert found.status == status
        assert shlex.split(found.mend) == ["chmod", "600", str(tmp_path / name)]


def test_a_secret_in_a_folder_that_only_its_owner_may_enter_is_private(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir(mode=0o700)
    (tmp_path / "secrets" / "KEY").write_text("secret")
    (tmp_path / "secrets" / "KEY").chmod(0o644)
    assert _private_files(tmp_path).status == "good"
    (tmp_path / "secrets").chmod(0o755)
    tmp_path.chmod(0o711)
    assert _private_files(tmp_path).status == "fail"


def _private_files(home: Path) -> Finding:
    found = {finding.check: finding for finding in examine_machine(Settings(home=home), None)}
    return found["private files"]


@pytest.mark.parametrize(("mode", "status"), [("token", "good"), ("", "warn")])
def test_a_ray_of_somebody_elses_needs_a_token(
    mode: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    settings = Settings(home=tmp_path, ray_address="127.0.0.1:6379")
    found = {finding.check: finding for finding in examine_machine(settings, None)}
    assert found["ray token"].status == status


def test_a_ray_head_without_a_record_is_named_with_its_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayHead, "unrecorded", lambda self: os.getpid())
    found = {finding.check: finding for finding in examine_machine(Settings(home=tmp_path), None)}
    assert found["ray head"].status == "warn"
    assert f"process {os.getpid()}" in found["ray head"].detail
    assert "`callboard down`" in found["ray head"].mend
    assert "ray ports" in found
    elsewhere = Settings(home=tmp_path, ray_address="127.0.0.1:6379")
    assert "ray head" not in {finding.check for finding in examine_machine(elsewhere, None)}


def test_services_of_somebody_elses_are_looked_at_also_while_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refused(*_: object, **__: object) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)")

    monkeypatch.setattr(asyncpg, "connect", refused)
    monkeypatch.setenv("CALLBOARD_HOME", str(tmp_path))
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", "postgresql://u:s3cret@127.0.0.1:1/db")
    assert invoke(["doctor", "--json"]) == 1
    said = capsys.readouterr().out
    found = {each["check"]: each for each in json.loads(said)["findings"]}
    assert found["postgres"]["status"] == "fail"
    assert found["postgres"]["detail"] == "Postgres at u@127.0.0.1:1/db cannot be used: connection refused."
    assert "CALLBOARD_POSTGRES_URL" in found["postgres"]["mend"]
    assert "nats" not in found
    assert found["events"]["detail"].startswith("none yet")
    assert "data" not in found
    assert "s3cret" not in said


def test_a_nats_that_does_not_run_is_not_said_to_be_in_order(tmp_path: Path) -> None:
    (tmp_path / "nats" / "jetstream").mkdir(parents=True)
    [finding] = [found for found in examine_data_folder(Settings(home=tmp_path)) if found.check == "events"]
    assert finding.detail.startswith("NATS does not run")

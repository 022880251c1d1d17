"""Settings: defaults, limits, and errors that name the variable and show no secret."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import pytest

from bus.errors import SettingsError
from callboard.settings import Settings, is_local_ray, load_settings

SECRET = "hunter2-very-secret"


def test_defaults() -> None:
    settings = load_settings()
    assert settings.postgres_url is None
    assert settings.nats_url is None
    assert settings.ray_address is None
    assert settings.tenant == "default"


def test_home_is_one_folder_per_machine_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load_settings().home == Path("/var/lib/callboard")


def test_home_is_below_the_users_home_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/ada")
    assert load_settings().home == Path("/home/ada/.local/share/callboard")


def test_a_tilde_in_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("CALLBOARD_HOME", "~/data")
    assert load_settings().home == Path("/home/ada/data")


@pytest.mark.parametrize("below", ["", "/folder/in/it"])
def test_a_home_that_is_a_file_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CALLBOARD_HOME", f"{tmp_path}/file{below}")
    with pytest.raises(SettingsError, match=f"CALLBOARD_HOME: must be a folder; {tmp_path}/file is none"):
        load_settings()


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", "")
    monkeypatch.setenv("RAY_ADDRESS", "")
    settings = load_settings()
    assert settings.postgres_url is None
    assert settings.ray_address is None


def test_both_names_of_the_ray_address_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert load_settings().ray_address == "127.0.0.1:6379"
    monkeypatch.setenv("CALLBOARD_RAY_ADDRESS", "127.0.0.1:6380")
    assert load_settings().ray_address == "127.0.0.1:6380"


def test_rays_word_for_a_ray_of_ones_own_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert load_settings().ray_address is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CALLBOARD_POSTGRES_URL", f"mysql://ada:{SECRET}@db/callboard"),
        ("CALLBOARD_NATS_URL", f"http://ada:{SECRET}@nats:4222"),
        ("CALLBOARD_NATS_URL", f"nats://nats:4222,ada:{SECRET}@other:4222"),
        ("CALLBOARD_TENANT", f"Two Words {SECRET}"),
        ("CALLBOARD_LOG_LEVEL", SECRET),
        ("CALLBOARD_HOME", "relative/folder"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    text = str(caught.value)
    assert text.startswith(f"{variable}: ")
    assert caught.value.fix
    assert "\n" not in text
    assert SECRET not in text
    assert SECRET not in repr(caught.value)
    assert caught.value.__suppress_context__


def test_passwords_are_not_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", f"postgresql://ada:{SECRET}@db/callboard")
    monkeypatch.setenv("CALLBOARD_NATS_URL", f"nats://ada:{SECRET}@nats:4222")
    settings = load_settings()
    assert settings.postgres_url is not None
    assert settings.postgres_url.get_secret_value() == f"postgresql://ada:{SECRET}@db/callboard"
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.model_dump())


@pytest.mark.parametrize("missing", ["CALLBOARD_POSTGRES_URL", "CALLBOARD_NATS_URL"])
def test_a_remote_ray_with_an_embedded_service_is_refused(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.7:6379")
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", "postgresql://ada@db/callboard")
    monkeypatch.setenv("CALLBOARD_NATS_URL", "nats://nats:4222")
    assert load_settings().ray_address == "192.0.2.7:6379"
    monkeypatch.delenv(missing)
    with pytest.raises(SettingsError, match=f"another machine.*{missing}"):
        load_settings()


@pytest.mark.parametrize(
    "address",
    ["auto", "local", "localhost:6379", "127.0.0.1:6379", "ray://127.0.0.1:10001", "[::1]:6379", "::1"],
)
def test_ray_addresses_of_this_machine(address: str) -> None:
    assert is_local_ray(address)


def test_this_machines_name_is_this_machine() -> None:
    assert is_local_ray(f"{socket.gethostname()}:6379")


@pytest.mark.parametrize("address", ["192.0.2.7:6379", "ray://head.example:10001", "[2001:db8::1]:6379"])
def test_ray_addresses_of_other_machines(address: str) -> None:
    assert not is_local_ray(address)


def test_settings_are_frozen_and_travel_between_processes() -> None:
    settings = Settings(home=Path("/data"))
    with pytest.raises(ValueError, match="frozen"):
        settings.tenant = "other"
    assert pickle.loads(pickle.dumps(settings)) == settings

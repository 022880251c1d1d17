"""Callboard's settings: the one place that reads the environment.

Every field can be set as `CALLBOARD_<FIELD>`; `RAY_ADDRESS` is Ray's own name and is honoured as well.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Literal, Self

import psutil
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bus.complaints import in_plain_words
from bus.errors import SettingsError

POSTGRES_SCHEMES = ("postgresql://", "postgres://")
_TENANT = re.compile(r"[a-z][a-z0-9_-]{0,62}")
MIN_EVENTS_BYTES = 64 * 1024
MAX_EVENTS_BYTES = 1024 * 1024 * 1024 * 1024  # as much as the embedded NATS would keep
MIN_EVENTS_PER_NAME = 1_000
MAX_KEPT_S = 3650 * 24 * 3600.0
NATS_SCHEMES = ("nats://", "tls://", "ws://", "wss://")


def default_home() -> Path:
    """Where the embedded services keep their data: one folder per machine as root, else per user."""
    return Path("/var/lib/callboard") if os.geteuid() == 0 else Path("~/.local/share/callboard").expanduser()


class Settings(BaseSettings):
    """What can be set from outside. Frozen; URLs are secrets, because they carry passwords.

    A wrong value raises pydantic's error here; `load_settings` turns it into a `SettingsError`.
    """

    model_config = SettingsConfigDict(
        env_prefix="CALLBOARD_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    home: Path = Field(default_factory=default_home)
    """Data folder of the embedded services."""

    postgres_url: SecretStr | None = None
    """An external Postgres; unset means the embedded one."""

    nats_url: SecretStr | None = None
    """An external NATS, or several separated by commas; unset means the embedded one."""

    ray_address: str | None = Field(
        default=None, validation_alias=AliasChoices("CALLBOARD_RAY_ADDRESS", "RAY_ADDRESS")
    )
    """A running Ray; unset, or `local`, means one that Callboard starts on this machine."""

    events_bytes: int | None = Field(default=None, ge=MIN_EVENTS_BYTES, le=MAX_EVENTS_BYTES)
    """How large the stream of events may grow; unset leaves it as it is, 4 GiB at first. Full, it refuses events."""

    events_per_name: int | None = Field(default=None, ge=MIN_EVENTS_PER_NAME)
    """How many events of one name a domain may have in the stream; unset leaves it as it is, 1,000,000 at first. Past
    that the stream refuses those, and takes others."""

    events_kept_s: float | None = Field(default=None, ge=0, le=MAX_KEPT_S)
    """How long an event stays in the stream after it is in a mailbox; unset leaves it as it is, a day at first."""

    tenant: str = "default"
    """The tenant whose agents and tasks this process works on."""

    secrets: Path | None = None
    """Folder of the tools' secrets, one file each, on every node; unset means `secrets` in the data folder."""

    models: Path | None = None
    """models.yaml, which says what the model gateway offers; unset means `models.yaml` in the data folder."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe log line that is written."""

    @field_validator("home", "secrets", "models")
    @classmethod
    def _absolute(cls, folder: Path | None) -> Path | None:
        if folder is None:
            return None
        try:
            folder = folder.expanduser()
        except RuntimeError as error:
            raise ValueError("names a home folder that cannot be found") from error
        if not folder.is_absolute():
            raise ValueError("must be an absolute path")
        return folder

    @field_validator("home")
    @classmethod
    def _no_file(cls, home: Path) -> Path:
        with contextlib.suppress(OSError):  # what may not be looked at is said where it is used
            found = next(path for path in (home, *home.parents) if path.exists())
            if not found.is_dir():
                raise ValueError(f"must be a folder; {found} is none")
        return home

    @property
    def secrets_folder(self) -> Path:
        return self.secrets or self.home / "secrets"

    @property
    def models_path(self) -> Path:
        return self.models or self.home / "models.yaml"

    @field_validator("tenant")
    @classmethod
    def _is_a_word(cls, tenant: str) -> str:
        if not _TENANT.fullmatch(tenant):
            raise ValueError("must be a word of at most 63 lower-case letters, digits, - and _")
        return tenant

    @field_validator("postgres_url")
    @classmethod
    def _postgres_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(POSTGRES_SCHEMES):
            raise ValueError("must look like postgresql://user:password@host:port/database")
        return url

    @field_validator("nats_url")
    @classmethod
    def _nats_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            for part in url.get_secret_value().split(","):
                if not part.strip().startswith(NATS_SCHEMES):
                    raise ValueError("must look like nats://user:password@host:port")
        return url

    @field_validator("ray_address")
    @classmethod
    def _own_ray(cls, address: str | None) -> str | None:
        # Ray's word for one of the process's own, which would end with each command.
        return None if address == "local" else address

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, level: object) -> object:
        return level.lower() if isinstance(level, str) else level

    @model_validator(mode="after")
    def _remote_ray_needs_reachable_services(self) -> Self:
        # The embedded services listen on this machine only: a host on another one could not reach them.
        if self.ray_address is None or is_local_ray(self.ray_address):
            return self
        for url, variable in ((self.postgres_url, "POSTGRES"), (self.nats_url, "NATS")):
            if url is None:
                raise ValueError(
                    f"RAY_ADDRESS names another machine, which cannot reach the embedded services: "
                    f"set CALLBOARD_{variable}_URL as well"
                )
        return self


def is_local_ray(address: str) -> bool:
    """Whether a Ray address (`host:port`, `ray://host:port`, `auto`, `local`) is on this machine."""
    if address in ("auto", "local"):
        return True
    netloc = address.removeprefix("ray://").split("/", 1)[0]
    host = netloc.rsplit(":", 1)[0] if netloc.count(":") == 1 or "]" in netloc else netloc
    host = host.strip("[]")
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return False
    own = {a.address.split("%")[0] for found in psutil.net_if_addrs().values() for a in found}
    return literal.is_loopback or str(literal) in own


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises `SettingsError`, one line that names the variable and never shows a URL.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise _as_settings_error(error) from None


def _as_settings_error(error: ValidationError) -> SettingsError:
    first = error.errors(include_url=False, include_input=False)[0]
    reason = in_plain_words(first)
    if not first["loc"]:
        return SettingsError(f"{reason}.", fix="Correct the environment and try again.")
    field = str(first["loc"][0])
    variable = field if field.isupper() else f"CALLBOARD_{field.upper()}"
    return SettingsError(
        f"{variable}: {reason}.", fix=f"Correct or unset {variable} and try again.", variable=variable
    )

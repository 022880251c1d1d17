"""Secrets of tools: named in code, kept in files, never recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bus.errors import InvalidTool, MissingSecret

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,100}")


@dataclass(frozen=True)
class Secret:
    """Marks a tool's parameter: `token: Annotated[str, Secret("FIREWALL_TOKEN")]`."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidTool(
                f"{self.name!r} cannot be the name of a secret.",
                fix="Use letters, digits, _, . and -, beginning with a letter.",
            )


class Secrets(Protocol):
    def read(self, name: str) -> str:
        """Raises MissingSecret."""
        ...


class SecretFolder:
    """One file for each secret, read when it is needed: one that is changed counts from the next call on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> str:
        try:
            return (self._folder / name).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise MissingSecret(
                f"The secret {name} cannot be read: {why}.", fix=f"Write it to {self._folder / name}."
            ) from None


class GivenSecrets:
    """Secrets given as values: for tests."""

    def __init__(self, secrets: Mapping[str, str] = {}) -> None:
        self._secrets = dict(secrets)

    def read(self, name: str) -> str:
        try:
            return self._secrets[name]
        except KeyError:
            raise MissingSecret(
                f"There is no secret {name}.", fix="Give it to the kit: secrets=..."
            ) from None


def redact(text: str, secrets: Iterable[tuple[str, str]]) -> str:
    """The text with `[NAME]` wherever the value of a secret stands in it, as such or in JSON."""
    for name, value in secrets:
        if value:
            text = text.replace(value, f"[{name}]").replace(json.dumps(value)[1:-1], f"[{name}]")
    return text

"""Secrets of tools: named in code, kept in files, never recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
                f"The secret {name} cannot be read: {why}.",
                fix=f"Write it to {self._folder / name}, with mode 600.",
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
    for name, value in sorted(secrets, key=lambda secret: -len(secret[1])):  # one may be a part of another
        for written in _written(value):
            text = text.replace(written, f"[{name}]")
    return text


def redact_json(text: str, secrets: Sequence[tuple[str, str]]) -> str:
    """The same of JSON text, which stays JSON: the strings in it are changed, and numbers that are a secret."""
    if not any(written in text for _, value in secrets for written in _written(value)):
        return text
    return json.dumps(_redacted(json.loads(text), secrets), ensure_ascii=False)


def _redacted(value: Any, secrets: Sequence[tuple[str, str]]) -> Any:
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, list):
        return [_redacted(item, secrets) for item in value]
    if isinstance(value, dict):
        return {redact(key, secrets): _redacted(item, secrets) for key, item in value.items()}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return next((f"[{name}]" for name, secret in secrets if secret == repr(value)), value)
    return value


def _written(value: str) -> list[str]:
    return [value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]] if value else []

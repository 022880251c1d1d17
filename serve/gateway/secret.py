"""The keys of upstreams, read when a call is made."""

from __future__ import annotations

from dataclasses import dataclass

from actors.secret import Secrets
from bus.errors import MissingSecret
from serve.gateway.errors import ApiError
from serve.gateway.models_file import ModelsFile, UpstreamSpec


@dataclass(frozen=True, kw_only=True)
class MissingKey:
    """Of an upstream which these models ask; `secret` is its name in models.yaml."""

    upstream: str
    secret: str
    models: tuple[str, ...]
    why: str
    fix: str


def key_of(upstream: str, spec: UpstreamSpec, secrets: Secrets) -> str | None:
    """None for a server that asks for none. Raises ApiError that says where to put a key that is missing."""
    if spec.api_key is None:
        return None
    try:
        key = secrets.read(spec.api_key)
    except MissingSecret as error:
        raise _missing(upstream, error) from None
    if not key or not key.isascii() or not key.isprintable():
        raise _missing(
            upstream, MissingSecret(f"The secret {spec.api_key} holds no key.", fix="Write one into it.")
        )
    return key


def has_key(upstream: str, spec: UpstreamSpec, secrets: Secrets) -> bool:
    """Also where none is asked for."""
    try:
        key_of(upstream, spec, secrets)
    except ApiError:
        return False
    return True


def missing_keys(file: ModelsFile, secrets: Secrets) -> list[MissingKey]:
    """Those that a model's request would be refused for, or passed on to its next target."""
    found = []
    for name, spec in file.upstreams.items():
        models = tuple(
            model for model, its in file.models.items() if any(t.upstream == name for t in its.targets)
        )
        if spec.api_key is None or not models:
            continue
        try:
            key_of(name, spec, secrets)
        except ApiError as error:
            found.append(
                MissingKey(
                    upstream=name, secret=spec.api_key, models=models, why=error.message, fix=error.fix
                )
            )
    return found


def _missing(upstream: str, error: MissingSecret) -> ApiError:
    return ApiError(
        f"The upstream {upstream} has no key: {error.message}",
        fix=error.fix,
        status=503,
        kind="configuration_error",
        code="upstream_not_configured",
        elsewhere=True,
    )

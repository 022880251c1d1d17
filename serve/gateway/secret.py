"""The key of an upstream, read when a call is made."""

from __future__ import annotations

from actors.secret import Secrets
from bus.errors import MissingSecret
from serve.gateway.errors import ApiError
from serve.gateway.models_file import UpstreamSpec


def key_of(upstream: str, spec: UpstreamSpec, secrets: Secrets) -> str | None:
    """None for a server that asks for none. Raises ApiError that says where to put a key that is missing."""
    if spec.api_key is None:
        return None
    try:
        key = secrets.read(spec.api_key)
    except MissingSecret as error:
        raise _missing(upstream, error) from None
    if not key or not key.isascii() or not key.isprintable():
        raise _missing(upstream, MissingSecret(f"The secret {spec.api_key} holds no key."))
    return key


def _missing(upstream: str, error: MissingSecret) -> ApiError:
    return ApiError(
        f"The upstream {upstream} has no key: {error.message}",
        fix=error.fix,
        status=503,
        kind="configuration_error",
        code="upstream_not_configured",
        elsewhere=True,
    )

"""What the gateway refuses or cannot do, with the HTTP status and the body that an OpenAI client expects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bus.errors import CallboardError


class ApiError(CallboardError):
    """An answer that is an error.

    `status` is the HTTP status; `kind`, `code` and `param` are OpenAI's. `again`: the same upstream may answer a second
    try; `elsewhere`: another upstream may. `unwell`: it speaks against the upstream's health.
    """

    def __init__(
        self,
        message: str,
        *,
        fix: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        again: bool = False,
        elsewhere: bool = False,
        unwell: bool = False,
    ) -> None:
        fields = {name: value for name, value in locals().items() if name in _FIELDS}
        super().__init__(message, fix=fix, **fields)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.again = again
        self.elsewhere = elsewhere
        self.unwell = unwell

    def body(self) -> dict[str, Any]:
        return {
            "error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code},
        }

    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds, rounded up; or that the SDKs need not try again by themselves."""
        found = {}
        if self.retry_after_s is not None:
            found["retry-after"] = str(max(1, -int(-self.retry_after_s // 1)))
        elif self.status >= 500 or (self.status == 429 and not self.again):
            found["x-should-retry"] = "false"  # the gateway has tried as often as it makes sense
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found


_FIELDS = frozenset(
    ("status", "kind", "code", "param", "retry_after_s", "again", "elsewhere", "unwell"),
)


def unsupported(param: str, why: str) -> ApiError:
    """A parameter that an upstream's API does not have; left out in silence, the answer would not be what was asked."""
    return ApiError(
        f"{param}: {why}.",
        fix="Leave it out, let models.yaml `drop` it for this target, or ask a model of another upstream.",
        code="unsupported_parameter",
        param=param,
        elsewhere=True,
    )


def malformed(upstream: str, why: str) -> ApiError:
    return ApiError(
        f"The upstream {upstream} has answered with something that cannot be read: {why}.",
        status=502,
        kind="upstream_error",
        code="upstream_malformed",
        again=True,
        elsewhere=True,
        unwell=True,
    )


def none_has_answered(model: str, failures: Iterable[tuple[str, ApiError]]) -> ApiError:
    """One error for a whole chain of upstreams: the first one's, or, of several, one that a second try may mend."""
    met = list(failures)
    if len(met) == 1:
        return met[0][1]
    chosen = next((error for _, error in met if error.again), met[0][1])
    waits = [error.retry_after_s for _, error in met if error.retry_after_s is not None]
    return ApiError(
        f"No upstream of {model} has answered. " + " ".join(f"{name}: {error}" for name, error in met),
        fix="",
        status=chosen.status,
        kind=chosen.kind,
        code=chosen.code,
        param=chosen.param,
        retry_after_s=min(waits, default=None),
        again=chosen.again,
    )

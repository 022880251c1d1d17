"""What a model that runs here refuses, or cannot do."""

from __future__ import annotations

from serve.gateway.errors import ApiError
from serve.local.batcher import Busy


def too_long(what: str, limit: int, param: str) -> ApiError:
    return _more_than(f"{what} has more than {limit:,} tokens", param)


def too_many_characters(what: str, limit: int, param: str) -> ApiError:
    """Of few tokens: blanks are none, and a long word may be one."""
    return _more_than(f"{what} has more than {limit:,} characters", param)


def _more_than(has_more: str, param: str) -> ApiError:
    return ApiError(
        f"{has_more}, the most that this model reads.",
        fix="Split it, or send `truncate: true` to have the rest left out.",
        code="context_length_exceeded",
        param=param,
    )


def too_many_dimensions(model: str, wanted: int, there: int) -> ApiError:
    return ApiError(f"dimensions: {wanted:,} are asked for, and {model} has {there:,}.", param="dimensions")


def busy(model: str, error: Busy) -> ApiError:
    return ApiError(
        f"{model} has {error.waiting:,} tokens to do before this request.",
        fix="Try again later.",
        status=429,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_s=error.retry_after_s,
        elsewhere=True,
    )


def not_installed(model: str) -> ApiError:
    return _not_loaded(
        f"{model} cannot run here: the packages for local models are not installed.",
        "Install them with `pip install 'callboard[models]'` (in its repository: `make models`).",
        code="models_not_installed",
    )


def not_loaded(model: str, why: str, fix: str = "") -> ApiError:
    return _not_loaded(
        f"{model} cannot be loaded: {why}", fix or "Correct models.yaml, or the model's folder."
    )


def failed(model: str, why: str) -> ApiError:
    return ApiError(
        f"{model} has failed: {why}",
        status=500,
        kind="server_error",
        code="model_failed",
        elsewhere=True,
    )


def no_numbers(model: str, what: str) -> ApiError:
    return failed(model, f"its {what} are no numbers; set `dtype: float32` for it.")


def gone(model: str) -> ApiError:
    """Its process has ended."""
    return ApiError(
        f"The process of {model} has ended before it answered.",
        status=502,
        kind="upstream_error",
        code="upstream_unreachable",
        again=True,
        elsewhere=True,
        unwell=True,
    )


def _not_loaded(message: str, fix: str, code: str = "model_not_loaded") -> ApiError:
    return ApiError(message, fix=fix, status=503, kind="configuration_error", code=code, elsewhere=True)

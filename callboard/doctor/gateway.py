"""The model gateway: whether the one that was wanted runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus.errors import InvalidModelsFile
from callboard.doctor.finding import Finding, fail, good, warn
from callboard.gateway import LocalGateway

if TYPE_CHECKING:
    from callboard.settings import Settings

_CHECK = "model gateway"


async def examine_gateway(settings: Settings) -> list[Finding]:
    """Whether it runs: nothing where none was wanted in the Ray that runs here; and whether models.yaml has what it needs."""
    local = LocalGateway(settings)
    return await _examine_service(local) + _examine_models(local)


async def _examine_service(local: LocalGateway) -> list[Finding]:
    if (why := local.failure()) is not None:
        mend = "Mend that and `callboard up --detach` again; with --without-gateway none is wanted."
        return [warn(_CHECK, f"it was to be served, and is not: {why}", mend)]
    if (url := local.base_url()) is None:
        return []
    if not await local.answers():
        return [fail(_CHECK, f"nothing answers at {url}", "`callboard up --detach` starts it again.")]
    return [good(_CHECK, f"{url} answers")]


def _examine_models(local: LocalGateway) -> list[Finding]:
    try:
        missing = local.missing_keys()
    except InvalidModelsFile as error:
        return [fail("models.yaml", error.message, error.fix)]
    return [warn("model keys", f"{', '.join(one.models)}: {one.why}", one.fix) for one in missing]

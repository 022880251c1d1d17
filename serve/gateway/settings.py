"""What a gateway is started with."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """`models` is the text of models.yaml, `models_path` where people find it; `postgres_url` is where answers are shared,
    and carries a password."""

    key: str = field(repr=False)
    postgres_url: str | None = field(default=None, repr=False)
    models: str = ""
    models_path: str = "models.yaml"


@dataclass(frozen=True, kw_only=True)
class ServedGateway:
    """The same for one in Ray; `secrets` is a folder, on every node."""

    settings: GatewaySettings
    secrets: str
    log_level: str
    port: int

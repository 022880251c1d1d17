"""The model gateway: what commands need of it. `app.Gateway` is the application, which brings the SDKs along."""

from .key import make_key
from .models_file import ModelsFile, parse_models, read_models
from .settings import GatewaySettings, ServedGateway

__all__ = [
    "GatewaySettings",
    "ModelsFile",
    "ServedGateway",
    "make_key",
    "parse_models",
    "read_models",
]

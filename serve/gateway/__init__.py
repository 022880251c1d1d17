"""The model gateway."""

from .app import Gateway, GatewaySettings
from .key import make_key, read_key
from .models_file import ModelsFile, parse_models, read_models

__all__ = [
    "Gateway",
    "GatewaySettings",
    "ModelsFile",
    "make_key",
    "parse_models",
    "read_key",
    "read_models",
]

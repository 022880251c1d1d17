"""What the SDKs would take from the environment, unasked: keys, organizations, headers, URLs of other programs."""

from __future__ import annotations

import os

_PREFIXES = ("OPENAI_", "ANTHROPIC_")


def forget_sdk_settings() -> None:
    """For a process that is a gateway's own: all that it sends is from models.yaml and the secrets that it names."""
    for name in [name for name in os.environ if name.startswith(_PREFIXES)]:
        del os.environ[name]

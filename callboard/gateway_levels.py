"""How well the models of a gateway are served just now, as it says itself."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException

from actors.model_gateway import GatewayAddress

_WITHIN_S = 1.0


def levels(address: GatewayAddress) -> dict[str, str] | None:
    """By model: normal, fallback, cache, rules or none. None where it does not answer. Blocks for a second at most."""
    connection = HTTPConnection("127.0.0.1", address.port, timeout=_WITHIN_S)
    try:
        connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {address.key}"})
        answer = connection.getresponse()
        listed = json.loads(answer.read())["data"] if answer.status == 200 else None
        return None if listed is None else {str(one["id"]): str(one["level"]) for one in listed}
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()

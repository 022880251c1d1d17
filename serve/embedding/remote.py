"""An embedding model in Ray Serve, as the gateway asks it."""

from __future__ import annotations

import asyncio
from typing import Any

import ray.exceptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from serve.embedding import refusals
from serve.embedding.batcher import Busy
from serve.embedding.embedder import Embedded, EmbedRequest
from serve.gateway.errors import ApiError


class RemoteEmbedder:
    """Implements serve.embedding.embedder.Embedder with a handle of a deployment."""

    def __init__(self, model: str, handle: Any) -> None:
        self._model = model
        self._handle = handle

    async def embed(self, request: EmbedRequest) -> Embedded:
        response = self._handle.embed.remote(request)
        try:
            found: Embedded | ApiError = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            raise refusals.busy(self._model, Busy(0, 1.0)) from None
        except (ray.exceptions.RayError, DeploymentUnavailableError, RequestCancelledError):
            raise refusals.gone(self._model) from None
        if isinstance(found, ApiError):
            raise found
        return found

"""The HTTP application: authorisation, limits and answers."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from docsgpt_embtune.gateway.config import Limits
from docsgpt_embtune.gateway.counters import GatewayMetrics
from docsgpt_embtune.gateway.model import GatewayModel
from docsgpt_embtune.gateway.protocol import (
    EmbeddingsRequest,
    Offer,
    RequestError,
    answer,
    parse_request,
    refuse_other_model,
)

RETRY_AFTER = 1  # seconds, after which some of the waiting requests are answered
RETRY_AFTER_STOP = 10  # seconds, after which a server that is just being restarted has loaded its model
# A client whose connection is closed while it sends never reads the error message. So a body that is too large is read
# to its end and discarded, up to this many times the limit.
HEARD_OUT = 8
CLIENT_LEFT = 499  # nginx's status for a client that is gone; it only shows in the metrics
BODY_TIMEOUT = 30.0  # seconds that a client may take to send its body


class Gateway:
    """The HTTP interface to one model's embeddings.

    Args:
        model: The model that embeds.
        name: The model's name for clients.
        fingerprint: The model's fingerprint, for `/v1/models`.
        limits: Limits beyond which requests are refused.
        api_key: The key that requests under `/v1` must carry; without it, keys are ignored.

    Attributes:
        taken: Number of accepted requests for embeddings.
        waiting: Number of those that are not answered yet.
        cut_off: Number of those that the server's stop left unanswered.
    """

    def __init__(
        self, model: GatewayModel, name: str, fingerprint: str, limits: Limits, api_key: str | None = None
    ) -> None:
        self.model = model
        self.offer = Offer(name, model.dimension, limits.max_texts)
        self.fingerprint = fingerprint
        self.limits = limits
        self.metrics = GatewayMetrics()
        self.taken = self.waiting = self.cut_off = 0
        self._api_key = api_key

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/health", self._health),
                Route("/metrics", self._metrics),
            ],
            exception_handlers={RequestError: _refused, HTTPException: _not_found, Exception: _failed},
        )

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": self.offer.name, "dimension": self.offer.dimension})

    async def _metrics(self, _request: Request) -> Response:
        return Response(self.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    async def _models(self, request: Request) -> Response:
        self._refuse_stranger(request)
        return JSONResponse({"object": "list", "data": [self._entry]})

    async def _model(self, request: Request) -> Response:
        self._refuse_stranger(request)
        refuse_other_model(request.path_params["name"], self.offer)
        return JSONResponse(self._entry)

    @property
    def _entry(self) -> dict[str, Any]:
        return {
            "id": self.offer.name,
            "object": "model",
            "created": 0,
            "owned_by": "docsgpt-embtune",
            "dimension": self.offer.dimension,
            "fingerprint": self.fingerprint,
        }

    async def _embeddings(self, request: Request) -> Response:
        try:
            response = await self._take(request)
        except RequestError as error:
            self.metrics.requests.labels(error.status).inc()
            raise
        except Exception:  # answered by `_failed`
            self.metrics.requests.labels(500).inc()
            raise
        self.metrics.requests.labels(response.status_code).inc()
        return response

    async def _take(self, request: Request) -> Response:
        self._refuse_stranger(request)
        if self.waiting >= self.limits.max_requests:
            raise RequestError(
                429,
                f"{self.limits.max_requests} requests are waiting already; ask again in {RETRY_AFTER} s",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(RETRY_AFTER)},
            )
        self.taken += 1
        self.waiting += 1
        self.metrics.in_flight.inc()
        try:
            asked = parse_request(await self._body(request), self.offer)
            return await self._embed(asked, request.is_disconnected)
        except ClientDisconnect as error:
            raise RequestError(CLIENT_LEFT, "the client left before its answer was there") from error
        except asyncio.CancelledError as error:  # raised by uvicorn when the time to finish is over
            self.cut_off += 1
            raise RequestError(
                503,
                f"the server was stopped before the answer was there; ask again in {RETRY_AFTER_STOP} s",
                code="service_unavailable",
                headers={"Retry-After": str(RETRY_AFTER_STOP)},
            ) from error
        finally:
            self.waiting -= 1
            self.metrics.in_flight.dec()

    async def _embed(self, asked: EmbeddingsRequest, has_left: Callable[[], Awaitable[bool]]) -> Response:
        kind = "question" if asked.is_question else "document"
        started = time.perf_counter()
        if asked.is_question:
            embedded = await self.model.embed_question(asked.texts[0])
        else:
            embedded = await self.model.embed_documents(asked.texts, has_left)
        content = await asyncio.to_thread(answer, asked, embedded.vectors, embedded.tokens, self.offer.name)
        self.metrics.seconds.labels(kind).observe(time.perf_counter() - started)
        self.metrics.texts.labels(kind).inc(len(embedded.vectors))
        return Response(content, media_type="application/json")

    async def _body(self, request: Request) -> bytes:
        body, size = bytearray(), 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                async for part in request.stream():
                    size += len(part)
                    if size <= self.limits.max_body:
                        body += part
                    elif size > HEARD_OUT * self.limits.max_body:
                        break
        except TimeoutError as error:
            raise RequestError(408, f"the request did not arrive within {BODY_TIMEOUT:g} s") from error
        except ClientDisconnect as error:
            raise RequestError(400, "the client left before its request had arrived") from error
        if size > self.limits.max_body:
            raise RequestError(
                413,
                f"the request has {size} bytes or more, at most {self.limits.max_body} are taken; send it in parts",
                headers={"Connection": "close"},
            )
        return bytes(body)

    def _refuse_stranger(self, request: Request) -> None:
        if self._api_key is None:
            return
        header = request.headers.get("authorization", "")
        scheme, _, rest = header.partition(" ")
        given = rest.strip() if scheme.lower() == "bearer" else header
        # Compared in constant time, so that the duration does not reveal how much of a key is right.
        if not hmac.compare_digest(given.encode(), self._api_key.encode()):
            raise RequestError(
                401,
                "the API key is missing or wrong; in DocsGPT's .env set EMBEDDINGS_KEY to the server's EMBTUNE_API_KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.to_json(), error.status, headers=error.headers)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}; the embeddings are at POST /v1/embeddings"
    return JSONResponse(RequestError(error.status_code, message).to_json(), error.status_code, headers=error.headers)


async def _failed(_request: Request, error: Exception) -> Response:
    message = f"the model failed ({type(error).__name__}); the server's log says why"
    return JSONResponse(RequestError(500, message).to_json(), 500)

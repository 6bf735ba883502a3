"""The whole site: the API and the page behind one address, with what guards and counts them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline import __version__
from pipeline.serve_config import ServeConfig
from pipeline.serving.admission import RESTART_SECONDS, Admission
from pipeline.serving.answers import (
    Enhanced,
    Heard,
    Labelled,
    Limits,
    Problem,
    Progress,
    RefusedError,
    ServedModel,
    Upload,
    untold,
)
from pipeline.serving.api import Api
from pipeline.serving.guards import UPLOADS, allowed_hosts, guarded
from pipeline.serving.labelling import LabelService
from pipeline.serving.metrics import Metrics
from pipeline.serving.problems import (
    REASON_HEADER,
    add_problem_handlers,
    problem_of,
    problem_response,
)
from pipeline.serving.rates import RateLimiter
from transforms.records import FloatArray

_API_PATHS = ("/v1/", "/health/", "/metrics", "/openapi.json")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FORM_BYTES = 1 << 16  # of a form beside its files
_OTHER_BYTES = 64 << 20  # of all else, such as the page's events, which are read into memory
_BURST_SECONDS = 5  # of a client's rate, all at once
_DESCRIPTION = """\
Labels sound files: the rows are those that the batch pipeline writes for the same bytes.

Errors are `application/problem+json` (RFC 9457); their `reason` is a code of a closed set.
"""


class Counted:
    """Counts the requests of the API and their seconds."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status = time.perf_counter(), 499  # the client left before it was answered
        reason: str | None = None

        async def send_noted(message: Message) -> None:
            nonlocal status, reason
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = dict(message["headers"])
                reason = headers.get(REASON_HEADER.lower().encode(), b"").decode() or None
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            if scope["path"].startswith(_API_PATHS):
                # Whoever asks chooses the method, and each one would be a time series.
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.requests.labels(route, method, status).inc()
                self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
            if reason is not None:
                self._metrics.errors.labels(reason).inc()


class LastWord:
    """Answers requests that are cut off when the server ends: nothing else cancels them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except asyncio.CancelledError:
            if scope["type"] == "http" and not has_begun:
                message = "the server ended before this was done; ask it again when it is back"
                refused = RefusedError(Problem.SHUTTING_DOWN, message, RESTART_SECONDS)
                await problem_response(refused)(scope, receive, send)


class Site:
    """Sends requests to the API or to the page, which may be there later.

    Parameters
    ----------
    api : ASGI application
    has_page : bool
        Or will have one.
    """

    def __init__(self, api: ASGIApp, *, has_page: bool) -> None:
        self._api = api
        self.page: ASGIApp | None = None
        self.has_page = has_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return  # a lifespan: pipeline.serving.server starts and stops all
        if scope["path"].startswith(_API_PATHS) or not self.has_page:
            return await self._api(scope, receive, send)
        if self.page is not None:
            return await self.page(scope, receive, send)
        await self._starting(scope, receive, send)

    async def _starting(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: Response
        if scope["path"] == "/":
            answer = Response("starting …", 503, {"Refresh": "1", "Retry-After": "1"}, "text/plain")
        else:
            refused = RefusedError(Problem.OVERLOADED, "the page is not loaded yet", 1)
            answer = problem_response(refused)
        await answer(scope, receive, send)


class AdmittedService:
    """The service as the page knows it: each file that is handed in needs admission.

    Parameters
    ----------
    service : LabelService
    admission : Admission
    metrics : Metrics
        Count what fails.
    """

    def __init__(self, service: LabelService, admission: Admission, metrics: Metrics) -> None:
        self._service, self._admission, self._metrics = service, admission, metrics

    @property
    def models(self) -> Sequence[ServedModel]:
        """As the service's."""
        return self._service.models

    @property
    def limits(self) -> Limits:
        """As the service's."""
        return self._service.limits

    async def label(
        self, upload: Upload, *, picture: bool = False, told: Callable[[Progress], None] = untold
    ) -> Labelled:
        """As the service's."""
        with self._entered():
            return await self._service.label(upload, picture=picture, told=told)

    async def enhance(self, upload: Upload) -> Enhanced:
        """As the service's."""
        with self._entered():
            return await self._service.enhance(upload)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """Admitted; counted if it fails, but for being busy: the page tries that again."""
        try:
            with self._admission.enter():
                yield
        except Exception as error:
            reason = problem_of(error).reason
            if reason != Problem.BUSY.value:
                self._metrics.errors.labels(reason).inc()
            raise

    async def playable(self, upload: Upload, codec: str) -> Path:
        """As the service's; of a file that was admitted before."""
        return await self._service.playable(upload, codec)

    async def follow(
        self, stream_id: str, samples: FloatArray, sample_rate_hz: int, state: bytes | None
    ) -> Heard:
        """As the service's."""
        with self._entered():
            return await self._service.follow(stream_id, samples, sample_rate_hz, state)


def api_app(api: Api) -> FastAPI:
    """The API as an application of its own."""
    app = FastAPI(
        title="Catalog Labels",
        version=__version__,
        description=_DESCRIPTION,
        redoc_url=None,
        docs_url=None,  # both would load scripts from another host
    )
    app.include_router(api.router)
    add_problem_handlers(app)
    return app


def guarded_site(site: Site, config: ServeConfig, metrics: Metrics, policy: str) -> ASGIApp:
    """The site behind its guards; ``policy`` is the page's Content-Security-Policy."""
    rate = config.rate_per_second
    one = config.limits.upload_bytes + _FORM_BYTES
    several = config.limits.batch_files * one
    limits = {"/v1/labels": one, "/v1/labels:batch": several, UPLOADS: several, "": _OTHER_BYTES}
    app = guarded(
        LastWord(site),
        content_security_policy=policy,
        body_bytes=limits,
        hosts=allowed_hosts(config.host, config.allowed_hosts),
        api_key=config.api_key,
        min_free_bytes=config.min_free_disk_mib << 20,
        rate=None if rate is None else RateLimiter(rate, max(1, round(_BURST_SECONDS * rate))),
    )
    return Counted(app, metrics)

"""The routes of the API; what they mean is said in docs/serving.md and at /openapi.json."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import math
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Security
from fastapi.responses import JSONResponse, Response
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, ValidationError

from pipeline import __version__
from pipeline.serving import metrics as metrics_module
from pipeline.serving import schemas
from pipeline.serving.admission import Admission
from pipeline.serving.answers import Labelled, Problem, RefusedError, Upload
from pipeline.serving.connected import while_connected
from pipeline.serving.deadlines import Deadline
from pipeline.serving.labelling import LabelService
from pipeline.serving.memory import MemoryWatch
from pipeline.serving.metrics import Metrics
from pipeline.serving.problems import problem_of
from pipeline.serving.uploads import local_upload, received_files, shown_name
from pipeline.serving.uris import resolve_uri
from transforms.errors import Reason, StageError
from transforms.storage.json_lines import to_json_line

_JSON_BYTES = 1 << 20  # of a request by uri
_AT_ONCE = 8  # files of one batch that are worked on
Body = TypeVar("Body", bound=BaseModel)

_KEYS = [  # told to whoever reads /openapi.json; the guards look at them
    Security(HTTPBearer(auto_error=False)),
    Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
]
_TURNED_DOWN = {
    "s401": "A key is asked for.",
    "s413": "Too many bytes, or too many seconds of sound.",
    "s422": "The request or the sound cannot be worked on; `reason` says why.",
    "s429": "As much is in work as may be, or this client asks too often; see Retry-After.",
    "s500": "Something went wrong here.",
    "s503": "Memory is short, or the server is being stopped; see Retry-After.",
    "s504": "It took longer than a request may.",
}
_OF_URIS = {"s403": "The uri is not in a folder that may be asked for.", "s404": "No such file."}
_LABEL_PROBLEMS = schemas.problems(**_TURNED_DOWN, **_OF_URIS)
_BATCH_PROBLEMS = schemas.problems(**_TURNED_DOWN)


@dataclass(frozen=True)
class Source:
    """A file that a request is about."""

    uri: str  # as it may be shown
    find: Callable[[], Awaitable[Upload]]


class JsonAnswer(JSONResponse):
    """JSON as the batch pipeline writes it: times in ISO 8601."""

    def render(self, content: Any) -> bytes:
        return to_json_line(content).encode()


@dataclass(frozen=True)
class Api:
    """What the routes work with."""

    service: LabelService
    admission: Admission
    memory: MemoryWatch
    metrics: Metrics
    temporary: Path  # folder for uploads
    roots: tuple[str, ...]  # see pipeline.serving.uris.checked_roots
    has_key: bool = False  # a key is asked for: see pipeline.serving.guards.ApiKey

    @property
    def router(self) -> APIRouter:
        """All routes."""
        router = APIRouter()
        keyed = _KEYS if self.has_key else []
        router.add_api_route(
            "/v1/labels", self.label, methods=["POST"], tags=["labels"],
            response_model=schemas.LabelledFile, responses=_LABEL_PROBLEMS,
            openapi_extra=schemas.request_body(schemas.ByUri), dependencies=keyed,
        )  # fmt: skip
        router.add_api_route(
            "/v1/labels:batch", self.label_batch, methods=["POST"], tags=["labels"],
            response_model=schemas.LabelledBatch, responses=_BATCH_PROBLEMS,
            openapi_extra=schemas.request_body(
                schemas.ByUris, self.service.limits.batch_files
            ), dependencies=keyed,
        )  # fmt: skip
        router.add_api_route(
            "/v1/models", self.models, methods=["GET"], tags=["models"],
            response_model=schemas.Served,
            responses=schemas.problems(s401=_TURNED_DOWN["s401"], s503="Not loaded yet."),
            dependencies=keyed,
        )  # fmt: skip
        router.add_api_route(
            "/health/live", self.live, methods=["GET"], tags=["health"],
            response_model=schemas.Alive,
        )  # fmt: skip
        router.add_api_route(
            "/health/ready", self.ready, methods=["GET"], tags=["health"],
            response_model=schemas.Ready,
            responses={503: {"model": schemas.Ready, "description": "Not now; `status` says why."}},
        )  # fmt: skip
        router.add_api_route(
            "/metrics", self.measured, methods=["GET"], tags=["health"],
            response_class=Response, dependencies=keyed,
            responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
                       **schemas.problems(s401=_TURNED_DOWN["s401"])},
        )  # fmt: skip
        return router

    async def label(self, request: Request) -> Response:
        """Label one file: sent as a form, or named by its uri."""
        with self.admission.enter():
            deadline = Deadline(self.service.limits.request_seconds)
            async with self._sources(deadline.of_body(request), schemas.ByUri) as sources:
                if len(sources) != 1:
                    raise RefusedError(
                        Problem.INVALID_REQUEST,
                        f"{len(sources)} files; send one, or ask /v1/labels:batch",
                    )
                labelled = await while_connected(request, self._labelled(sources[0], deadline))
        return JsonAnswer(schemas.labelled_json(labelled))

    async def label_batch(self, request: Request) -> Response:
        """Label several files; one that cannot be labelled costs the others nothing."""
        with self.admission.enter():
            deadline = Deadline(self.service.limits.request_seconds)
            async with self._sources(deadline.of_body(request), schemas.ByUris) as sources:
                results = await while_connected(request, self._label_all(sources, deadline))
        return JsonAnswer({"results": results})

    async def models(self) -> Response:
        """What is loaded, and what a request may cost."""
        if not (models := self.service.models):
            raise RefusedError(Problem.OVERLOADED, "the model is not loaded yet; try again", 1)
        limits = self.service.limits
        names = schemas.ServedLimits.model_fields
        return JsonAnswer(
            {
                "version": __version__,
                "models": [schemas.model_json(model) for model in models],
                "limits": {name: getattr(limits, name) for name in names},
            }
        )

    async def live(self) -> Response:
        """Say that the process answers."""
        return JSONResponse({"status": "alive"})

    async def ready(self) -> Response:
        """Whether requests would be taken: the model is loaded, memory is left, nothing stops."""
        loaded, status = self.service.is_able(), "ready"
        if not loaded:
            status = "loading"
        elif self.admission.is_draining:
            status = "shutting_down"
        elif self.memory.over:
            status = "overloaded"
        gpu = await self.service.gpu_memory() if loaded else None
        body = {
            "status": status,
            "model_loaded": loaded,
            "memory_bytes": self.memory.used_bytes,
            "memory_limit_bytes": self.memory.limit_bytes,
            "gpu_memory_free_bytes": gpu and gpu[0],
            "gpu_memory_total_bytes": gpu and gpu[1],
        }
        return JSONResponse(body, 200 if status == "ready" else 503)

    async def measured(self) -> Response:
        """Prometheus' metrics."""
        metrics, service = self.metrics, self.service
        metrics.in_work.set(self.admission.in_work)
        metrics.waiting.set(service.windows_waiting)
        metrics.restarts.set(service.restarts)
        metrics.memory.set(self.memory.used_bytes or 0)
        metrics.memory_limit.set(self.memory.limit_bytes or math.inf)
        if service.is_able() and (gpu := await service.gpu_memory()) is not None:
            metrics.gpu_memory.labels("free").set(gpu[0])
            metrics.gpu_memory.labels("total").set(gpu[1])
        text = await asyncio.to_thread(metrics.text)  # the cache looks at its disk
        return Response(text, media_type=metrics_module.CONTENT_TYPE)

    async def _label_all(self, sources: list[Source], deadline: Deadline) -> list[dict[str, Any]]:
        """Label the files of a batch, a few at a time: it shares the workers with others."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(source: Source) -> dict[str, Any]:
            async with turns:
                try:
                    labelled = await self._labelled(source, deadline)
                except (StageError, RefusedError) as error:
                    self.metrics.errors.labels(problem_of(error).reason).inc()
                    problem = problem_of(error).model_dump(exclude_none=True)
                    return {"uri": source.uri, "result": None, "problem": problem}
            result = schemas.labelled_json(labelled)
            return {"uri": source.uri, "result": result, "problem": None}

        works = [asyncio.ensure_future(one(source)) for source in sources]
        try:
            return await asyncio.gather(*works)
        finally:  # what goes on would do so without its files
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)

    async def _labelled(self, source: Source, deadline: Deadline) -> Labelled:
        upload = await deadline.keep(source.find())
        return await deadline.keep(self.service.label(upload))

    @contextlib.asynccontextmanager
    async def _sources(
        self, request: Request, by_uri: type[BaseModel]
    ) -> AsyncIterator[list[Source]]:
        """The files of a request, which are there until it is answered."""
        most = 1 if by_uri is schemas.ByUri else self.service.limits.batch_files
        if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
            uris = _uris(await _json(request, by_uri))
            if len(uris) > most:
                raise RefusedError(Problem.INVALID_REQUEST, f"more than {most} uris at once")
            with tempfile.TemporaryDirectory(dir=self.temporary) as folder:
                yield [self._by_uri(uri, Path(folder) / str(n)) for n, uri in enumerate(uris)]
            return
        async with received_files(request, self.temporary, self.service.limits, most) as uploads:
            yield [Source(upload.uri, functools.partial(_given, upload)) for upload in uploads]

    def _by_uri(self, uri: str, copy: Path) -> Source:
        async def find() -> Upload:
            found = resolve_uri(uri, self.roots)
            if "://" in found:
                return dataclasses.replace(await self.service.fetch(found, copy), uri=shown)
            limits = self.service.limits
            try:
                return await asyncio.to_thread(local_upload, shown, Path(found), limits, copy)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise StageError(Reason.NOT_FOUND, f"{shown}: no such file") from error
            except PermissionError as error:
                raise StageError(Reason.PERMISSION_DENIED, f"{shown}: may not be read") from error
            except OSError as error:
                told = error.strerror or "no regular file"
                raise StageError(Reason.UNREADABLE, f"{shown}: {told}") from error

        shown = shown_name(uri)
        return Source(shown, find)


async def _given(upload: Upload) -> Upload:
    return upload


def _uris(asked: BaseModel) -> list[str]:
    return asked.uris if isinstance(asked, schemas.ByUris) else [asked.uri]  # type: ignore[attr-defined]


async def _json(request: Request, model: type[Body]) -> Body:
    """A request's JSON, checked."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _JSON_BYTES:
            raise RefusedError(Problem.TOO_LARGE, f"more than {_JSON_BYTES} bytes of JSON")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, found["loc"]))
        told = f"{where}: {found['msg']}" if where else found["msg"]
        raise RefusedError(Problem.INVALID_REQUEST, told) from error

"""Starts and stops the site: workers, model, page, and the address that it listens at."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from pipeline.serve_config import ServeConfig
from pipeline.serving.admission import Admission
from pipeline.serving.api import Api
from pipeline.serving.cache import ResultCache
from pipeline.serving.guards import API_POLICY
from pipeline.serving.labelling import LabelService
from pipeline.serving.memory import MemoryWatch, default_limit_bytes
from pipeline.serving.metrics import Metrics
from pipeline.serving.site import AdmittedService, Site, api_app, guarded_site
from pipeline.serving.uris import checked_roots
from transforms.errors import UsageError

_BACKLOG = 1024
_CLOSE_SECONDS = 1  # for connections that stay open without a request in work


class Server(uvicorn.Server):
    """A uvicorn whose first signal only says that it shall stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.asked_to_stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take SIGTERM or SIGINT; the second one ends at once.

        uvicorn's own would raise the signal again in the end, before anything is tidied up.
        """
        if self.asked_to_stop.is_set():
            self.should_exit = self.force_exit = True
        self._loop.call_soon_threadsafe(self.asked_to_stop.set)


async def serve(config: ServeConfig) -> bool:
    """Serve until a signal says to stop, and what was accepted is answered.

    Returns
    -------
    bool
        Whether all of it was: False if the time was over, or at a second signal.

    Raises
    ------
    UsageError
        If the address is taken, or what was asked for cannot be done.
    """
    started = time.monotonic()
    with (
        _listening(config) as address,
        tempfile.TemporaryDirectory(prefix="catalog-labels-", ignore_cleanup_errors=True) as folder,
        contextlib.closing(_opened_cache(config)) as cache,
    ):
        api = _api(config, cache, Path(folder))
        site = Site(api_app(api), has_page=config.page)
        server = Server(_uvicorn_config(config, site, api.metrics))
        with contextlib.closing(api.service):
            async with (
                api.memory,
                _answering(server, address) as answering,
                contextlib.AsyncExitStack() as until_stopped,
            ):
                _say(f"listening at {_url(address)}, loading {config.model}")
                loading = asyncio.ensure_future(_load(api, site, Path(folder), until_stopped))
                stopping = asyncio.ensure_future(server.asked_to_stop.wait())
                await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
                if loading.done():
                    loading.result()
                    _say(f"ready after {time.monotonic() - started:.1f} s")
                    await stopping
                loading.cancel()
                return await _drained(api.admission, config.shutdown_seconds, answering)


def _api(config: ServeConfig, cache: ResultCache, folder: Path) -> Api:
    """The parts that the API works with."""
    metrics = Metrics(cache)
    mib = config.memory_limit_mib
    memory = MemoryWatch(default_limit_bytes() if mib is None else mib << 20)
    return Api(
        service=LabelService(config, cache, metrics),
        admission=Admission(config.limits, memory.is_over),
        memory=memory,
        metrics=metrics,
        temporary=folder,
        roots=checked_roots(config.limits.roots),
        has_key=config.api_key is not None,
    )


def _uvicorn_config(config: ServeConfig, site: Site, metrics: Metrics) -> uvicorn.Config:
    return uvicorn.Config(
        guarded_site(site, config, metrics, _page_policy() if config.page else API_POLICY),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )


@contextlib.asynccontextmanager
async def _answering(server: Server, address: socket.socket) -> AsyncIterator[asyncio.Future[None]]:
    """Answer requests until the block ends, or a second signal comes."""
    answering = asyncio.ensure_future(server.serve(sockets=[address]))
    try:
        yield answering
    finally:
        # What was accepted is answered: only pages that are open still wait for events, and
        # uvicorn would tell of each as of a fault.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        server.should_exit = True
        await answering


async def _drained(admission: Admission, seconds: float, answering: asyncio.Future[None]) -> bool:
    """Turn new requests away, and wait for the answers to those that were accepted."""
    admission.drain()
    idle = asyncio.ensure_future(admission.wait_until_idle(seconds))
    either: list[asyncio.Future[Any]] = [idle, answering]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    idle.cancel()
    if admission.in_work:
        _say(f"{admission.in_work} requests are not answered: time is up")
    return not admission.in_work


async def _load(
    api: Api, site: Site, folder: Path, until_stopped: contextlib.AsyncExitStack
) -> None:
    """Load the model and, at the same time, the page."""
    service = api.service
    opening = asyncio.ensure_future(service.open())
    try:
        if site.has_page:
            await asyncio.to_thread(_import_page)
            announced = asyncio.ensure_future(service.wait_until_announced())
            await asyncio.wait({opening, announced}, return_when=asyncio.FIRST_COMPLETED)
            if service.models:
                admitted = AdmittedService(service, api.admission, api.metrics)
                app = await asyncio.to_thread(_page_app, admitted, folder / "page")
                await until_stopped.enter_async_context(app.router.lifespan_context(app))
                site.page = app
        await opening
    finally:
        opening.cancel()


def _import_page() -> None:
    from pipeline.serving.page.quick_import import import_gradio

    import_gradio()
    import pipeline.serving.page.blocks  # noqa: F401 - takes seconds, in which the model is loaded


def _page_policy() -> str:
    from pipeline.serving.page.guard import CONTENT_SECURITY_POLICY

    return CONTENT_SECURITY_POLICY


def _page_app(service: AdmittedService, folder: Path) -> FastAPI:
    from pipeline.serving.page.blocks import mount_page

    app = FastAPI(openapi_url=None)
    mount_page(app, service, folder)
    return app


@contextlib.contextmanager
def _listening(config: ServeConfig) -> Iterator[socket.socket]:
    """The address, taken before anything is loaded."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        address = socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"--host={config.host} --port={config.port}: cannot listen there ({error}); choose "
            "another address"
        ) from error
    # Connections inherit it. Without, the body of an answer waits 40 ms for its head's receipt.
    address.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.closing(address):
        yield address


def _opened_cache(config: ServeConfig) -> ResultCache:
    memory_mib = 0 if config.cache is None else config.cache_memory_mib
    return ResultCache(config.cache, memory_mib << 20, config.cache_mib << 20)


def _url(address: socket.socket) -> str:
    host, port = address.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)

"""The page with canned answers on a port of this machine, and a browser.

`page_url` may be overridden, so that the same visits go to a page with a real service.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from pipeline.serving.page.blocks import mount_page
from pipeline.serving.page.guard import CONTENT_SECURITY_POLICY
from tests.pipeline.serving.page.stand_in import StandIn, wav

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MICROPHONE_RATE_HZ = 48_000


def make_app(service: StandIn, folder: Path) -> FastAPI:
    """An application of the page alone, with the headers that it has to bear."""
    app = FastAPI(docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def secured(request: Request, call_next: Callable[[Request], Any]) -> Response:
        response: Response = await call_next(request)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    mount_page(app, service, folder)
    return app


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serve an application on a free port; gives its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.05)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def page_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page keeps what it is given."""
    return tmp_path_factory.mktemp("page") / "uploads"


@pytest.fixture(scope="session")
def shared_service() -> StandIn:
    return StandIn()


@pytest.fixture
def service(shared_service: StandIn) -> StandIn:
    """The service behind the page, with its memory wiped."""
    shared_service.reset()
    return shared_service


@pytest.fixture(scope="module")
def page_url(shared_service: StandIn, page_folder: Path) -> Iterator[str]:
    """The address of a page that runs."""
    with running(make_app(shared_service, page_folder)) as url:
        yield url


@pytest.fixture(scope="module")  # while Playwright runs, its thread has an event loop
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser whose microphone hears a sine without end."""
    from playwright.sync_api import sync_playwright  # its tests are skipped where it is missing

    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    heard = tmp_path_factory.mktemp("microphone") / "sine.wav"
    heard.write_bytes(wav(60.0, rate_hz=MICROPHONE_RATE_HZ))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=executable,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={heard}",
            ],
        )
        yield started
        started.close()

"""Guards and uploads behind a real server: what no test client inside one process does."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request

from pipeline.serving.answers import Limits
from pipeline.serving.guards import guarded
from pipeline.serving.problems import add_problem_handlers
from pipeline.serving.uploads import received_files

LIMIT = 8 << 20
KIND = "multipart/form-data; boundary=edge"
HEAD = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def port(folder) -> Iterator[int]:
    app = FastAPI()
    add_problem_handlers(app)

    @app.post("/v1/labels")
    async def label(request: Request) -> list[str]:
        async with received_files(request, folder, Limits(upload_bytes=LIMIT)) as found:
            return [one.sha256 for one in found]

    outside = guarded(app, content_security_policy="", body_bytes={"": LIMIT + 1_000})
    server = uvicorn.Server(uvicorn.Config(outside, log_level="error", ws="none"))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()
    listening.close()


def emptied(folder: Path) -> bool:
    end = time.monotonic() + 10
    while any(folder.iterdir()) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(folder.iterdir())


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("size", [0, 100_000, LIMIT, LIMIT + 1, 3 * LIMIT])
def test_an_upload(port, folder, size, declared):
    content = b"\r\n-" * (size // 3) + b"x" * (size % 3)
    body = HEAD + content + b"\r\n--edge--\r\n"
    sent = body if declared else iter([body[:70_000], body[70_000:]])
    url = f"http://127.0.0.1:{port}/v1/labels"
    answer = httpx.post(url, content=sent, headers={"content-type": KIND}, timeout=30)
    if size <= LIMIT:
        assert answer.json() == [hashlib.sha256(content).hexdigest()]
    else:
        assert (answer.status_code, answer.json()["reason"]) == (413, "too_large")
    assert emptied(folder)


def test_a_client_that_is_cut_off(port, folder, caplog):
    with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as client:
        client.sendall(
            b"POST /v1/labels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n"
            b"Content-Type: " + KIND.encode() + b"\r\n\r\n" + HEAD + b"x" * 3_000_000
        )
        end = time.monotonic() + 10
        while not any(path.stat().st_size for path in folder.glob("*/*")):
            assert time.monotonic() < end
            time.sleep(0.01)
    assert emptied(folder)
    assert caplog.text == ""

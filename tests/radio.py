"""A radio station on this machine: each path of it does what a test says."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Route = Callable[[BaseHTTPRequestHandler, int], None]  # the request, and how many came before it
PIECE_BYTES = 4_096


class Radio:
    """Serves ``routes`` by path while its context is open."""

    def __init__(self, routes: dict[str, Route]) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []  # paths and headers
        self.over = threading.Event()
        radio = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                before = sum(path == self.path for path, _ in radio.requests)
                radio.requests.append((self.path, dict(self.headers)))
                with contextlib.suppress(OSError):  # the listener went away
                    if self.path in routes:
                        routes[self.path](self, before)
                    else:
                        self.send_error(404)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.radio = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def __enter__(self) -> Radio:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def begin(request: BaseHTTPRequestHandler, **headers: str) -> None:
    request.send_response(200)
    for name, value in {"Content-Type": "audio/mpeg", **headers}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()


def pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]


def endless(content: bytes, bytes_per_second: float = 1e6) -> Route:
    """The same over and over, until nobody listens."""

    def route(request: BaseHTTPRequestHandler, _: int) -> None:
        begin(request)
        over = request.server.radio.over  # type: ignore[attr-defined]
        for piece in itertools.chain.from_iterable(pieces(content) for _ in itertools.count()):
            request.wfile.write(piece)
            if over.wait(len(piece) / bytes_per_second):
                return

    return route


def whole(content: bytes, **headers: str) -> Route:
    """A file, with its length."""

    def route(request: BaseHTTPRequestHandler, _: int) -> None:
        begin(request, Content_Length=str(len(content)), **headers)
        request.wfile.write(content)

    return route


def unfinished(content: bytes) -> Route:
    """Without a length, so that nobody can tell the end from an accident."""

    def route(request: BaseHTTPRequestHandler, _: int) -> None:
        begin(request)
        request.wfile.write(content)

    return route


def stalled(content: bytes) -> Route:
    """Something, and then silence on the line."""

    def route(request: BaseHTTPRequestHandler, _: int) -> None:
        begin(request)
        request.wfile.write(content)
        request.server.radio.over.wait(60)  # type: ignore[attr-defined]

    return route


def chunked(content: bytes, ends: bool) -> Route:
    def route(request: BaseHTTPRequestHandler, _: int) -> None:
        request.protocol_version = "HTTP/1.1"
        begin(request, Transfer_Encoding="chunked", Connection="close")
        for piece in pieces(content):
            request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        request.wfile.write(b"0\r\n\r\n" if ends else b"")
        request.close_connection = True

    return route


def status(code: int, **headers: str) -> Route:
    def route(request: BaseHTTPRequestHandler, _: int) -> None:
        request.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()

    return route


def raw(answer: bytes) -> Route:
    """An answer as it is, status line included."""

    def route(request: BaseHTTPRequestHandler, _: int) -> None:
        request.wfile.write(answer)

    return route


def in_turn(*routes: Route) -> Route:
    """The first request by the first, and so on; later ones by the last."""

    def route(request: BaseHTTPRequestHandler, before: int) -> None:
        routes[min(before, len(routes) - 1)](request, before)

    return route


def wait_for(condition: Callable[[], object], patience_s: float = 20.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)

"""A radio station's stream over http or https, as the bytes come.

Only these two are followed, redirects included, and metadata between the sound is not asked for.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import re
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from transforms.audio.readers import error_text
from transforms.errors import Reason, StageError
from transforms.streaming.live_input import Input

SCHEMES = ("http", "https")
_HEADERS = {"User-Agent": "catalog-labels", "Accept": "audio/*, application/ogg, */*;q=0.5"}

_Register = Callable[[socket.socket], None]


class _Response(http.client.HTTPResponse):
    """Old SHOUTcast servers say ICY where others say HTTP/1.0."""

    def _read_status(self) -> tuple[str, int, str]:
        if self.fp.peek(4)[:4] != b"ICY ":
            return super()._read_status()  # type: ignore[misc, no-any-return]
        _, _, rest = self.fp.readline(1_024).decode("latin-1").strip().partition(" ")
        status, _, phrase = rest.partition(" ")
        if not (status.isdecimal() and len(status) == 3):
            raise http.client.BadStatusLine(rest)
        return "HTTP/1.0", int(status), phrase


class _Plain(http.client.HTTPConnection):
    response_class = _Response

    def __init__(self, *args: Any, register: _Register, **options: Any) -> None:
        super().__init__(*args, **options)
        self._register = register

    def connect(self) -> None:
        super().connect()
        self._register(self.sock)


class _Secure(http.client.HTTPSConnection):
    response_class = _Response

    def __init__(self, *args: Any, register: _Register, **options: Any) -> None:
        super().__init__(*args, **options)
        self._register = register

    def connect(self) -> None:
        super().connect()
        self._register(self.sock)


class _PlainHandler(urllib.request.HTTPHandler):
    def __init__(self, register: _Register) -> None:
        super().__init__()
        self._connection = functools.partial(_Plain, register=register)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def __init__(self, register: _Register) -> None:
        super().__init__()
        self._connection = functools.partial(_Secure, register=register)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req, context=ssl.create_default_context())


def _opener(register: _Register) -> urllib.request.OpenerDirector:
    """An opener of http and https only: urllib's own knows ftp, file and data as well."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _PlainHandler(register),
        _SecureHandler(register),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def without_password(url: str) -> str:
    """An address as it may be shown."""
    return re.sub(r"^(\w+://)[^/?#]*@", r"\1", url)


def _request(url: str) -> urllib.request.Request:
    request = urllib.request.Request(without_password(url), headers=_HEADERS)
    person, at, _ = urllib.parse.urlsplit(url).netloc.rpartition("@")
    if at:  # not passed on by a redirect
        pair = base64.b64encode(urllib.parse.unquote(person).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {pair}")
    return request


class HttpInput(Input):
    """What a web address answers, from entering its context on.

    Parameters
    ----------
    url : str
        http:// or https://, with NAME:PASSWORD@ where the server asks for it.
    patience_s : float
        How long to wait for the connection, and for each further byte.

    """

    def __init__(self, url: str, patience_s: float) -> None:
        super().__init__(without_password(url))
        self._url, self._patience_s = url, patience_s
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self._stopped = False
        self._broken: StageError | None = None
        self._received = 0
        self._stated: int | None = None  # bytes of the whole

    def __enter__(self) -> HttpInput:
        """Connect.

        Raises
        ------
        StageError
            With the reason not_found, permission_denied, unreadable or timeout.
        """
        try:
            opener = _opener(self._register)
            self._response = opener.open(_request(self._url), timeout=self._patience_s)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._refusal(error) from error
        stated = self._response.getheader("Content-Length") or ""
        self._stated = int(stated) if stated.isdecimal() else None
        return self

    def _register(self, connection: socket.socket) -> None:
        self._socket = connection  # of the last redirect
        if self._stopped:
            self.stop()

    def _refusal(self, error: Exception) -> StageError:
        """Why no sound comes, and what to do about it."""
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            told = f"the server answers {error.code} ({error.reason})"
            if error.code in (401, 403):
                return StageError(
                    Reason.PERMISSION_DENIED, f"{told}; give http://NAME:PASSWORD@HOST/…"
                )
            return StageError(Reason.NOT_FOUND, f"{told}; check the address")
        if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
            error = error.reason
        if isinstance(error, TimeoutError):
            return self._stall()
        text = error_text(error) or type(error).__name__
        return StageError(Reason.UNREADABLE, f"no connection ({text}); check the address")

    def _stall(self) -> StageError:
        return StageError(
            Reason.TIMEOUT, f"nothing came for {self._patience_s:g} s; check the station"
        )

    def _read(self, size: int) -> bytes:
        if self._response is None or self._stopped or self._broken or self._is_whole():
            return b""
        try:
            part = self._response.read1(size)
        except TimeoutError:
            self._broken = self._stall()
            return b""
        except (OSError, http.client.HTTPException, ValueError) as error:
            text = error_text(error) or type(error).__name__
            self._broken = StageError(Reason.UNREADABLE, f"the connection broke off ({text})")
            return b""
        self._received += len(part)
        # http.client raises if the last chunk is missing; what states no length has no end.
        if not part and not self._response.chunked and not self._is_whole():
            self._broken = StageError(Reason.UNREADABLE, "the connection broke off")
        return part

    def _is_whole(self) -> bool:
        return self._stated is not None and self._received >= self._stated

    def check(self) -> None:
        if self._broken is not None and not self._stopped:
            raise self._broken

    def stop(self) -> None:
        self._stopped = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed already
                # Not SSLSocket's own, which would change the state that the reader is using.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        if self._response is not None:
            self._response.close()

"""What stands before the API and the page: plain ASGI middlewares, each a few lines.

:func:`guarded` puts them around the whole application, outside even the framework's own handler
of errors, so that every answer passes them. From the outside in:

1. SecurityHeaders: on every answer, the guards' own included.
2. AllowedHosts: a page elsewhere must not reach a server on this machine (DNS rebinding).
3. OwnPages: a page elsewhere must not let its visitors' browsers post here (CSRF).
4. ApiKey: who may ask at all; strangers take nothing of anybody's rate.
5. RateLimit: how often one client may ask.
6. BodyLimit: what one request may hold; it watches what is read.
7. RoomForUploads: whether the disk has room for it.
"""

from __future__ import annotations

import base64
import hmac
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serving.answers import Problem, RefusedError
from pipeline.serving.problems import problem_response
from pipeline.serving.rates import RateLimiter, client_of

API = "/v1"
UPLOADS = "/gradio_api/upload"
"""Where the page hands in a person's files."""
_FOR_PROGRAMS = (API, "/metrics")
_OPEN_TO_ALL = "/health/"  # a probe asks by the address of the container, without a key
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_FULL_SECONDS = 60  # until one may look whether there is room again
API_POLICY = "default-src 'none'; frame-ancestors 'none'"  # JSON needs nothing
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def guarded(
    app: ASGIApp,
    *,
    content_security_policy: str,
    body_bytes: Mapping[str, int],
    hosts: Collection[str] | None = None,
    api_key: str | None = None,
    rate: RateLimiter | None = None,
    min_free_bytes: int = 0,
) -> ASGIApp:
    """Put all guards around an application, in the order that the module states.

    Parameters
    ----------
    app : ASGI application
    content_security_policy : str
        Of the page; should have ``frame-ancestors 'none'``. The API's is stricter, always.
    body_bytes : mapping of str to int
        Prefix of a path -> bytes that a request's body may have; the longest prefix counts, and
        ``""`` stands for all the others.
    hosts : collection of str, optional
        See :func:`allowed_hosts`. Every host when None.
    api_key : str, optional
        Asked of all but /health/.
    rate : RateLimiter, optional
        For POST under /v1, and for the page's uploads.
    min_free_bytes : int
        Under which no upload is begun, on the disk of temporary files.
    """
    app = BodyLimit(RoomForUploads(app, min_free_bytes), body_bytes)
    if rate is not None:
        app = RateLimit(app, rate)
    if api_key is not None:
        app = ApiKey(app, api_key)
    app = OwnPages(app)
    if hosts is not None:
        app = AllowedHosts(app, hosts)
    return SecurityHeaders(app, content_security_policy)


def allowed_hosts(bound: str, named: Sequence[str] = ()) -> frozenset[str] | None:
    """The hosts that a server answers to.

    Parameters
    ----------
    bound : str
        The address that it listens at.
    named : sequence of str
        Hosts that its owner names, without ports; ``*.example.org`` is every host below it.

    Returns
    -------
    frozenset of str, or None for every host: that of a server which others reach under names
    that nobody told.
    """
    here = {*_LOOPBACK, bound.lower()}
    if named:
        return frozenset(here | {name.lower() for name in named})
    if bound.startswith("127.") or bound in {"localhost", "::1"}:
        return frozenset(here)
    return None


class SecurityHeaders:
    """Tells browsers what they must not do with an answer; the API's are kept nowhere."""

    def __init__(self, app: ASGIApp, content_security_policy: str) -> None:
        self.app = app
        self._policy = content_security_policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        is_api = _path(scope).startswith(API)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers["Content-Security-Policy"] = API_POLICY if is_api else self._policy
                if is_api:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, send_with_headers)


class AllowedHosts:
    """Answers only to its own names, except to probes."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"} and not _path(scope).startswith(_OPEN_TO_ALL):
            told = Headers(scope=scope).getlist("host")
            if len(told) != 1 or not self._is_own(_without_port(told[0])):
                message = (
                    "this server does not answer to the host name that was asked for; "
                    "its owner can start it with --allowed_host=NAME"
                )
                return await _refuse(scope, receive, send, Problem.FORBIDDEN, message)
        await self.app(scope, receive, send)

    def _is_own(self, host: str) -> bool:
        return host in self._hosts or any(
            name.startswith("*.") and host.endswith(name[1:]) for name in self._hosts
        )


class OwnPages:
    """Takes no POST that a browser sends for another site's page; programs do not say whose."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            told = Headers(scope=scope).getlist("sec-fetch-site")
            if {"cross-site", "same-site"} & set(told):
                message = "a page of another site may not post here"
                return await _refuse(scope, receive, send, Problem.FORBIDDEN, message)
        await self.app(scope, receive, send)


class ApiKey:
    """Lets nobody in without the key: programs by a header, browsers by asking for a password."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"} or _path(scope).startswith(_OPEN_TO_ALL):
            return await self.app(scope, receive, send)
        if self._is_told(Headers(scope=scope)):
            return await self.app(scope, receive, send)
        message = "this needs a key, in the header 'Authorization: Bearer KEY' or 'X-API-Key'"
        answer = problem_response(RefusedError(Problem.UNAUTHORIZED, message))
        if not _path(scope).startswith(_FOR_PROGRAMS):
            answer.headers["WWW-Authenticate"] = 'Basic realm="Catalog Labels", charset="UTF-8"'
        await answer(scope, receive, send)

    def _is_told(self, headers: Headers) -> bool:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        told = headers.get("x-api-key", "").encode("latin-1")
        if scheme.lower() == "bearer":
            told = credentials.strip().encode("latin-1")
        elif scheme.lower() == "basic":
            told = _password(credentials)
        return hmac.compare_digest(told, self._key)


def _password(credentials: str) -> bytes:
    """What a browser sends of a password, whatever the user's name."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except ValueError:
        return b""


class RateLimit:
    """Turns down a client that posts to the API, or hands in files on the page, too often."""

    def __init__(self, app: ASGIApp, rate: RateLimiter) -> None:
        self.app = app
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        if is_post and _path(scope).startswith((API, UPLOADS)):
            wait_seconds = self._rate.take(client_of(scope.get("client")))
            if wait_seconds:
                message = f"too many requests from this address; try again in {wait_seconds} s"
                return await _refuse(
                    scope, receive, send, Problem.RATE_LIMITED, message, wait_seconds
                )
        await self.app(scope, receive, send)


class RoomForUploads:
    """Begins no upload that declares more than the disk has room for.

    The page keeps a visitor's files as long as the session: this bounds all sessions together.
    Uploads that arrive at the same time do not know of each other; the room that is left is for
    them.
    """

    def __init__(self, app: ASGIApp, min_free_bytes: int) -> None:
        self.app = app
        self._min_free_bytes = min_free_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        if is_post and _path(scope).startswith((API, UPLOADS)):
            declared = Headers(scope=scope).get("content-length", "")
            wanted = self._min_free_bytes + (int(declared) if declared.isdecimal() else 0)
            if shutil.disk_usage(tempfile.gettempdir()).free < wanted:
                message = "there is no room for uploads at the moment; try again later"
                return await _refuse(
                    scope, receive, send, Problem.OVERLOADED, message, _FULL_SECONDS
                )
        await self.app(scope, receive, send)


class BodyLimit:
    """Turns down a body that is too long: by what is declared, then by what arrives."""

    def __init__(self, app: ASGIApp, body_bytes: Mapping[str, int]) -> None:
        self.app = app
        self._limits = sorted(body_bytes.items(), key=lambda item: -len(item[0]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limit(_path(scope)) if scope["type"] == "http" else None
        if limit is None:
            return await self.app(scope, receive, send)
        message = f"the request is larger than the {limit:,} bytes that are taken here"
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            return await _refuse(scope, receive, send, Problem.TOO_LARGE, message)
        received, has_begun = 0, False

        async def receive_counted() -> Message:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > limit:
                raise HTTPException(413, message)
            return part

        async def send_unless_too_large(part: Message) -> None:
            nonlocal has_begun
            if received > limit and not has_begun:
                return  # whatever the application makes of it: the answer is below
            has_begun = True
            await send(part)

        try:
            await self.app(scope, receive_counted, send_unless_too_large)
        except Exception:
            if received <= limit or has_begun:
                raise
        if received > limit and not has_begun:
            await _refuse(scope, receive, send, Problem.TOO_LARGE, message)

    def _limit(self, path: str) -> int | None:
        return next((limit for prefix, limit in self._limits if path.startswith(prefix)), None)


async def _refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    problem: Problem,
    message: str,
    retry_after_seconds: int | None = None,
) -> None:
    answer = problem_response(RefusedError(problem, message, retry_after_seconds))
    await answer(scope, receive, send)


def _path(scope: Scope) -> str:
    """The path as the application's routes see it: without the prefix that a proxy left."""
    path: str = scope.get("path", "")
    root: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def _without_port(host: str) -> str:
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and not port.endswith("]") else host.strip().lower()

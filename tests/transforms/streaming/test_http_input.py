"""The web input against a server of the standard library."""

from __future__ import annotations

import base64
import socket
import threading
import time

import pytest

from tests import radio
from tests.radio import Radio
from transforms.errors import Reason, StageError
from transforms.streaming.http_input import HttpInput, without_password

CONTENT = bytes(range(256)) * 200


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def read_all(data: HttpInput) -> bytes:
    with data:
        content = b"".join(iter(lambda: data.read(10_000), b""))
        data.check()
    return content


def fetched(route: radio.Route, patience_s: float = 5.0) -> bytes:
    with Radio({"/live": route}) as station:
        return read_all(HttpInput(station.url("/live"), patience_s))


def failure(route: radio.Route, patience_s: float = 5.0) -> StageError:
    with pytest.raises(StageError) as caught:
        fetched(route, patience_s)
    return caught.value


@pytest.mark.parametrize(
    "route",
    [radio.whole(CONTENT), radio.chunked(CONTENT, ends=True),
     radio.in_turn(radio.status(302, Location="/live"), radio.whole(CONTENT))],
    ids=["length", "chunked", "redirect"],
)  # fmt: skip
def test_what_has_an_end(route):
    assert fetched(route) == CONTENT


@pytest.mark.parametrize(
    "route",
    [radio.unfinished(CONTENT), radio.chunked(CONTENT, ends=False),
     radio.raw(b"HTTP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n" + CONTENT)],
    ids=["no length", "chunked", "length"],
)  # fmt: skip
def test_what_breaks_off(route):
    with Radio({"/live": route}) as station, HttpInput(station.url("/live"), 5.0) as data:
        assert b"".join(iter(lambda: data.read(10_000), b"")) == CONTENT
        with pytest.raises(StageError, match="broke off") as caught:
            data.check()
    assert caught.value.reason is Reason.UNREADABLE


def test_the_answer_of_old_stations():
    route = radio.raw(b"ICY 200 OK\r\nicy-name:x\r\n\r\n" + CONTENT)
    with Radio({"/live": route}) as station, HttpInput(station.url("/live"), 5.0) as data:
        assert data.peek(len(CONTENT)) == CONTENT
    assert "401" in failure(radio.raw(b"ICY 401 Service Unavailable\r\n\r\n")).message


@pytest.mark.parametrize(
    ("code", "reason"),
    [(404, Reason.NOT_FOUND), (500, Reason.NOT_FOUND), (401, Reason.PERMISSION_DENIED)],
)
def test_refusals(code, reason):
    error = failure(radio.status(code))
    assert error.reason is reason
    assert f"the server answers {code}" in error.message


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "rtmp://127.0.0.1/x"]
)
def test_redirects_leave_http_for_nothing(target):
    assert failure(radio.status(302, Location=target)).reason in (
        Reason.NOT_FOUND,
        Reason.UNREADABLE,
    )


def test_a_redirect_in_circles():
    assert "check the address" in failure(radio.status(302, Location="/live")).message


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"ICY x\r\n\r\n", b"\0" * 70_000])
def test_what_speaks_no_http(answer):
    assert failure(radio.raw(answer)).reason is Reason.UNREADABLE


def test_a_refused_connection():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(StageError, match="no connection .*refused.*check the address"):
        read_all(HttpInput(f"http://127.0.0.1:{port}/x", 5.0))


@pytest.mark.parametrize("url", ["http://", "http://[::", "http://host:port/", "http://x y/"])
def test_addresses_that_are_none(url):
    with pytest.raises(StageError, match="check the address"):
        read_all(HttpInput(url, 5.0))


@pytest.mark.parametrize("route", [radio.stalled(CONTENT), radio.stalled(b"")])
def test_a_stall(route):
    began = time.monotonic()
    assert failure(route, patience_s=0.3).reason is Reason.TIMEOUT
    assert time.monotonic() - began < 5


def test_a_server_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(StageError) as caught:
            read_all(HttpInput(f"http://127.0.0.1:{port}/x", 0.3))
    assert caught.value.reason is Reason.TIMEOUT


def test_a_reader_that_waits_is_woken():
    with Radio({"/live": radio.stalled(CONTENT)}) as station:
        with HttpInput(station.url("/live"), 60.0) as data:
            assert data.peek(len(CONTENT)) == CONTENT
            threading.Timer(0.2, data.stop).start()
            began = time.monotonic()
            assert data.read(len(CONTENT)) == CONTENT
            assert data.read(10) == b""
            data.check()  # who stops has not broken off
        assert time.monotonic() - began < 5


def test_stopped_while_it_connects():
    with socket.create_server(("127.0.0.1", 0)) as server:
        data = HttpInput(f"http://127.0.0.1:{server.getsockname()[1]}/x", 60.0)
        threading.Timer(0.2, data.stop).start()
        with pytest.raises(StageError):
            read_all(data)


def test_passwords_are_sent_once_and_not_shown():
    routes = {
        "/live": radio.status(302, Location="/other"),
        "/other": radio.whole(CONTENT),
    }
    with Radio(routes) as station:
        url = station.url("/live").replace("http://", "http://me:p%40ss@")
        data = HttpInput(url, 5.0)
        assert read_all(data) == CONTENT
        assert data.name == without_password(url) == station.url("/live")
    sent = [headers.get("Authorization") for _, headers in station.requests]
    assert sent == ["Basic " + base64.b64encode(b"me:p@ss").decode(), None]


def test_metadata_is_not_asked_for():
    with Radio({"/live": radio.whole(CONTENT)}) as station:
        read_all(HttpInput(station.url("/live"), 5.0))
    ((_, headers),) = station.requests
    assert "icy-metadata" not in {name.lower() for name in headers}

"""What the API turns down before any work: requests that are wrong or not allowed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os

import pytest

from tests.pipeline.serving.served import (
    KIND,
    check_problem,
    eventually_empty,
    form,
)


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd", "{root}/../manifest.jsonl",
        "file://{root}/%2e%2e/manifest.jsonl", "{root}\0/x", "", ".", "deep", "~/x", "{root}x/a",
        "http://127.0.0.1:80/", "https://example.org/a.wav", "s3://bucket/a.wav", "data:,x",
        "file:///etc/passwd", "file://other.example/etc/passwd", "\\\\host\\share",
        "/proc/self/mem", "{root}/link",
    ],
)  # fmt: skip
def test_a_uri_outside(api_server, catalog, uri):
    link = catalog.folder / "link"
    if not link.is_symlink():
        link.symlink_to("/etc/passwd")
    body = {"uri": uri.format(root=catalog.folder)}
    with api_server.client() as client:
        answer = client.post(
            "/v1/labels", content=json.dumps(body), headers={"content-type": "application/json"}
        )
    link.unlink()
    found = check_problem(answer, 403, "forbidden")
    assert "root:" not in found["detail"]


def test_a_pipe_within_the_root(api_server, catalog):
    os.mkfifo(catalog.folder / "pipe")
    try:
        check_problem(api_server.label_uri(f"{catalog.folder}/pipe"), 422, "unreadable")
    finally:
        (catalog.folder / "pipe").unlink()


def test_names_that_lead_elsewhere(api_server, sound):
    for name in ("../../etc/passwd", "/etc/passwd", "a\\..\\b", "x" * 500, "‮gnp.wav", "日本 語"):
        answer = api_server.label(sound, name)
        assert answer.status_code == 200, answer.text[:500]
        shown = answer.json()["prediction"]["uri"]
        assert len(shown) <= 255 and "‮" not in shown
    eventually_empty(api_server)


BODIES = [  # content type, body
    (None, b""),
    (KIND, b""),
    (KIND, form(b"x")[:-4]),  # cut off
    (KIND, form(b"x", field="other")),
    (KIND, form(b"x").replace(b'; filename="a.wav"', b"")),
    (KIND, form(b"", name="")),
    (KIND, b"--edge--\r\n"),
    (KIND, b"no form at all"),
    (KIND, form(b"x", "1")[: -len(b"--edge--\r\n")] + form(b"y", "2")),  # two files
    ("multipart/form-data", form(b"x")),
    ("multipart/form-data; boundary=" + "b" * 200, form(b"x")),
    ("application/x-www-form-urlencoded", b"file=x"),
    ("text/plain", b"x"),
    ("audio/wav", b"RIFF"),
    ("application/json", b""),
    ("application/json", b"{"),
    ("application/json", b"null"),
    ("application/json", b"[]"),
    ("application/json", b"{}"),
    ("application/json", b'{"uri": 1}'),
    ("application/json", b'{"uri": ["/a"]}'),
    ("application/json", b'{"uri": "/a", "also": 1}'),
    ("application/json", b'{"uris": ["/a"]}'),
    ("application/json", b'{"uri": "\xff"}'),
    ("application/json", b"[" * 100_000),
    ("application/json", b'{"uri": NaN}'),
    ("application/json", b'{"uri": "\\ud800"}'),  # no encoding can write it
]


@pytest.mark.parametrize(("kind", "body"), BODIES, ids=lambda value: repr(value)[:40])
def test_a_request_that_is_not_as_documented(api_server, kind, body):
    with api_server.client() as client:
        headers = {} if kind is None else {"content-type": kind}
        check_problem(
            client.post("/v1/labels", content=body, headers=headers), 422, "invalid_request"
        )
    eventually_empty(api_server)


@pytest.mark.parametrize("uris", [[], ["/a"] * 31, "/a", [1], [None]])
def test_a_batch_that_is_not_as_documented(api_server, uris):
    with api_server.client() as client:
        answer = client.post("/v1/labels:batch", json={"uris": uris})
        check_problem(answer, 422, "invalid_request")
    files = [("file", ("a.wav", b"x"))] * 31
    with api_server.client() as client:
        check_problem(client.post("/v1/labels:batch", files=files), 422, "invalid_request")


@pytest.mark.parametrize("declared", [True, False])
def test_too_many_bytes(api_server, declared):
    body = form(bytes((4 << 20) + 1))
    parts = body if declared else iter([body[: 1 << 20], body[1 << 20 :]])
    with api_server.client() as client:
        answer = client.post("/v1/labels", content=parts, headers={"content-type": KIND})
        check_problem(answer, 413, "too_large")
        assert client.get("/health/live").status_code == 200
    eventually_empty(api_server)


def test_a_length_that_is_a_lie_is_refused_before_the_body(api_server):
    connection = http.client.HTTPConnection(api_server.url.removeprefix("http://"), timeout=10)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/v1/labels")
        connection.putheader("Content-Length", str(1 << 40))
        connection.endheaders(b"x")
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["reason"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/v1/nothing", 404, "no_such_page"),
        ("GET", "/nothing", 404, "no_such_page"),
        ("GET", "/../../etc/passwd", 404, "no_such_page"),
        ("GET", "/v1/labels", 405, "method_not_allowed"),
        ("DELETE", "/v1/labels", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("PUT", "/health/live", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/labels", 405, "method_not_allowed"),
    ],
)
def test_no_such_route(api_server, method, path, status, reason):
    with api_server.client() as client:
        answer = client.request(method, path)
    check_problem(answer, status, reason)
    assert ("allow" in answer.headers) == (status == 405)


def test_headers(api_server):
    for path in ("/v1/models", "/v1/nothing", "/health/live", "/metrics"):
        headers = api_server.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers
    with api_server.client() as client:
        answer = client.get("/v1/models", headers={"host": "evil.example"})
    check_problem(answer, 403, "forbidden")

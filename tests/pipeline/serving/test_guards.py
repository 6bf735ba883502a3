"""What stands before the application, through a client that speaks HTTP to it."""

from __future__ import annotations

import asyncio
import base64
import shutil
from types import SimpleNamespace

import pytest
from fastapi import FastAPI, Request, UploadFile
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse

from pipeline.serving.guards import allowed_hosts, guarded
from pipeline.serving.problems import add_problem_handlers
from pipeline.serving.rates import RateLimiter

KEY = "k€y"


def basic(credentials: str) -> str:
    """What a browser sends of a name and a password (RFC 7617)."""
    return "Basic " + base64.b64encode(credentials.encode()).decode()


POLICY = "default-src 'self'; frame-ancestors 'none'"
LIMITS = {"": 100, "/v1": 1_000, "/v1/labels": 5_000}


def application() -> FastAPI:
    app = FastAPI()
    add_problem_handlers(app)

    @app.post("/v1/labels")
    @app.post("/v1/small")
    @app.post("/page")
    @app.post("/gradio_api/upload")
    async def body(request: Request) -> int:
        return len(await request.body())

    @app.post("/v1/form")
    async def form(file: UploadFile) -> int:
        return len(await file.read())

    @app.get("/v1/bug")
    def bug() -> None:
        raise ZeroDivisionError

    @app.get("/v1/models")
    @app.get("/metrics")
    @app.get("/health/live")
    @app.get("/")
    async def page() -> PlainTextResponse:
        return PlainTextResponse("fine")

    return app


def client(address=("10.0.0.1", 1), host="localhost", **options) -> TestClient:
    settings = {"content_security_policy": POLICY, "body_bytes": LIMITS} | options
    return TestClient(
        guarded(application(), **settings),
        base_url=f"http://{host}",
        raise_server_exceptions=False,
        client=address,
    )


def problem(answer) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    return answer.status_code, answer.json()["reason"]


def in_parts(size: int, part: int = 100):
    for start in range(0, size, part):
        yield b"x" * min(part, size - start)


@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/bug", "/nowhere", "/v1/nowhere"])
def test_every_answer_has_the_headers(path):
    answer = client().get(path)
    is_api = path.startswith("/v1")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "microphone=(self)" in answer.headers["permissions-policy"]
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert (answer.headers["content-security-policy"] == POLICY) is not is_api
    assert answer.headers.get("cache-control") == ("no-store" if is_api else None)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/models", {}, 401),
        ("/metrics", {}, 401),
        ("/v1/nowhere", {}, 401),
        ("/v1/models", {"X-API-Key": "key"}, 401),
        ("/v1/models", {"X-API-Key": ""}, 401),
        ("/v1/models", {"Authorization": f"Basic {KEY}"}, 401),
        ("/v1/models", {"Authorization": f"Bearer {KEY}x"}, 401),
        ("/v1/models", {"X-API-Key": KEY}, 200),
        ("/metrics", {"X-API-Key": KEY}, 200),
        ("/v1/models", {"Authorization": f"Bearer {KEY}"}, 200),
        ("/v1/models", {"authorization": f"bearer  {KEY}"}, 200),
        ("/v1/models", {"Authorization": basic(f"anybody:{KEY}")}, 200),
        ("/v1/models", {"Authorization": basic(f"{KEY}:wrong")}, 401),
        ("/v1/models", {"Authorization": basic(KEY)}, 401),
        ("/", {}, 401),
        ("/", {"Authorization": basic(f":{KEY}")}, 200),
        ("/health/live", {}, 200),
    ],
)
def test_the_key(path, headers, status):
    encoded = {name: value.encode() for name, value in headers.items()}
    answer = client(api_key=KEY).get(path, headers=encoded)
    assert answer.status_code == status
    if status == 401:
        assert problem(answer) == (401, "unauthorized")
        asks = "Basic" if path == "/" else "Bearer"
        assert answer.headers["www-authenticate"].split()[0] == asks


def test_a_proxys_prefix_is_no_way_around_the_key():
    app = guarded(application(), content_security_policy=POLICY, body_bytes=LIMITS, api_key=KEY)
    behind = TestClient(app, base_url="http://localhost", root_path="/music")
    assert behind.get("/music/v1/models").status_code == 401
    assert behind.get("/v1/models").status_code == 401
    told = {"X-API-Key": KEY.encode()}
    assert behind.get("/music/v1/models", headers=told).status_code == 200
    assert behind.get("/music/health/live").status_code == 200


def test_a_client_that_posts_too_often_is_told_when_to_come_back():
    now = [0.0]
    rate = RateLimiter(0.5, 2, clock=lambda: now[0])
    one, other = client(rate=rate), client(("10.0.0.2", 1), rate=rate)
    assert [one.post("/v1/small").status_code for _ in range(2)] == [200, 200]
    refused = one.post("/v1/labels")
    assert problem(refused) == (429, "rate_limited")
    assert refused.headers["retry-after"] == "2"
    assert one.get("/v1/models").status_code == 200
    assert one.post("/page").status_code == 200
    assert other.post("/v1/small").status_code == 200
    assert problem(one.post("/gradio_api/upload?upload_id=1")) == (429, "rate_limited")
    now[0] += 2
    assert one.post("/v1/small").status_code == 200


def test_strangers_use_up_nobodys_rate():
    asked = client(rate=RateLimiter(1, 1, clock=lambda: 0.0), api_key=KEY)
    assert [asked.post("/v1/small").status_code for _ in range(3)] == [401] * 3
    told = {"X-API-Key": KEY.encode()}
    assert [asked.post("/v1/small", headers=told).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("path", "limit"), [("/page", 100), ("/v1/small", 1_000), ("/v1/labels", 5_000)]
)
@pytest.mark.parametrize("declared", [True, False])
def test_the_longest_prefix_says_how_long_a_body_may_be(path, limit, declared):
    def sent(size):
        content = b"x" * size if declared else in_parts(size)
        return client().post(path, content=content)

    assert sent(limit).json() == limit
    refused = sent(limit + 1)
    assert problem(refused) == (413, "too_large")
    assert f"{limit:,} bytes" in refused.json()["detail"]


def test_a_form_of_unknown_length_is_too_large_not_invalid():
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    kind = {"content-type": "multipart/form-data; boundary=b"}
    end = b"\r\n--b--\r\n"
    fits = client().post("/v1/form", content=iter([head, b"x" * 10, end]), headers=kind)
    assert fits.json() == 10
    refused = client().post("/v1/form", content=iter([head, b"x" * 1_000, end]), headers=kind)
    assert problem(refused) == (413, "too_large")


def test_a_body_is_too_large_whatever_the_application_makes_of_it():
    async def swallows(scope, receive, send):
        try:
            while (await receive())["more_body"]:
                pass
            status = 200
        except Exception:
            status = 400
        await PlainTextResponse("mine", status)(scope, receive, send)

    app = guarded(swallows, content_security_policy=POLICY, body_bytes={"": 100})
    asked = TestClient(app)
    assert asked.post("/", content=in_parts(100, 10)).text == "mine"
    assert problem(asked.post("/", content=in_parts(101, 10))) == (413, "too_large")


def test_nothing_is_read_of_a_body_that_is_declared_too_long():
    sent = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/page", "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-length", b"101")],
    }  # fmt: skip
    app = guarded(application(), content_security_policy=POLICY, body_bytes=LIMITS)
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 413


@pytest.mark.parametrize(
    ("bound", "named", "hosts"),
    [
        ("127.0.0.1", (), {"localhost", "127.0.0.1", "[::1]"}),
        ("localhost", (), {"localhost", "127.0.0.1", "[::1]"}),
        ("127.0.0.2", (), {"localhost", "127.0.0.1", "[::1]", "127.0.0.2"}),
        ("0.0.0.0", (), None),
        ("::", (), None),
    ],
)
def test_the_hosts_that_a_server_answers_to(bound, named, hosts):
    assert allowed_hosts(bound, named) == hosts


def test_named_hosts_come_on_top():
    assert {"music.example.org", "localhost"} <= (
        allowed_hosts("0.0.0.0", ["Music.example.org"]) or set()
    )


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("a.example.org", 200),
        ("B.a.Example.org:80", 200),
        ("example.org", 403),
        ("aexample.org", 403),
        ("a.example.org.evil.example", 403),
        ("*.example.org.", 403),
    ],
)
def test_all_hosts_below_a_name(host, status):
    asked = client(hosts=allowed_hosts("0.0.0.0", ["*.EXAMPLE.org"]))
    assert asked.get("/", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("site", "status"),
    [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200), (None, 200)],
)
def test_a_page_elsewhere_posts_nothing_here(site, status):
    headers = {} if site is None else {"sec-fetch-site": site}
    for path in ("/v1/labels", "/page"):
        answer = client().post(path, headers=headers)
        assert answer.status_code == status
        if status == 403:
            assert problem(answer) == (403, "forbidden")
    assert client().get("/", headers=headers).status_code == 200  # a link to the page


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:7860", 200),
        ("127.0.0.1:7860", 200),
        ("[::1]:7860", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("localhost.evil.example:7860", 403),
        ("evil.example:localhost", 403),
        ("[::2]:1", 403),
        ("", 403),
    ],
)
def test_dns_rebinding(host, status):
    asked = client(hosts=allowed_hosts("127.0.0.1"))
    answer = asked.get("/", headers={"host": host})
    assert answer.status_code == status
    if status == 403:
        assert problem(answer) == (403, "forbidden")
    assert asked.get("/health/live", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/labels", "/gradio_api/upload"])
def test_uploads_leave_room_on_the_disk(path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_050))
    of = client(min_free_bytes=1_000, body_bytes={"": 500})
    assert of.post(path, content=b"x" * 50).status_code == 200
    answer = of.post(path, content=b"x" * 51)
    assert problem(answer) == (503, "overloaded")
    assert answer.headers["retry-after"] == "60"
    assert of.post("/page", content=b"x" * 51).status_code == 200
    assert problem(of.post(path, content=b"x" * 501)) == (413, "too_large")  # never will have
    full = client(min_free_bytes=1_051, body_bytes={"": 500})
    assert full.post(path, content=in_parts(10)).status_code == 503  # whatever it declares
    assert full.get("/v1/models").status_code == 200

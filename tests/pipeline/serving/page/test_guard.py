"""What of Gradio answers, and what forged requests get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.pipeline.serving.page.conftest import make_app
from tests.pipeline.serving.page.stand_in import StandIn, wav

SECRET = b"not for visitors"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    app = make_app(StandIn(), tmp_path_factory.mktemp("page") / "uploads")

    @app.get("/v1/models")
    def models() -> list[str]:
        return ["genre-vit"]

    # The page is mounted at the root already; a server adds its routes first.
    app.router.routes.insert(0, app.router.routes.pop())
    with TestClient(app) as opened:
        yield opened


def config(client: TestClient) -> dict[str, Any]:
    """Gradio's settings, as they stand in the page."""
    page = client.get("/").text
    start = page.index("window.gradio_config = ") + len("window.gradio_config = ")
    found: dict[str, Any] = json.JSONDecoder().raw_decode(page[start:])[0]
    return found


def event_of(client: TestClient, name: str) -> tuple[int, int]:
    """The number of the page's event of a name, and how many inputs it has."""
    found = [entry for entry in config(client)["dependencies"] if entry["api_name"] == name]
    return found[0]["id"], len(found[0]["inputs"])


def call(client: TestClient, name: str, first: Any, session: str) -> dict[str, Any]:
    """Send an event as the browser would; gives the last message of its answer."""
    number, inputs = event_of(client, name)
    data = [first, *[None] * (inputs - 1)]
    body = {"data": data, "fn_index": number, "session_hash": session, "trigger_id": None}
    assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    last: dict[str, Any] = {}
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as got:
        for line in got.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line else {}
            if message.get("msg") == "process_completed":
                last = message
                break
    return last


def file_data(path: str) -> dict[str, Any]:
    return {"path": path, "orig_name": "a.wav", "meta": {"_type": "gradio.FileData"}}


def upload(client: TestClient, content: bytes) -> str:
    answer = client.post("/gradio_api/upload", files={"files": ("a.wav", content)})
    path: str = answer.json()[0]
    return path


def test_an_honest_event_is_answered(client: TestClient) -> None:
    done = call(client, "drop", [file_data(upload(client, wav(1)))], "honest")
    assert done["success"]
    assert "jazz" in json.dumps(done["output"])


@pytest.mark.parametrize("after_an_honest_one", [False, True])
def test_a_file_of_the_machine_cannot_be_named(
    client: TestClient, tmp_path: Path, after_an_honest_one: bool
) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(SECRET)
    session = f"forger {after_an_honest_one}"
    if after_an_honest_one:
        call(client, "drop", [file_data(upload(client, wav(1)))], session)
    done = call(client, "drop", [file_data(str(secret))], session)
    assert not done["success"]
    assert "secret" not in json.dumps(done["output"])
    assert client.get(f"/gradio_api/file={secret}").status_code == 403


@pytest.mark.parametrize("name", ["drop", "recorded", "drop_1"])
def test_an_address_is_never_fetched(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fetched: list[str] = []

    async def fetch(address: str, **_: Any) -> str:
        fetched.append(address)
        return upload(client, wav(1))

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    forged = file_data("https://music.example/a.wav")
    done = call(client, name, [forged] if name == "drop" else forged, f"fetcher {name}")
    assert not done["success"]
    assert fetched == []


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=https://music.example/a.wav",
        "/gradio_api/file=http:/music.example/a.wav",
        "/gradio_api/proxy=https://music.example/a.wav",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/call/drop",
        "/gradio_api/run/drop",
        "/gradio_api/api/drop",
        "/gradio_api/runs",
        "/gradio_api/process_recording",
        "/gradio_api/token",
        "/monitoring",
        "/monitoring/summary",
        "/config",
        "/login_check",
    ],
)
def test_what_the_page_does_not_use_is_not_there(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404
    assert client.post(path).status_code == 404


def test_the_page_and_the_other_routes_are_there(client: TestClient) -> None:
    assert client.get("/").status_code == 200
    assert client.get("/page-assets/page.js").status_code == 200
    assert client.get("/v1/models").json() == ["genre-vit"]


def test_the_page_shows_no_api(client: TestClient) -> None:
    settings = config(client)
    assert settings["footer_links"] == []
    visible = {entry["api_visibility"] for entry in settings["dependencies"]}
    assert visible == {"private"}
    assert not settings["analytics_enabled"]


def test_what_is_no_sound_is_refused_in_words(client: TestClient) -> None:
    number, _ = event_of(client, "hear")
    body = {
        "data": [None], "fn_index": number, "session_hash": "live", "trigger_id": None,
        "event_data": {"samples": "?", "rate": 48_000},
    }  # fmt: skip
    assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "live"}) as got:
        said = "".join(got.iter_lines())
    assert "The server did not understand the request." in said

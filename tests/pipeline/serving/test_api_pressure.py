"""The API under pressure: busy, slow clients, those that leave, no key, no memory."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.audio_files import write_soundfile
from tests.pipeline.processes import wait_until
from tests.pipeline.serving.served import (
    Halfway,
    check_problem,
    eventually_empty,
    serving,
)

pytestmark = pytest.mark.slow  # servers are started

KEY = "s3cret"


@pytest.fixture(scope="module")
def strict(tiny_checkpoint, tmp_path_factory):
    """One request at once, seconds for it, and no uris."""
    with serving(
        tmp_path_factory.mktemp("strict"),
        f"--model={tiny_checkpoint}",
        "--max_in_work=1",
        "--max_audio_seconds=5",
        "--request_seconds=4",
        "--workers=1",
        "--live_model=none",
        "--enhancer=none",
    ) as served:
        yield served


def quiet(seconds: float, folder: Path, seed: int = 0) -> bytes:
    """A file that is short to send and long to work on; ``seed`` makes its bytes differ."""
    samples = np.zeros((round(seconds * 8_000), 1), np.float32)
    samples[seed] = 0.5
    path = write_soundfile(folder / "quiet.flac", samples, 8_000, "FLAC", "PCM_16")
    return path.read_bytes()


def test_busy_while_an_upload_trickles(strict, sound):
    upload = Halfway(strict, sound)
    answer = strict.label(sound)
    check_problem(answer, 429, "busy")
    assert int(answer.headers["retry-after"]) >= 1
    assert strict.metric("queue_depth") == 1
    assert strict.get("/health/ready").status_code == 200
    assert upload.finish().status_code == 200
    assert strict.label(sound).status_code == 200
    assert strict.metric("errors_total", reason="busy") >= 1


def test_an_upload_that_never_ends_is_out_of_time(strict, sound):
    upload = Halfway(strict, sound)
    check_problem(upload.answer(), 504, "out_of_time")
    upload.leave()
    assert strict.label(sound).status_code == 200
    eventually_empty(strict)


def test_a_client_that_leaves_in_the_middle_of_its_upload(strict, sound):
    upload = Halfway(strict, sound)
    assert strict.uploads()
    upload.leave()
    wait_until(lambda: strict.metric("queue_depth") == 0, "the end of the request", 3)
    eventually_empty(strict)
    assert strict.label(sound).status_code == 200


def test_more_seconds_than_are_taken(strict, tmp_path):
    check_problem(strict.label(quiet(5.5, tmp_path)), 413, "too_long")
    assert strict.label(quiet(4.5, tmp_path)).status_code == 200
    eventually_empty(strict)


def test_uris_where_none_may_be_asked_for(strict, catalog):
    check_problem(strict.label_uri(str(catalog.folder / "a.wma")), 403, "forbidden")


def test_a_client_that_leaves_ends_the_work(api_server, tmp_path, sound):
    restarts = api_server.metric("worker_restarts")
    with api_server.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/labels", files={"file": ("q.flac", quiet(3_500, tmp_path))}, timeout=1.5)
    wait_until(lambda: api_server.metric("queue_depth") == 0, "the end of the request", 2)
    wait_until(lambda: api_server.metric("worker_restarts") == restarts + 1, "the worker's end", 2)
    assert api_server.label(sound).status_code == 200
    eventually_empty(api_server)


@pytest.fixture(scope="module")
def unwilling(tiny_checkpoint, tmp_path_factory):
    """Short of memory from the start, one request in 100 seconds, for people with a key."""
    folder = tmp_path_factory.mktemp("unwilling")
    (folder / "key").write_text(f"{KEY}\n")
    with serving(
        folder,
        f"--model={tiny_checkpoint}",
        "--memory_limit_mib=1",
        "--rate_limit=0.01",
        f"--api_key_file={folder}/key",
        "--allowed_host=labels.example.org",
    ) as served:
        wait_until(lambda: served.get("/health/ready").json()["memory_bytes"], "a look at it")
        yield served


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer x"},
                                     {"authorization": f"Basic {KEY}"}, {"x-api-key": ""},
                                     {"x-api-key": "s\xe9cret"}])  # fmt: skip
def test_without_the_key(unwilling, headers):
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    with unwilling.client(headers=raw) as client:
        for path in ("/v1/models", "/v1/labels", "/v1/none", "/metrics"):
            answer = client.get(path)
            check_problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        check_problem(client.post("/v1/labels", content=b"x"), 401, "unauthorized")
        assert client.get("/health/live").status_code == 200


def test_short_of_memory_and_then_too_often(unwilling, sound):
    with unwilling.client(headers={"x-api-key": KEY}) as client:
        files = {"file": ("a.wav", sound)}
        shed = client.post("/v1/labels", files=files)
        check_problem(shed, 503, "overloaded")
        assert int(shed.headers["retry-after"]) >= 1
        limited = client.post("/v1/labels", files=files)
        check_problem(limited, 429, "rate_limited")
        assert 90 <= int(limited.headers["retry-after"]) <= 100
    with unwilling.client(headers={"authorization": f"Bearer {KEY}"}) as client:
        assert client.get("/v1/models").status_code == 200
        text = client.get("/metrics").text
    assert 'errors_total{reason="overloaded"} 1.0' in text
    assert 'errors_total{reason="rate_limited"} 1.0' in text


def test_it_stays_up_and_says_that_it_is_short_of_memory(unwilling):
    ready = unwilling.get("/health/ready")
    assert ready.status_code == 503
    assert (ready.json()["status"], ready.json()["memory_limit_bytes"]) == ("overloaded", 1 << 20)
    assert unwilling.get("/health/live").status_code == 200
    with unwilling.client(headers={"x-api-key": KEY, "host": "labels.example.org:80"}) as client:
        assert client.get("/v1/models").status_code == 200
    assert sum("memory is short" in line for line in unwilling.stderr) == 1
    assert not unwilling.uploads()

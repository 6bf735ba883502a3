"""The server's life: how it starts and ends, and what dies beside it while it serves."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.audio_files import noise, write_soundfile
from tests.pipeline.processes import wait_until
from tests.pipeline.serving.served import (
    Halfway,
    Served,
    check_problem,
    eventually_empty,
    parent_of,
    refused,
    serving,
)

pytestmark = pytest.mark.slow  # servers are started

LIGHT = ("--live_model=none", "--enhancer=none", "--workers=1")
TIMES = {"labelled_at", "run_id"}


def piece(folder: Path, seconds: float = 3.0, seed: int = 0) -> bytes:
    samples = noise(seconds, 22_050, 1, seed)
    return write_soundfile(folder / "p.wav", samples, 22_050, "WAV", "PCM_16").read_bytes()


def long_piece(folder: Path, seed: int) -> bytes:
    """Short to send, seconds to work on; ``seed`` makes its bytes differ."""
    samples = np.zeros((1_500 * 8_000, 1), np.float32)
    samples[seed] = 0.5
    path = write_soundfile(folder / "long.flac", samples, 8_000, "FLAC", "PCM_16")
    return path.read_bytes()


def row_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text[:500]
    prediction = answer.json()["prediction"]
    return {name: value for name, value in prediction.items() if name not in TIMES}


@pytest.fixture
def started(tiny_checkpoint, tmp_path):
    """A server of this test alone."""
    with serving(tmp_path / "served", f"--model={tiny_checkpoint}", *LIGHT) as served:
        yield served


@pytest.fixture(scope="module")
def shared(tiny_checkpoint, tmp_path_factory):
    """A server that outlives what is done to it."""
    folder = tmp_path_factory.mktemp("shared")
    with serving(folder, f"--model={tiny_checkpoint}", *LIGHT) as served:
        yield served
        assert served.stop() == 0
        check_left_nothing(served)


def check_left_nothing(served: Served) -> None:
    served.wait_until_alone()
    assert not any(served.temporary.iterdir())
    assert "Traceback" not in "\n".join(served.stderr)


def test_a_port_that_is_taken(tiny_checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, said = refused(f"--model={tiny_checkpoint}", f"--port={port}")
    assert status == 2
    (line,) = said
    assert line.startswith(f"error: --host=127.0.0.1 --port={port}: cannot listen there")


def test_it_says_where_it_listens_and_when_it_is_ready(shared):
    listening, ready = shared.stderr[:2]
    assert listening.startswith("listening at http://127.0.0.1:")
    assert ready.startswith("ready after ")


def test_sigterm_while_a_request_is_in_work(started, tmp_path):
    content = piece(tmp_path)
    expected = row_of(started.label(content))
    upload = Halfway(started, piece(tmp_path, seed=1))
    started.signal(signal.SIGTERM)
    wait_until(lambda: started.get("/health/ready").status_code == 503, "the drain")
    assert started.get("/health/ready").json()["status"] == "shutting_down"
    assert started.get("/health/live").status_code == 200
    check_problem(started.label(content), 503, "shutting_down")
    answer = upload.finish()
    assert row_of(answer)["model_fingerprint"] == expected["model_fingerprint"]
    assert started.wait() == 0
    check_left_nothing(started)


def test_a_second_signal_ends_it_at_once(started, tmp_path):
    upload = Halfway(started, piece(tmp_path))
    started.signal(signal.SIGTERM)
    wait_until(lambda: started.get("/health/ready").status_code == 503, "the drain")
    began = time.monotonic()
    started.signal(signal.SIGTERM)
    assert started.wait() == 1  # something was not answered
    assert time.monotonic() - began < 5
    check_problem(upload.answer(), 503, "shutting_down")
    check_left_nothing(started)


def test_time_is_up(tiny_checkpoint, tmp_path):
    given = (f"--model={tiny_checkpoint}", *LIGHT, "--shutdown_seconds=1")
    with serving(tmp_path / "served", *given) as served:
        upload = Halfway(served, piece(tmp_path))
        began = time.monotonic()
        served.signal(signal.SIGTERM)
        assert served.wait() == 1
        assert 1 <= time.monotonic() - began < 6
        assert "1 requests are not answered: time is up" in served.stderr
        check_problem(upload.answer(), 503, "shutting_down")
        check_left_nothing(served)


def test_ctrl_c_ends_it_too(started):
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert started.wait() == 0
    check_left_nothing(started)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
def test_sigterm_while_it_starts(tiny_checkpoint, tmp_path, seconds):
    served = Served(tmp_path / "served", f"--model={tiny_checkpoint}", *LIGHT)
    try:
        time.sleep(seconds)
        served.signal(signal.SIGTERM)
        assert served.wait() in (0, -signal.SIGTERM)
        served.wait_until_alone()
        assert "Traceback" not in "\n".join(served.stderr)
    finally:
        served.close()


def test_while_it_loads(tiny_checkpoint, tmp_path):
    served = Served(tmp_path / "served", f"--model={tiny_checkpoint}", *LIGHT)
    try:
        os.kill(wait_until(served.fork_server, "the fork server"), signal.SIGSTOP)
        body = wait_until(lambda: served.get("/health/ready"), "an answer").json()
        assert (body["status"], body["model_loaded"]) == ("loading", False)
        loading = served.label(piece(tmp_path))
        check_problem(loading, 503, "overloaded")
        assert loading.headers["retry-after"] == "1"
        check_problem(served.get("/v1/models"), 503, "overloaded")
        os.kill(served.fork_server(), signal.SIGCONT)
        served.wait_until_ready()
        row_of(served.label(piece(tmp_path)))
    finally:
        served.close()


def test_workers_do_not_outlive_a_server_that_is_killed(started, tmp_path):
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(started.label, long_piece(tmp_path, 0))
        wait_until(lambda: started.metric("batch_windows_count") > 0, "the first batch")
        assert len(started.family()) > 3
        started.signal(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            asked.result()
    assert started.wait() == -signal.SIGKILL
    started.wait_until_alone()


def sound_worker(served: Served) -> list[int]:
    parents = {parent_of(pid) for pid in served.decoders()}
    return [pid for pid in served.workers() if pid in parents]


def model_worker(served: Served) -> list[int]:
    return [pid for pid in served.workers() if pid not in sound_worker(served)]


KILLED: dict[str, Callable[[Served], list[int]]] = {
    "decoders": Served.decoders,
    "sound workers": sound_worker,
    "model worker": model_worker,
    "all workers": Served.workers,
}


@pytest.mark.fault
def test_what_dies_while_it_waits_costs_no_request_an_answer(shared, tmp_path):
    content = piece(tmp_path)
    expected = row_of(shared.label(content))
    for seed, (name, find) in enumerate(KILLED.items()):
        killed = find(shared)
        assert killed, name
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        other = shared.label(piece(tmp_path, seed=seed + 1))
        if other.status_code != 200:
            check_problem(other, 422, "decoder_crash")
            row_of(shared.label(piece(tmp_path, seed=seed + 1)))
        assert row_of(shared.label(content)) == expected
    eventually_empty(shared)


@pytest.mark.fault
def test_a_fork_server_that_dies(started, tmp_path):
    expected = row_of(started.label(piece(tmp_path)))
    os.kill(started.fork_server(), signal.SIGKILL)
    for pid in started.decoders():
        os.kill(pid, signal.SIGKILL)
    row_of(started.label(piece(tmp_path, seed=1)))
    with started.client() as client, pytest.raises(httpx.ReadTimeout):
        files = {"file": ("long.flac", long_piece(tmp_path, 0))}
        client.post("/v1/labels", files=files, timeout=1.0)  # its worker ends with it
    row_of(started.label(piece(tmp_path, seed=2)))
    assert row_of(started.label(piece(tmp_path))) == expected


@pytest.mark.fault
@pytest.mark.parametrize(("name", "status", "reason"), [
    ("decoders", 422, "decoder_crash"),
    ("sound workers", 422, "decoder_crash"),
    ("model worker", 200, None),
])  # fmt: skip
def test_what_dies_in_the_middle_of_a_file(shared, tmp_path, name, status, reason):
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(shared.label, long_piece(tmp_path, len(name)))
        batches = shared.metric("batch_windows_count")
        wait_until(lambda: shared.metric("batch_windows_count") > batches, "the first batch")
        killed = KILLED[name](shared)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        answer = asked.result()
    if reason is None:
        assert row_of(answer)["window_count"] == 750
    else:
        check_problem(answer, status, reason)
    row_of(shared.label(piece(tmp_path)))
    eventually_empty(shared)


def test_the_cache_survives_a_restart_and_a_kill(tiny_checkpoint, separated_checkpoint, tmp_path):
    contents = [piece(tmp_path, seed=seed) for seed in range(2)]
    given = (f"--model={tiny_checkpoint}", *LIGHT)
    with serving(tmp_path / "served", *given) as served:
        rows = [row_of(served.label(content)) for content in contents]
        served.signal(signal.SIGKILL)
        served.wait()
    with serving(tmp_path / "served", *given) as served:
        for content, row in zip(contents, rows, strict=True):
            answer = served.label(content)
            assert row_of(answer) == row
            assert answer.json()["from_cache"]
        assert served.metric("batch_windows_count") == 0
        assert served.stop() == 0
    with serving(tmp_path / "served", f"--model={separated_checkpoint}", *LIGHT) as served:
        answer = served.label(contents[0])
        assert not answer.json()["from_cache"]
        assert row_of(answer)["scores"] != rows[0]["scores"]


def test_a_cache_that_cannot_be_used_costs_only_the_disk(tiny_checkpoint, tmp_path):
    (tmp_path / "file").write_text("in the way")
    given = (f"--model={tiny_checkpoint}", *LIGHT, f"--cache={tmp_path}/file")
    with serving(tmp_path / "served", *given) as served:
        answers = [served.label(piece(tmp_path)).json()["from_cache"] for _ in range(2)]
        assert answers == [False, True]
        assert "results are kept in memory only" in served.stderr[0]


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
def test_an_ipv6_address(tiny_checkpoint, tmp_path):
    given = (f"--model={tiny_checkpoint}", *LIGHT, "--host=::1")
    with serving(tmp_path / "served", *given) as served:
        assert served.url.startswith("http://[::1]:")
        row_of(served.label(piece(tmp_path)))


def test_idle_connections_and_uploads_that_trickle_hold_up_nobody(shared, tmp_path):
    address = httpx.URL(shared.url)
    idle = [socket.create_connection((address.host, address.port or 80)) for _ in range(200)]
    idle[0].sendall(b"GET /health/live HT")
    uploads = [Halfway(shared, piece(tmp_path, seed=seed)) for seed in range(20)]
    began = time.monotonic()
    row_of(shared.label(piece(tmp_path, seed=99)))
    assert time.monotonic() - began < 5
    for connection in idle:
        connection.close()
    for upload in uploads:
        row_of(upload.finish())
    eventually_empty(shared)

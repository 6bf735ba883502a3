"""The API of a running server: its rows are the batch pipeline's, its errors are problems."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import json
import os
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from pipeline import __version__
from tests.audio_files import noise, write_soundfile
from tests.pipeline.processes import wait_until
from tests.pipeline.serving.served import (
    KIND,
    Halfway,
    check_problem,
    eventually_empty,
    form,
    serving,
)
from transforms.records import PredictionRow, WindowRow, schema_of

OWN = {"uri", "track_id", "run_id", "modified_at", "labelled_at", "manifest"}  # of the request
KEY = "s3cret"


@pytest.fixture(scope="module")
def server(catalog, tiny_checkpoint, tmp_path_factory):
    """Started as ``one_worker`` of tests/pipeline/conftest.py was."""
    with serving(
        tmp_path_factory.mktemp("served"),
        f"--model={tiny_checkpoint}",
        "--precision=float32",
        "--embeddings",
        "--features",
        "--max_upload_mib=4",
        "--max_files=30",
        f"--root={catalog.folder}",
    ) as served:
        yield served
        assert served.stop() == 0
        served.wait_until_alone()
        assert not any(served.temporary.iterdir())
        assert "Traceback" not in "\n".join(served.stderr)


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


@pytest.fixture(scope="module")
def files(catalog) -> dict[str, bytes]:
    paths = (path for path in catalog.folder.rglob("*") if path.suffix != ".jpg")
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


@pytest.fixture(scope="module")
def sound(files) -> bytes:
    return files["pcm16.wav"]


def as_stored(row: dict[str, Any], row_class: type) -> dict[str, Any]:
    """A row of the API as Parquet would give it back, without what is the request's own."""
    import pyarrow as pa

    times = {k: dt.datetime.fromisoformat(v) for k, v in row.items() if v and k.endswith("_at")}
    schema = schema_of(row_class)
    assert list(row) == schema.names
    (stored,) = pa.Table.from_pylist([{**row, **times}], schema).to_pylist()
    return without_own(stored)


def without_own(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in OWN | {"features_seconds"}}


def expected(run, dataset: str, name: str) -> list[dict[str, Any]]:
    """The batch's rows of a file, each of its windows once."""
    found = [row for row in run.rows(dataset) if Path(row["uri"] or "").name == name]
    rows = [row for row in found if row.get("track_id") == found[0].get("track_id")]
    names = set(schema_of(PredictionRow if dataset == "predictions" else WindowRow).names)
    return [without_own({k: v for k, v in row.items() if k in names}) for row in rows]


def check_labelled(body: dict[str, Any], run, name: str) -> None:
    assert set(body) == {"prediction", "windows", "from_cache"}
    assert [as_stored(body["prediction"], PredictionRow)] == expected(run, "predictions", name)[:1]
    windows = [as_stored(window, WindowRow) for window in body["windows"]]
    assert windows == expected(run, "windows", name)[: len(windows)]
    assert len(windows) == body["prediction"]["window_count"] > 0


def test_many_files_at_once_are_labelled_as_by_a_batch(server, catalog, one_worker, files):
    names = list(catalog.labelled) * 2
    answers: dict[int, httpx.Response] = {}

    def ask(number: int) -> None:
        answers[number] = server.label(files[names[number]], names[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answer in answers.items():
        check_labelled(answer.json(), one_worker, names[number])
    assert len(answers) == len(names)


def test_every_file_alone_is_labelled_as_by_a_batch(server, catalog, one_worker, files):
    for name in catalog.labelled:
        answer = server.label(files[name], name)
        assert answer.status_code == 200, (name, answer.text)
        body = answer.json()
        check_labelled(body, one_worker, name)
        assert body["prediction"]["uri"] == name
        assert {window["uri"] for window in body["windows"]} == {name}
    eventually_empty(server)


def test_every_file_that_cannot_be_labelled_has_the_batchs_reason(
    server, catalog, one_worker, files
):
    told = {Path(row["uri"] or "").name: row["message"] for row in one_worker.rows("failures")}
    for name in catalog.failed.keys() & files.keys():
        body = check_problem(server.label(files[name], name), 422, catalog.failed[name])
        assert body["detail"] in told[name]  # which begins with the file's name
    eventually_empty(server)


def test_by_uri(server, catalog, one_worker):
    for path in (catalog.folder / "a.m4a", catalog.folder / "a.mka"):
        for uri in (str(path), f"file://{path.parent.as_posix().replace(' ', '%20')}/{path.name}"):
            answer = server.label_uri(uri)
            assert answer.status_code == 200, answer.text[:500]
            check_labelled(answer.json(), one_worker, path.name)
            assert answer.json()["prediction"]["uri"] == uri
    assert path.exists()
    for name in ("missing.mp3", "%2e%2e/manifest.jsonl", "a.wma/b"):
        check_problem(server.label_uri(f"{catalog.folder}/{name}"), 404, "not_found")
    check_problem(server.label_uri(str(catalog.folder / "empty.mp3")), 422, "empty_file")
    for name in ("deep", "x" * 300):
        check_problem(server.label_uri(str(catalog.folder / name)), 422, "unreadable")


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
def test_a_uri_outside(server, catalog, uri):
    link = catalog.folder / "link"
    if not link.is_symlink():
        link.symlink_to("/etc/passwd")
    body = {"uri": uri.format(root=catalog.folder)}
    with server.client() as client:
        answer = client.post(
            "/v1/labels", content=json.dumps(body), headers={"content-type": "application/json"}
        )
    link.unlink()
    found = check_problem(answer, 403, "forbidden")
    assert "root:" not in found["detail"]


def test_a_pipe_within_the_root(server, catalog):
    os.mkfifo(catalog.folder / "pipe")
    try:
        check_problem(server.label_uri(f"{catalog.folder}/pipe"), 422, "unreadable")
    finally:
        (catalog.folder / "pipe").unlink()


def test_a_batch_of_good_and_bad_files(server, catalog, one_worker, files):
    names = [*catalog.failed.keys() & files.keys(), *catalog.labelled]
    answer = server.label_all([(name, files[name]) for name in names])
    assert answer.status_code == 200, answer.text[:500]
    results = answer.json()["results"]
    assert [found["uri"] for found in results] == names
    for name, found in zip(names, results, strict=True):
        assert set(found) == {"uri", "result", "problem"}
        if name in catalog.failed:
            assert found["result"] is None
            assert (found["problem"]["reason"], found["problem"]["status"]) == (
                catalog.failed[name],
                422,
            )
        else:
            assert found["problem"] is None
            check_labelled(found["result"], one_worker, name)
    eventually_empty(server)


def test_a_batch_of_uris(server, catalog, one_worker):
    good = f"{catalog.folder}/a.wma"
    uris = [f"{catalog.folder}/missing.mp3", good, "/etc/passwd", good]
    with server.client() as client:
        answer = client.post("/v1/labels:batch", json={"uris": uris})
    assert answer.status_code == 200, answer.text[:500]
    results = answer.json()["results"]
    assert [found["uri"] for found in results] == uris
    assert [found["problem"] and found["problem"]["reason"] for found in results] == [
        "not_found", None, "forbidden", None,
    ]  # fmt: skip
    check_labelled(results[1]["result"], one_worker, "a.wma")
    assert (
        results[3]["result"]["prediction"]["scores"]
        == (results[1]["result"]["prediction"]["scores"])
    )


def test_the_same_bytes_again_come_out_of_the_cache(server, tmp_path, sound):
    path = write_soundfile(tmp_path / "n.wav", noise(3.0, 22_050, 1, 77), 22_050, "WAV", "PCM_16")
    first, again = (server.label(path.read_bytes(), f"{n}.wav").json() for n in (1, 2))
    assert (first["from_cache"], again["from_cache"]) == (False, True)
    assert (first["prediction"]["uri"], again["prediction"]["uri"]) == ("1.wav", "2.wav")
    assert without_own(first["prediction"]) == without_own(again["prediction"])


def test_names_that_lead_elsewhere(server, sound):
    for name in ("../../etc/passwd", "/etc/passwd", "a\\..\\b", "x" * 500, "‮gnp.wav", "日本 語"):
        answer = server.label(sound, name)
        assert answer.status_code == 200, answer.text[:500]
        shown = answer.json()["prediction"]["uri"]
        assert len(shown) <= 255 and "‮" not in shown
    eventually_empty(server)


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
def test_a_request_that_is_not_as_documented(server, kind, body):
    with server.client() as client:
        headers = {} if kind is None else {"content-type": kind}
        check_problem(
            client.post("/v1/labels", content=body, headers=headers), 422, "invalid_request"
        )
    eventually_empty(server)


@pytest.mark.parametrize("uris", [[], ["/a"] * 31, "/a", [1], [None]])
def test_a_batch_that_is_not_as_documented(server, uris):
    with server.client() as client:
        answer = client.post("/v1/labels:batch", json={"uris": uris})
        check_problem(answer, 422, "invalid_request")
    files = [("file", ("a.wav", b"x"))] * 31
    with server.client() as client:
        check_problem(client.post("/v1/labels:batch", files=files), 422, "invalid_request")


@pytest.mark.parametrize("declared", [True, False])
def test_too_many_bytes(server, declared):
    body = form(bytes((4 << 20) + 1))
    parts = body if declared else iter([body[: 1 << 20], body[1 << 20 :]])
    with server.client() as client:
        answer = client.post("/v1/labels", content=parts, headers={"content-type": KIND})
        check_problem(answer, 413, "too_large")
        assert client.get("/health/live").status_code == 200
    eventually_empty(server)


def test_a_length_that_is_a_lie_is_refused_before_the_body(server):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
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
def test_no_such_route(server, method, path, status, reason):
    with server.client() as client:
        answer = client.request(method, path)
    check_problem(answer, status, reason)
    assert ("allow" in answer.headers) == (status == 405)


def test_what_is_served(server, one_worker, tiny_checkpoint):
    body = server.get("/v1/models").json()
    row = one_worker.rows("predictions")[0]
    model = body["models"][0]
    assert (model["name"], model["task"]) == (tiny_checkpoint.name, "label")
    for name in ("model_fingerprint", "front_end_fingerprint"):
        assert model[name] == row[name]
    assert (model["unknown_threshold"], model["window_seconds"]) == (0.3, 2.0)
    assert model["labels"] == ["classical", "electronic", "pop", "rock"]
    assert [other["task"] for other in body["models"]] == ["label", "follow", "enhance"]
    assert (body["version"], body["limits"]["batch_files"]) == (__version__, 30)
    assert body["limits"]["upload_bytes"] == 4 << 20


def test_health(server):
    assert server.get("/health/live").json() == {"status": "alive"}
    ready = server.get("/health/ready")
    assert ready.status_code == 200
    body = ready.json()
    assert (body["status"], body["model_loaded"]) == ("ready", True)
    assert 100 << 20 < body["memory_bytes"] < body["memory_limit_bytes"]


def test_headers(server):
    for path in ("/v1/models", "/v1/nothing", "/health/live", "/metrics"):
        headers = server.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers
    with server.client() as client:
        answer = client.get("/v1/models", headers={"host": "evil.example"})
    check_problem(answer, 403, "forbidden")


COUNTED = [  # metric, labels
    ("requests_total", {"route": "/v1/labels", "method": "POST", "status": "200"}),
    ("requests_total", {"route": "/v1/labels", "method": "POST", "status": "422"}),
    ("requests_total", {"route": "other", "method": "GET", "status": "404"}),
    ("request_seconds_count", {"route": "/v1/labels"}),
    ("errors_total", {"reason": "not_audio"}),
    ("errors_total", {"reason": "no_such_page"}),
    ("files_total", {"task": "label", "source": "model"}),
    ("files_total", {"task": "label", "source": "cache"}),
    ("cache_total", {"found": "nothing"}),
    ("cache_total", {"found": "result"}),
    ("audio_seconds_total", {}),
    ("batch_windows_sum", {}),
]


def test_metrics_count(server, tmp_path):
    path = write_soundfile(tmp_path / "m.wav", noise(5.0, 22_050, 1, 78), 22_050, "WAV", "PCM_16")
    before = [server.metric(name, **labels) for name, labels in COUNTED]
    for content in (path.read_bytes(), path.read_bytes(), b"no sound " * 100):
        server.label(content)
    server.get("/v1/nothing")
    after = [server.metric(name, **labels) for name, labels in COUNTED]
    grown = np.subtract(after, before).round(3).tolist()
    assert grown == [2, 1, 1, 3, 1, 1, 1, 1, 2, 1, 5.0, 3]
    assert server.metric("batch_windows_count") >= 1
    assert server.metric("queue_depth") == server.metric("windows_waiting") == 0
    assert server.metric("memory_bytes") > 100 << 20


def test_what_a_batch_refuses_is_counted_once(server):
    before = server.metric("errors_total", reason="not_audio")
    server.label_all([("a.wav", b"no sound " * 100), ("b.wav", b"nor here " * 100)])
    assert server.metric("errors_total", reason="not_audio") == before + 2


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


def test_a_client_that_leaves_ends_the_work(server, tmp_path, sound):
    restarts = server.metric("worker_restarts")
    with server.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/labels", files={"file": ("q.flac", quiet(3_500, tmp_path))}, timeout=1.5)
    wait_until(lambda: server.metric("queue_depth") == 0, "the end of the request", 2)
    wait_until(lambda: server.metric("worker_restarts") == restarts + 1, "the worker's end", 2)
    assert server.label(sound).status_code == 200
    eventually_empty(server)


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

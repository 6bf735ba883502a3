"""The API of a running server: its rows are the batch pipeline's, and what it counts."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from pipeline import __version__
from tests.audio_files import noise, write_soundfile
from tests.pipeline.serving.served import (
    check_problem,
    eventually_empty,
)
from transforms.records import PredictionRow, WindowRow, schema_of

pytestmark = pytest.mark.slow  # servers are started

OWN = {"uri", "track_id", "run_id", "modified_at", "labelled_at"}  # of the request


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


def test_many_files_at_once_are_labelled_as_by_a_batch(api_server, catalog, one_worker, files):
    names = list(catalog.labelled) * 2
    answers: dict[int, httpx.Response] = {}

    def ask(number: int) -> None:
        answers[number] = api_server.label(files[names[number]], names[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answer in answers.items():
        check_labelled(answer.json(), one_worker, names[number])
    assert len(answers) == len(names)


def test_every_file_alone_is_labelled_as_by_a_batch(api_server, catalog, one_worker, files):
    for name in catalog.labelled:
        answer = api_server.label(files[name], name)
        assert answer.status_code == 200, (name, answer.text)
        body = answer.json()
        check_labelled(body, one_worker, name)
        assert body["prediction"]["uri"] == name
        assert {window["uri"] for window in body["windows"]} == {name}
    eventually_empty(api_server)


def test_every_file_that_cannot_be_labelled_has_the_batchs_reason(
    api_server, catalog, one_worker, files
):
    told = {Path(row["uri"] or "").name: row["message"] for row in one_worker.rows("failures")}
    for name in catalog.failed.keys() & files.keys():
        body = check_problem(api_server.label(files[name], name), 422, catalog.failed[name])
        assert body["detail"] in told[name]  # which begins with the file's name
    eventually_empty(api_server)


def test_by_uri(api_server, catalog, one_worker):
    for path in (catalog.folder / "a.m4a", catalog.folder / "a.mka"):
        for uri in (str(path), f"file://{path.parent.as_posix().replace(' ', '%20')}/{path.name}"):
            answer = api_server.label_uri(uri)
            assert answer.status_code == 200, answer.text[:500]
            check_labelled(answer.json(), one_worker, path.name)
            assert answer.json()["prediction"]["uri"] == uri
    assert path.exists()
    for name in ("missing.mp3", "%2e%2e/manifest.jsonl", "a.wma/b"):
        check_problem(api_server.label_uri(f"{catalog.folder}/{name}"), 404, "not_found")
    check_problem(api_server.label_uri(str(catalog.folder / "empty.mp3")), 422, "empty_file")
    for name in ("deep", "x" * 300):
        check_problem(api_server.label_uri(str(catalog.folder / name)), 422, "unreadable")


def test_a_batch_of_good_and_bad_files(api_server, catalog, one_worker, files):
    names = [*catalog.failed.keys() & files.keys(), *catalog.labelled]
    answer = api_server.label_all([(name, files[name]) for name in names])
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
    eventually_empty(api_server)


def test_a_batch_of_uris(api_server, catalog, one_worker):
    good = f"{catalog.folder}/a.wma"
    uris = [f"{catalog.folder}/missing.mp3", good, "/etc/passwd", good]
    with api_server.client() as client:
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


def test_the_same_bytes_again_come_out_of_the_cache(api_server, tmp_path, sound):
    path = write_soundfile(tmp_path / "n.wav", noise(3.0, 22_050, 1, 77), 22_050, "WAV", "PCM_16")
    first, again = (api_server.label(path.read_bytes(), f"{n}.wav").json() for n in (1, 2))
    assert (first["from_cache"], again["from_cache"]) == (False, True)
    assert (first["prediction"]["uri"], again["prediction"]["uri"]) == ("1.wav", "2.wav")
    assert without_own(first["prediction"]) == without_own(again["prediction"])


def test_what_is_served(api_server, one_worker, tiny_checkpoint):
    body = api_server.get("/v1/models").json()
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


def test_health(api_server):
    assert api_server.get("/health/live").json() == {"status": "alive"}
    ready = api_server.get("/health/ready")
    assert ready.status_code == 200
    body = ready.json()
    assert (body["status"], body["model_loaded"]) == ("ready", True)
    assert 100 << 20 < body["memory_bytes"] < body["memory_limit_bytes"]


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
    ("cache_total", {"found": "memory"}),
    ("audio_seconds_total", {}),
    ("batch_windows_sum", {}),
]


def test_metrics_count(api_server, tmp_path):
    path = write_soundfile(tmp_path / "m.wav", noise(5.0, 22_050, 1, 78), 22_050, "WAV", "PCM_16")
    before = [api_server.metric(name, **labels) for name, labels in COUNTED]
    for content in (path.read_bytes(), path.read_bytes(), b"no sound " * 100):
        api_server.label(content)
    api_server.get("/v1/nothing")
    after = [api_server.metric(name, **labels) for name, labels in COUNTED]
    grown = np.subtract(after, before).round(3).tolist()
    assert grown == [2, 1, 1, 3, 1, 1, 1, 1, 2, 1, 5.0, 3]
    assert api_server.metric("batch_windows_count") >= 1
    assert api_server.metric("queue_depth") == api_server.metric("windows_waiting") == 0
    assert api_server.metric("memory_bytes") > 100 << 20
    assert api_server.metric("cache_bytes", place="memory") > 1_000


def test_what_a_batch_refuses_is_counted_once(api_server):
    before = api_server.metric("errors_total", reason="not_audio")
    api_server.label_all([("a.wav", b"no sound " * 100), ("b.wav", b"nor here " * 100)])
    assert api_server.metric("errors_total", reason="not_audio") == before + 2

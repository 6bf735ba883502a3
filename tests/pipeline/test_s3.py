"""Input and output on an S3 server: moto's, a process of its own on loopback."""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet as pq
import pytest
from apache_beam.utils import retry as beam_retry

from pipeline.main import main
from tests.audio_files import noise, write_soundfile
from tests.catalog import DATASETS, without_run_columns
from transforms import fetch
from transforms.storage import retry

boto3 = pytest.importorskip("boto3", reason="the extra [aws] is not installed")
pytest.importorskip("moto", reason="moto is not installed")

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
STARTS_WITHIN_S = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    end = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("moto's server does not start")


@pytest.fixture(scope="module")
def server():
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, **KEYS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    """A bucket of music: three tracks at different depths, a sidecar and a broken file."""
    client = boto3.client(
        "s3",
        endpoint_url=server,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="music")
    path = tmp_path_factory.mktemp("s3") / "a.flac"
    write_soundfile(path, noise(1.0, 22_050, 1, 0), 22_050, "FLAC", "PCM_16")
    for key in ("cat/a.flac", "cat/x/b.flac", "cat/x/y/c é.flac"):
        client.put_object(Bucket="music", Key=key, Body=path.read_bytes())
    client.put_object(Bucket="music", Key="cat/cover.jpg", Body=b"picture")
    client.put_object(Bucket="music", Key="cat/broken.mp3", Body=b"no sound")
    return client


def s3_options(server, checkpoint, *options):
    return [f"--model={checkpoint}", "--progress=none", f"--s3_endpoint_url={server}",
            "--s3_access_key_id=key", "--s3_disable_ssl", "--s3_secret_access_key=secret",
            "--s3_region_name=us-east-1", "--precision=float32", *options]  # fmt: skip


def label(server, checkpoint, *options):
    command = [sys.executable, "-m", "pipeline.main", *s3_options(server, checkpoint, *options)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def label_here(server, checkpoint, *options):
    return main([*s3_options(server, checkpoint, *options), "--workers=1"])


def read_rows(client, prefix):
    """Rows by dataset, without what names the run or the time; nothing else may be there."""
    rows = {name: [] for name in DATASETS}
    for item in client.list_objects_v2(Bucket="music", Prefix=f"{prefix}/")["Contents"]:
        _, name, *_ = item["Key"].split("/")
        if name == "runs":
            continue
        content = client.get_object(Bucket="music", Key=item["Key"])["Body"].read()
        rows[name] += pq.read_table(io.BytesIO(content)).to_pylist()
    by_place = {name: sorted(found, key=lambda row: (row["uri"], row.get("window_index", 0)))
                for name, found in rows.items()}  # fmt: skip
    return {name: without_run_columns(found) for name, found in by_place.items()}


def read_records(client, prefix):
    listed = client.list_objects_v2(Bucket="music", Prefix=f"{prefix}/runs/").get("Contents", [])
    bodies = [client.get_object(Bucket="music", Key=item["Key"])["Body"] for item in listed]
    return sorted(map(json.load, bodies), key=lambda record: record.get("started_at", ""))


def test_input_and_output_on_s3(server, client, tiny_checkpoint):
    """Two workers, which need the credentials too; the journal is gone at the end."""
    done = label(
        server, tiny_checkpoint, "--input=s3://music/cat/", "--output=s3://music/out",
        "--workers=2",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = read_rows(client, "out")
    folder = "s3://music/cat"
    uris = [f"{folder}/a.flac", f"{folder}/x/b.flac", f"{folder}/x/y/c é.flac"]
    assert [row["uri"] for row in rows["predictions"]] == uris
    assert all(row["modified_at"] is not None for row in rows["predictions"])
    (record,) = read_records(client, "out")  # and the lock is gone
    counts = record["counts"]
    assert (counts["listed"], counts["labelled"]) == (4, 3)
    assert counts["failed_by_reason"] == {"not_audio": 1}
    assert record["stages"]["RunInference"]["elements_in"] == 1  # all three are the same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input=s3://music/none/**/*.flac", "--output=s3://music/out2"], "matches nothing"),
        (["--input=s3://music/cat/", "--output=s3://nowhere/out"], "cannot be written"),
    ],
)
def test_wrong_calls_on_s3(server, client, tiny_checkpoint, options, message):
    done = label(server, tiny_checkpoint, *options)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    line = done.stderr
    assert message in line


class Proxy:
    """In front of the server: answers 503 where ``refuses(method, path)``."""

    def __init__(self, server, refuses):
        self.refused = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.body()
                if refuses(self.command, self.path):
                    proxy.refused += 1
                    self.reply(503, {}, b"")
                else:
                    self.reply(*forward(server, self.command, self.path, self.headers, body))

            def body(self):
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size + 2)[:size])
                self.rfile.readline()
                return b"".join(parts)

            def reply(self, status, headers, body):
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "connection", "date", "server",
                                            "transfer-encoding"):  # fmt: skip
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(body)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def forward(server, method, path, headers, body):
    """Status, headers and body of the server's own answer; the signature is not looked at."""
    own = ("connection", "transfer-encoding", "content-length", "expect")
    sent = {name: value for name, value in headers.items() if name.lower() not in own}
    host = http.client.HTTPConnection(server.removeprefix("http://"))
    with contextlib.closing(host):
        host.request(method, path, body or None, sent)
        answer = host.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


@pytest.fixture
def no_waiting(monkeypatch):
    """The clients below try again at once, and this project for a second."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(beam_retry.Clock, "sleep", lambda *_: None)
    monkeypatch.setattr(retry, "PATIENCE_SECONDS", 1.0)


@pytest.fixture
def proxied(server, client):
    """A function that starts a proxy, which ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(refuses):
            return stack.enter_context(contextlib.closing(Proxy(server, refuses)))

        yield start


@pytest.fixture(scope="module")
def undisturbed(server, client, tiny_checkpoint):
    options = ("--input=s3://music/cat/", "--output=s3://music/quiet")
    assert label_here(server, tiny_checkpoint, *options) == 0
    return read_rows(client, "quiet")


@pytest.mark.fault
@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("every", [3, 7])
def test_a_busy_server_fails_nothing(
    proxied, client, undisturbed, tiny_checkpoint, monkeypatch, every
):
    monkeypatch.setattr(retry, "PATIENCE_SECONDS", 60.0)
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")  # as users have it
    number = itertools.count(1)
    proxy = proxied(lambda *_: next(number) % every == 0)
    options = ("--input=s3://music/cat/", f"--output=s3://music/busy{every}")
    assert label_here(proxy.url, tiny_checkpoint, *options) == 0
    assert proxy.refused > 5
    assert read_rows(client, f"busy{every}") == undisturbed
    assert [record["status"] for record in read_records(client, f"busy{every}")] == ["done"]


@pytest.mark.fault
@pytest.mark.usefixtures("no_waiting")
def test_a_server_that_is_away_for_a_while_fails_nothing(
    proxied, client, undisturbed, tiny_checkpoint, monkeypatch
):
    """From the first segment on; the clients below do not try again to begin an upload."""
    monkeypatch.setattr(retry, "PATIENCE_SECONDS", 60.0)
    left = 6
    begun = threading.Event()

    def away(method, path):
        nonlocal left
        if method in ("PUT", "POST") and "/journal/" in path and "/tracks-" in path:
            begun.set()
        left -= begun.is_set()
        return begun.is_set() and left > 0

    proxy = proxied(away)
    options = ("--input=s3://music/cat/", "--output=s3://music/away")
    assert label_here(proxy.url, tiny_checkpoint, *options) == 0
    assert proxy.refused == 5
    assert read_rows(client, "away") == undisturbed


@pytest.mark.fault
@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("place", ["journal/", "predictions/"])
def test_a_bucket_that_fails_for_good_stops_the_run_and_later_it_goes_on(
    proxied, server, client, undisturbed, tiny_checkpoint, capsys, place
):
    output = f"bad-{place[:-1]}"
    proxy = proxied(lambda method, path: method != "GET" and f"/{output}/{place}" in path)
    options = ("--input=s3://music/cat/", f"--output=s3://music/{output}")
    assert label_here(proxy.url, tiny_checkpoint, *options) == 1
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"s3://music/{output}/{place}" in errors[0]
    assert "503" in errors[0]
    assert not [line for line in lines if "Traceback" in line]
    assert label_here(server, tiny_checkpoint, *options) == 0
    assert read_rows(client, output) == undisturbed


def test_the_same_again_on_s3_skips_all(server, client, tiny_checkpoint):
    options = ("--input=s3://music/cat/", "--output=s3://music/again")
    assert label_here(server, tiny_checkpoint, *options) == 0
    assert label_here(server, tiny_checkpoint, *options) == 0
    first, second = read_records(client, "again")
    assert (first["counts"]["labelled"], first["counts"]["skipped"]) == (3, 0)
    assert (second["counts"]["labelled"], second["counts"]["skipped"]) == (0, 3)


@pytest.mark.fault
@pytest.mark.usefixtures("no_waiting")
def test_no_room_for_temporary_copies_stops_the_run(
    server, client, undisturbed, tiny_checkpoint, tmp_path, monkeypatch, capsys
):
    """The disk of temporary files is full while a remote file is copied."""

    def full(source, sink):
        raise OSError(28, "No space left on device")

    options = ("--input=s3://music/cat/", "--output=s3://music/no-room")
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_read", full)
        assert label_here(server, tiny_checkpoint, *options) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: no room for a temporary copy in {tempfile.gettempdir()}: free some"
    assert label_here(server, tiny_checkpoint, *options) == 0
    assert read_rows(client, "no-room") == undisturbed

"""An S3 server, moto's, a process of its own on loopback; a bucket of music; a bad way to it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.main import main
from tests.audio_files import noise, write_soundfile
from tests.catalog import DATASETS, without_run_columns

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


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """The url of a server that is there as long as the context."""
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


def bucket_of_music(server: str, folder: Path) -> Any:
    """A bucket of music: three tracks at different depths, a sidecar and a broken file."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="music")
    path = folder / "a.flac"
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

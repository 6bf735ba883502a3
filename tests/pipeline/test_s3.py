"""Input and output on an S3 server: moto's, a process of its own on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from tests.audio_files import noise, write_soundfile

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


def label(server, checkpoint, *options):
    host = server.removeprefix("http://")
    command = [
        sys.executable, "-m", "pipeline.main", f"--model={checkpoint}", "--progress=none",
        f"--s3_endpoint_url=http://{host}", "--s3_access_key_id=key", "--s3_disable_ssl",
        "--s3_secret_access_key=secret", "--s3_region_name=us-east-1", *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_input_and_output_on_s3(server, client, tiny_checkpoint, tmp_path):
    """Two workers, which need the credentials too; the journal is gone at the end."""
    done = label(
        server, tiny_checkpoint, "--input=s3://music/cat/", "--output=s3://music/out",
        "--workers=2",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="music")["Contents"]]
    written = [key for key in keys if key.startswith("out/")]
    assert {key.split("/")[1] for key in written} == {"predictions", "windows", "failures", "runs"}
    uris = []
    for key in written:
        if key.startswith("out/predictions/"):
            client.download_file("music", key, str(tmp_path / "rows.parquet"))
            uris += pq.read_table(tmp_path / "rows.parquet")["uri"].to_pylist()
    folder = "s3://music/cat"
    assert sorted(uris) == [f"{folder}/a.flac", f"{folder}/x/b.flac", f"{folder}/x/y/c é.flac"]
    (run,) = (key for key in written if key.startswith("out/runs/"))
    counts = json.load(client.get_object(Bucket="music", Key=run)["Body"])["counts"]
    assert (counts["listed"], counts["labelled"]) == (4, 3)
    assert counts["failed_by_reason"] == {"not_audio": 1}


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

"""An S3 server that is busy, away or broken, and a full disk of temporary files."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import threading

import pytest
from apache_beam.utils import retry as beam_retry

from tests.pipeline.s3_server import (
    Proxy,
    bucket_of_music,
    label_here,
    read_records,
    read_rows,
    running_server,
)
from transforms import fetch
from transforms.storage import retry

pytest.importorskip("boto3", reason="the extra [aws] is not installed")
pytest.importorskip("moto", reason="moto is not installed")

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.fixture(scope="module")
def server():
    with running_server() as url:
        yield url


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    return bucket_of_music(server, tmp_path_factory.mktemp("s3"))


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


@pytest.mark.usefixtures("no_waiting")
def test_no_room_for_temporary_copies_stops_the_run(
    server, client, undisturbed, tiny_checkpoint, tmp_path, monkeypatch, capsys
):
    """The disk of temporary files is full while a remote file is copied."""

    def full(*_):
        raise OSError(28, "No space left on device")

    options = ("--input=s3://music/cat/", "--output=s3://music/no-room")
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_read", full)
        assert label_here(server, tiny_checkpoint, *options) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: no room for a temporary copy in {tempfile.gettempdir()}: free some"
    assert label_here(server, tiny_checkpoint, *options) == 0
    assert read_rows(client, "no-room") == undisturbed

"""Beam's S3 file system with shared clients; no server is asked."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from apache_beam.io.aws import s3io
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage import s3_clients

boto3 = pytest.importorskip("boto3", reason="the extra [aws] is not installed")


@pytest.fixture(autouse=True)
def _shared():
    s3_clients.share_s3_clients()
    s3_clients._clients.clear()
    yield
    s3_clients._clients.clear()


def client(**changed: str) -> Any:
    """The boto3 client of a new operation."""
    told = {"endpoint_url": "http://127.0.0.1:9", "access_key_id": "key",
            "secret_access_key": "secret", "region_name": "us-east-1"} | changed  # fmt: skip
    options = PipelineOptions([f"--s3_{name}={value}" for name, value in told.items()])
    return s3io.S3IO(options=options).client.client


def test_operations_share_a_client_whatever_thread_they_are_in():
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: client(), range(32)))
    assert {id(one) for one in found} == {id(client())}
    assert found[0].meta.endpoint_url == "http://127.0.0.1:9"
    s3_clients.share_s3_clients()  # once more changes nothing
    assert client() is found[0]


def test_other_settings_have_another_client(monkeypatch):
    first = client()
    assert client(secret_access_key="other") is not first
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    changed = client()
    assert changed is not first
    assert changed.meta.config.retries["total_max_attempts"] == 1
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    assert client() is first


def test_a_client_is_renewed_after_a_while(monkeypatch):
    first, now = client(), time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + s3_clients._RENEWED_SECONDS)
    assert client() is not first
    assert len(s3_clients._clients) == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
def test_a_fork_does_not_use_its_parents_connections():
    first = client()
    with s3_clients._lock:  # another thread's, when it forks
        child = os.fork()
        if child == 0:
            os._exit(0 if client() is not first and not s3_clients._lock.locked() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client() is first

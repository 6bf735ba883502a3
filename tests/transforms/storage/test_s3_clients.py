"""Beam's S3 file system with shared clients; no server is asked."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from apache_beam.io.aws import s3io
from apache_beam.options.pipeline_options import PipelineOptions

from transforms import mentions
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
    assert client() is changed
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    assert client().meta.config.retries != changed.meta.config.retries


def test_credentials_that_are_renewed_in_their_file_are_taken_at_once(monkeypatch, tmp_path):
    file = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    without_keys = PipelineOptions(["--s3_region_name=us-east-1"])

    def key_of(name: str) -> str:
        file.write_text(f"[default]\naws_access_key_id={name}\naws_secret_access_key=secret\n")
        os.utime(file, ns=(0, len(name)))
        used = s3io.S3IO(options=without_keys).client.client
        return used._request_signer._credentials.access_key

    assert key_of("old") == "old"
    assert key_of("renewed") == "renewed"
    assert len(s3_clients._clients) == 1


def test_a_home_that_cannot_be_looked_into_is_no_obstacle(monkeypatch):
    def refused(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", refused)
    assert list(s3_clients._outside())[-1] == ("AWS_CONFIG_FILE", None)


def test_it_has_connections_for_all_threads_that_ask_storage():
    assert client().meta.config.max_pool_connections >= mentions._THREADS


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
def test_a_fork_does_not_use_its_parents_connections():
    first = client()
    with s3_clients._lock:  # another thread's, when it forks
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = int(client() is first or s3_clients._lock.locked())
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client() is first

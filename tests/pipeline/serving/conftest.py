"""Servers that take seconds to start, for all tests: of the service alone, and of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.enhanced import make_16khz_enhancer
from tests.pipeline.serving.in_process import (
    MOST_SECONDS,
    Served,
    forget,
    is_idle,
    own_fork_server,
    served,
    wait_until,
)
from tests.pipeline.serving.served import serving


@pytest.fixture(scope="package")
def fork_server() -> Iterator[None]:
    with own_fork_server():
        yield


@pytest.fixture(scope="package")
def enhancer(tmp_path_factory) -> Path:
    return make_16khz_enhancer(tmp_path_factory.mktemp("enhancer") / "small")


@pytest.fixture(scope="package")
def running(fork_server, tiny_checkpoint, enhancer) -> Iterator[Served]:
    options = (f"--model={tiny_checkpoint}", f"--enhancer={enhancer}", "--batch_size=2",
               f"--max_audio_seconds={MOST_SECONDS}")  # fmt: skip
    with served(*options) as service:
        yield service


@pytest.fixture
def service(running) -> Iterator[Served]:
    """Is whole and has nothing to do, before and after."""
    forget(running)
    yield running
    wait_until(lambda: is_idle(running))


@pytest.fixture(scope="package")
def api_server(catalog, tiny_checkpoint, tmp_path_factory):
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


@pytest.fixture(scope="package")
def files(catalog) -> dict[str, bytes]:
    paths = (path for path in catalog.folder.rglob("*") if path.suffix != ".jpg")
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


@pytest.fixture(scope="package")
def sound(files) -> bytes:
    return files["pcm16.wav"]

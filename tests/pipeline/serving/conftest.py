"""One server of forks, which takes seconds to start, for all tests of the service."""

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

"""One server of forks, which takes seconds to start, for all tests of the service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipeline.serving.in_process import own_fork_server


@pytest.fixture(scope="package")
def fork_server() -> Iterator[None]:
    with own_fork_server():
        yield

"""Fixtures that tests of several stages share."""

from __future__ import annotations

import pytest

from tests.memory_files import FakeClock, MemoryFileSystem


@pytest.fixture
def memory_files(monkeypatch) -> dict[str, bytes]:
    """The content of ``memtest://``, empty."""
    content: dict[str, bytes] = {}
    monkeypatch.setattr(MemoryFileSystem, "content", content)
    monkeypatch.setattr(MemoryFileSystem, "stops", [])
    return content


@pytest.fixture
def no_waiting(monkeypatch) -> FakeClock:
    """Let :func:`transforms.storage.retry.retried` try again at once, everywhere."""
    clock = FakeClock()
    monkeypatch.setattr("apache_beam.utils.retry.Clock", lambda: clock)
    return clock

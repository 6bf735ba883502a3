"""The memory between a worker and its decoder."""

from __future__ import annotations

import os

import numpy as np
import pytest

from transforms.audio.readers import BLOCK_SAMPLES
from transforms.audio.shared_block import mapped, new_block, read_block


@pytest.fixture(params=["memfd", "file"], autouse=True)
def kind(request, monkeypatch, tmp_path) -> None:
    if request.param == "memfd" and not hasattr(os, "memfd_create"):
        pytest.skip("this Python has no memfd_create")
    if request.param == "file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_what_one_side_writes_the_other_reads(tmp_path) -> None:
    with new_block() as file:
        samples = mapped(file.fileno())
        assert samples.shape == (BLOCK_SAMPLES,) and samples.dtype == np.float32
        samples[:4] = [0.25, -1.0, 7.0, 3.0]
        samples[-1] = 0.5
        assert read_block(file, (2, 2)).tolist() == [[0.25, -1.0], [7.0, 3.0]]
        assert read_block(file, (BLOCK_SAMPLES, 1))[-1] == 0.5
    assert list(tmp_path.iterdir()) == []


def test_what_was_read_stays_when_the_next_block_comes() -> None:
    with new_block() as file:
        samples = mapped(file.fileno())
        samples[:2] = 1.0
        first = read_block(file, (2, 1))
        samples[:2] = 2.0
        assert first.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("size", [0, 4, 4 * BLOCK_SAMPLES - 1])
def test_memory_that_the_other_side_has_cut_off_is_seen(size) -> None:
    with new_block() as file:
        os.ftruncate(file.fileno(), size)
        assert read_block(file, (BLOCK_SAMPLES, 1)) is None

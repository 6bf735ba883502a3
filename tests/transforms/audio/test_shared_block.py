"""The memory between a worker and its decoder."""

from __future__ import annotations

import os

import numpy as np
import pytest

from transforms.audio.readers import BLOCK_SAMPLES
from transforms.audio.shared_block import BLOCK_BYTES, mapped, new_block


def test_what_one_side_writes_the_other_reads() -> None:
    with new_block() as fd:
        one, other = mapped(fd), mapped(fd)
    one[:3] = [0.25, -1.0, 7.0]
    one[-1] = 0.5
    assert other[:3].tolist() == [0.25, -1.0, 7.0] and other[-1] == 0.5
    assert other.shape == (BLOCK_SAMPLES,) and other.dtype == np.float32


def test_the_memory_outlives_its_descriptor() -> None:
    with new_block() as fd:
        samples = mapped(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    samples[0] = 1.0


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory is sealed on Linux alone")
@pytest.mark.parametrize("size", [0, 1, 2 * BLOCK_BYTES])
def test_a_child_cannot_take_the_memory_from_under_its_worker(size) -> None:
    with new_block() as fd, pytest.raises(PermissionError):
        os.truncate(fd, size)


def test_without_memfd_a_file_does(monkeypatch, tmp_path) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with new_block() as fd:
        one, other = mapped(fd), mapped(fd)
    one[-1] = 0.5
    assert other[-1] == 0.5
    assert list(tmp_path.iterdir()) == []

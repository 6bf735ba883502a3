"""The memory that a worker shares with its decoding child: samples cross it, not a pipe."""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile

import numpy as np

from transforms.audio.readers import BLOCK_SAMPLES
from transforms.records import FloatArray

SAMPLE = np.dtype("<f4")
BLOCK_BYTES = BLOCK_SAMPLES * SAMPLE.itemsize


def new_block() -> int:
    """Make the memory: a file descriptor, for both sides to pass to :func:`mapped`.

    On Linux no side can make it smaller under the other.
    """
    if not hasattr(os, "memfd_create"):  # macOS
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
        os.truncate(fd, BLOCK_BYTES)
        return fd
    fd = os.memfd_create("samples", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, BLOCK_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def mapped(fd: int) -> FloatArray:
    """The memory as samples, float32 of shape (BLOCK_SAMPLES,); closes the descriptor."""
    try:
        return np.frombuffer(mmap.mmap(fd, BLOCK_BYTES), SAMPLE)
    finally:
        os.close(fd)

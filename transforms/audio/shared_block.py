"""The memory that a worker shares with its decoding child: samples cross it, not a pipe."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from transforms.audio.readers import BLOCK_SAMPLES
from transforms.records import FloatArray

SAMPLE = np.dtype("<f4")
BLOCK_BYTES = BLOCK_SAMPLES * SAMPLE.itemsize


@contextlib.contextmanager
def new_block() -> Iterator[int]:
    """Make the memory: a file descriptor, for both sides to pass to :func:`mapped`.

    On Linux no side can make it smaller under the other.
    """
    with _new_file() as file:
        file.truncate(BLOCK_BYTES)
        if hasattr(os, "memfd_create"):
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
        yield file.fileno()


def _new_file() -> IO[bytes]:
    if not hasattr(os, "memfd_create"):  # macOS
        return tempfile.TemporaryFile()
    fd = os.memfd_create("samples", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    return os.fdopen(fd, "r+b", buffering=0)


def mapped(fd: int) -> FloatArray:
    """The memory as samples, float32 of shape (BLOCK_SAMPLES,); does not need ``fd`` to stay."""
    return np.frombuffer(mmap.mmap(fd, BLOCK_BYTES), SAMPLE)

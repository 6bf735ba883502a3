"""The memory through which a decoding child hands samples to its worker, instead of a pipe.

The child writes through a mapping. The worker reads by file descriptor: what a child has cut off
is a short read to it, not a signal.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import IO

import numpy as np

from transforms.audio.decoder_process import write_all
from transforms.audio.readers import BLOCK_SAMPLES
from transforms.records import FloatArray

SAMPLE = np.dtype("<f4")
BLOCK_BYTES = BLOCK_SAMPLES * SAMPLE.itemsize


def new_block() -> IO[bytes]:
    """Make the memory: an open file without a name, full of zeros, so that it needs no more room.

    Raises
    ------
    OSError
        If there are no files or no room left.
    """
    file = _new_file()
    try:
        write_all(file.fileno(), bytes(BLOCK_BYTES))
    except BaseException:
        file.close()
        raise
    return file


def _new_file() -> IO[bytes]:
    if not hasattr(os, "memfd_create"):  # macOS, and Pythons built for old Linux
        return tempfile.TemporaryFile()
    return os.fdopen(os.memfd_create("samples", os.MFD_CLOEXEC), "r+b", buffering=0)


def mapped(fd: int) -> FloatArray:
    """The memory as samples, float32 of shape (BLOCK_SAMPLES,); does not need ``fd`` to stay."""
    return np.frombuffer(mmap.mmap(fd, BLOCK_BYTES), SAMPLE)


def read_block(file: IO[bytes], shape: tuple[int, int]) -> FloatArray | None:
    """Copy samples of ``shape``, (frames, channels); None if there are not as many."""
    samples = np.empty(shape, SAMPLE)
    if os.preadv(file.fileno(), [samples.data], 0) < samples.nbytes:
        return None
    return samples.astype(np.float32, copy=False)

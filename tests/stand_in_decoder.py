"""A decoding child that misbehaves on demand: ``python -m tests.stand_in_decoder MEMORY_BYTES``.

It serves the protocol of transforms.audio.decoder_process. A file that begins with MARKER and the
name of a misbehaviour (:func:`write_marked`) is not decoded but suffered; all others are decoded as
ever.
Give it as ``DecoderLimits(command=COMMAND)``.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from transforms.audio import decoder_process
from transforms.audio.decoders import open_audio
from transforms.audio.readers import AudioInfo
from transforms.audio.sandbox import Sandbox
from transforms.records import FloatArray

COMMAND = (sys.executable, "-m", "tests.stand_in_decoder")
MARKER = b"stand-in decoder: "
RATE_HZ = 1_000
BLOCK = np.full((RATE_HZ, 1), 0.25, dtype=np.float32)  # a second of what marked files sound like
FOREVER_S = 3_600
OPENED = itertools.count()  # files in this process; see abort_when_reused


class MarkedAudio:
    """What transforms.audio.decoders.Audio looks like, with blocks from a generator."""

    def __init__(self, blocks: Iterator[FloatArray]) -> None:
        self.info = AudioInfo("marked", "marked", "stand-in", RATE_HZ, 1)
        self.frames = 0
        self.mono_seconds = 0.0
        self.exact_frames = None
        self.warnings: tuple[str, ...] = ()
        self._blocks = blocks

    def blocks(self) -> Iterator[FloatArray]:
        for block in self._blocks:
            self.frames += len(block)
            yield block

    def close(self) -> None:
        if self.frames == 7:  # see fail_to_close
            os.abort()


def hang() -> None:
    time.sleep(FOREVER_S)


def hang_native() -> None:
    """Sleep in C without letting go of the interpreter: no Python signal handler can run."""
    ctypes.PyDLL(None).sleep(FOREVER_S)


def segfault() -> None:
    ctypes.string_at(0)


def end() -> None:
    os._exit(3)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_out_of_time() -> None:
    """As when the parent has been too busy to notice."""
    os.kill(os.getpid(), signal.SIGALRM)


def allocate() -> None:
    held = []
    for _ in range(512):  # 8 GiB: enough to be noticed, where nothing stops it
        held.append(b"x" * (1 << 24))


def fail() -> None:
    raise ValueError("not what anyone expected")


def write_a_file() -> None:
    file, name = tempfile.mkstemp(dir=os.environ.get("TMPDIR", "/tmp"))
    os.unlink(name)
    os.write(file, b"x")


def say_garbage() -> None:
    """Write over the protocol's own pipe, as no library can, but a hijacked child."""
    for fd in range(3, 64):
        try:
            os.write(fd, b"\xff" * 64)
        except OSError:
            continue


def cut_off_samples() -> None:
    """Make the shared memory shorter than the next block."""
    for fd in range(3, 64):
        try:
            os.ftruncate(fd, 4)
        except OSError:
            continue


def at_once(misbehave: Callable[[], Any]) -> Callable[[], Iterator[FloatArray]]:
    def blocks() -> Iterator[FloatArray]:
        misbehave()
        yield BLOCK

    return blocks


def block_then(misbehave: Callable[[], Any]) -> Callable[[], Iterator[FloatArray]]:
    def blocks() -> Iterator[FloatArray]:
        yield BLOCK
        misbehave()

    return blocks


def print_and_decode() -> Iterator[FloatArray]:
    for fd in (1, 2):
        os.write(fd, b"a library in C says what it thinks\n")
    yield BLOCK


def slow_but_steady() -> Iterator[FloatArray]:
    """24 s of sound, in 3.6 s."""
    for _ in range(24):
        time.sleep(0.15)
        yield BLOCK


def slower_than_sound() -> Iterator[FloatArray]:
    """A tenth of a second of sound every half second, without end."""
    while True:
        time.sleep(0.5)
        yield BLOCK[: RATE_HZ // 10]


def one_large_block() -> Iterator[FloatArray]:
    yield np.arange(1_000_000, dtype=np.float32).reshape(-1, 1)


def environment() -> Iterator[FloatArray]:
    """The environment as a sound: a sample for each of its bytes."""
    text = "\n".join(f"{name}={value}" for name, value in os.environ.items()).encode()
    yield np.frombuffer(text, np.uint8).astype(np.float32).reshape(-1, 1)


def three_frames() -> Iterator[FloatArray]:
    for _ in range(3):
        yield BLOCK[:1]


def process() -> Iterator[FloatArray]:
    """About this process: its number, its session's, and its limits of core and file sizes."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE)]
    facts = [os.getpid(), os.getsid(0), *limits]
    yield np.array(facts, np.float32).reshape(-1, 1)  # exact: less than 2**24


def abort_when_reused() -> Iterator[FloatArray]:
    """As a process does whose memory an earlier file has damaged."""
    if next(OPENED) > 1:
        os.abort()
    yield BLOCK  # taken by `open_`
    yield BLOCK


def fail_to_close() -> Iterator[FloatArray]:
    yield BLOCK[:7]


MISBEHAVIOURS: dict[str, Callable[[], Iterator[FloatArray]]] = {
    **{
        f.__name__: at_once(f)
        for f in (
            hang, hang_native, run_out_of_time, os.abort, segfault, end, kill, allocate, fail,
            write_a_file, say_garbage, cut_off_samples,
        )
    },
    "block_then_hang": block_then(hang),
    "block_then_abort": block_then(os.abort),
    **{
        f.__name__: f
        for f in (
            print_and_decode, slow_but_steady, slower_than_sound, one_large_block, environment,
            fail_to_close, three_frames, process, abort_when_reused,
        )
    },
}  # fmt: skip


def process_facts(sandbox: Sandbox, folder: Path) -> dict[str, int]:
    """About the child, see :func:`process`; a small file in ``folder`` asks for it."""
    with sandbox.open(write_marked(folder / "process", "process")) as audio:
        (block,) = audio.blocks()
    names = ("number", "session", "core_bytes", "file_bytes")
    return dict(zip(names, block[:, 0].astype(int).tolist(), strict=True))


def write_marked(path: Path, misbehaviour: str) -> Path:
    """Write a file on which this decoder misbehaves; ``open_`` in front: already in open."""
    name = misbehaviour.removeprefix("open_")
    if name not in MISBEHAVIOURS:
        raise KeyError(misbehaviour)
    path.write_bytes(MARKER + misbehaviour.encode())
    return path


def stand_in_open(path: Path, **options: Any) -> Any:
    """transforms.audio.decoders.open_audio, but for marked files."""
    next(OPENED)
    if path.is_file():
        with path.open("rb") as file:
            begin = file.read(100)
        if begin.startswith(MARKER):
            return marked(begin.removeprefix(MARKER).decode())
    return open_audio(path, **options)


def marked(misbehaviour: str) -> MarkedAudio:
    blocks = MISBEHAVIOURS[misbehaviour.removeprefix("open_")]()
    if misbehaviour.startswith("open_"):
        next(blocks)
    return MarkedAudio(blocks)


if __name__ == "__main__":
    decoder_process.run(lambda: stand_in_open, sys.argv[1:])

"""A running transforms.audio.decoder_process, as its parent holds it: start it, ask it, end it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from transforms.audio.decoder_process import LENGTH, MOST_SECONDS, START_SECONDS, write_all
from transforms.audio.decoder_replies import GarbledError, Reply, parsed
from transforms.audio.shared_block import new_block, read_block
from transforms.errors import WorkerError
from transforms.malloc import KEEP_FREED_MEMORY
from transforms.records import FloatArray

COMMAND = ("-m", "transforms.audio.decoder_process")
MAX_HEADER_BYTES = 1 << 16
END_SECONDS = 10.0  # for the kernel, after SIGKILL
FAILED_START = "the audio decoder does not start"
MOST_TOLD = 4_000  # characters of what the child wrote to stderr
KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "HOME", "TMPDIR")
KEPT_PREFIXES = ("PYTHON", "LC_", "DYLD_")


class EndedError(Exception):
    """The child closed its end: it exited, crashed or was killed."""


class LateError(Exception):
    """The child gave no reply within the limit."""


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the child needs of the worker's environment: no credentials.

    Parameters
    ----------
    environ : mapping
        ``os.environ`` of the worker.
    """
    kept = {k: v for k, v in environ.items() if k in KEPT or k.startswith(KEPT_PREFIXES)}
    root = Path(__file__).resolve().parents[2]  # `transforms` is there, wherever we run
    # Where it is installed it is found anyway, and must not come before the standard library.
    own = [] if root.name in ("site-packages", "dist-packages") else [str(root)]
    path = [*own, *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",  # import nothing from the current folder (from Python 3.11 on)
        # Threads and their heaps take address space, which is limited.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        **{name: environ.get(name, value) for name, value in KEEP_FREED_MEMORY.items()},
    }


class Child:
    """A child process; the first request waits until it is ready.

    Parameters
    ----------
    command : tuple of str
        Empty for this program's interpreter and transforms.audio.decoder_process.
    memory_bytes : int
        What the child may take beyond what it has after its imports.

    Raises
    ------
    WorkerError
        If it cannot be started.
    """

    def __init__(self, command: tuple[str, ...], memory_bytes: int) -> None:
        self._line = [*(command or (sys.executable, *COMMAND)), str(memory_bytes)]
        with contextlib.ExitStack() as opened:
            try:
                self._stderr = opened.enter_context(tempfile.TemporaryFile())
                self._samples = opened.enter_context(new_block())
                fd = self._samples.fileno()
                self._process = _started([*self._line, str(fd)], self._stderr, fd)
            except OSError as error:
                raise WorkerError(_not_started(self._line, str(error))) from error
            opened.pop_all()
        self._deadline_s = time.monotonic() + START_SECONDS
        self.stop = weakref.finalize(self, _end, self._process)  # also when garbage collected
        ends: list[weakref.finalize[Any, Any]] = [self.stop]
        ends += [weakref.finalize(self, file.close) for file in (self._stderr, self._samples)]
        # Not at the interpreter's exit, which a thread that decodes would take for a crash. The
        # child ends by itself when this process does.
        for end in ends:
            end.atexit = False
        self._replies = _fd(self._process.stdout)
        self._poll = select.poll()  # select.select() cannot take numbers of 1,024 and more
        self._poll.register(self._replies, select.POLLIN)

    def wait_until_ready(self) -> None:
        """Wait for the end of its imports, once.

        Raises
        ------
        WorkerError
            If it does not start; the message has the command and what it wrote to stderr.
        """
        if not self._stderr.closed:
            with self._stderr as stderr:
                self._receive_ready(self._line, stderr)

    def _receive_ready(self, line: list[str], stderr: IO[bytes]) -> None:
        try:
            self._receive(self._deadline_s)
        except (EndedError, LateError, GarbledError) as error:
            status = self.exit_status() if isinstance(error, EndedError) else None
            self.stop()
            stderr.seek(0)
            told = stderr.read().decode(errors="replace").strip()[-MOST_TOLD:]
            why = f"{type(error).__name__} {error}, exit status {status}, stderr: {told or 'empty'}"
            raise WorkerError(_not_started(line, why)) from error
        except BaseException:
            self.stop()
            raise

    @property
    def is_running(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any], seconds: float) -> tuple[Reply, FloatArray | None]:
        """Send a request and wait for its reply.

        Parameters
        ----------
        request : mapping
            See transforms.audio.decoder_process.Server.
        seconds : float
            The most to wait.

        Returns
        -------
        reply : Reply
        samples : numpy.ndarray or None
            (frames, channels) float32, of the reply's shape.

        Raises
        ------
        EndedError, LateError, GarbledError
            The child is of no use any more; stop it.
        """
        seconds = min(max(seconds, 0.0), MOST_SECONDS)
        deadline_s = time.monotonic() + seconds
        text = json.dumps({**request, "seconds": seconds}).encode()
        try:
            write_all(_fd(self._process.stdin), text + b"\n")
        except BrokenPipeError as error:
            raise EndedError from error
        return self._receive(deadline_s)

    def exit_status(self) -> int:
        """End it, and return its exit status, negative for the signal that ended it.

        A child that hung up on its own is given a moment to end on its own.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self.stop()
        status = self._process.returncode
        return -signal.SIGKILL if status is None else status

    def _receive(self, deadline_s: float) -> tuple[Reply, FloatArray | None]:
        (length,) = LENGTH.unpack(self._bytes(LENGTH.size, deadline_s))
        if length > MAX_HEADER_BYTES:
            raise GarbledError(f"a header of {length} bytes")
        reply = parsed(self._bytes(length, deadline_s))
        if reply.shape is None:
            return reply, None
        samples = read_block(self._samples, reply.shape)
        if samples is None:
            raise GarbledError(f"no {reply.shape} samples")
        return reply, samples

    def _bytes(self, count: int, deadline_s: float) -> bytes:
        buffer = bytearray(count)
        rest = memoryview(buffer)
        while rest:
            remaining_s = max(0.0, deadline_s - time.monotonic())
            if not self._poll.poll(math.ceil(1_000 * remaining_s)):
                raise LateError
            count = os.readv(self._replies, [rest])
            if count == 0:
                raise EndedError
            rest = rest[count:]
        return bytes(buffer)


def _not_started(line: list[str], why: str) -> str:
    """In one line, in which a worker's error reaches the launching process."""
    told = " | ".join(why.splitlines())
    return f"{FAILED_START}: {line}: {told}; when that is mended, start the run again to go on"


def _started(line: list[str], stderr: IO[bytes], samples: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        line,
        pass_fds=[samples],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=0,
        env=child_environment(os.environ),
        start_new_session=True,  # Ctrl-C at the terminal is the worker's business
    )


def _fd(pipe: IO[bytes] | None) -> int:
    if pipe is None:
        raise ValueError("the child has no such pipe")
    return pipe.fileno()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    # A process that waits for a dead network drive cannot be killed: leave it to the drive.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()

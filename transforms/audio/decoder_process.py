"""The child process in which audio is decoded; its other side is transforms.audio.sandbox.

    python -m transforms.audio.decoder_process MEMORY_BYTES SAMPLES

Requests come on stdin, one JSON object per line, and each gets exactly one reply: the length of
a JSON header (4 bytes, little-endian) and the header. Where that has a ``shape``
(frames, channels), so many samples stand in the memory behind the file descriptor SAMPLES
(transforms.audio.shared_block), until the next request. No pickle: neither side runs what the
other says. Nothing but the standard library is imported before the decoders are, so that a
worker can import this module for its constants.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transforms.errors import Reason, StageError

if TYPE_CHECKING:
    from transforms.audio.decoders import Audio
    from transforms.records import FloatArray

LENGTH = struct.Struct("<I")  # of the header that follows, in bytes
START_SECONDS = 60.0  # for the imports, on a machine that has other things to do
GRACE_SECONDS = 2  # how long the child outlives a limit that its parent should have enforced
MOST_SECONDS = 1_000_000.0  # of a limit: what alarm() and poll() can hold
COUNT_SECONDS = 1.0  # between two replies while counting
MESSAGE_CHARACTERS = 2_000  # so that the header stays short

Request = Mapping[str, Any]
Answer = tuple[dict[str, Any], "FloatArray | None"]
OpenAudio = Callable[..., "Audio"]


def write_all(fd: int, data: bytes) -> None:
    """Write to a file or a pipe that may take it in pieces."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def pieces(blocks: Iterable[FloatArray], most_samples: int) -> Iterator[FloatArray]:
    """Pass on blocks of shape (frames, channels), the long ones in parts of ``most_samples``."""
    for block in blocks:
        frames = max(1, most_samples // block.shape[1])
        for start in range(0, len(block), frames):
            yield block[start : start + frames]


class Server:
    """Answers requests about one file at a time.

    Parameters
    ----------
    open_audio : callable
        transforms.audio.decoders.open_audio, or what stands in for it.
    """

    def __init__(self, open_audio: OpenAudio) -> None:
        self._open_audio = open_audio
        self._audio: Audio | None = None
        self._streams: dict[str, Iterator[FloatArray]] = {}
        self._busy_s = 0.0  # with the open file

    def answer(self, request: Request) -> Answer:
        """Do what is asked.

        Parameters
        ----------
        request : mapping
            ``op`` is open (path, max_seconds, channel_rule), exact, part (first, last), next or
            count (of: blocks or part), or close.

        Returns
        -------
        header : dict
        samples : numpy.ndarray or None
            (frames, channels) float32.
        """
        operations: dict[str, Callable[[Request], Answer]] = {
            "open": self._open, "exact": self._exact, "part": self._part, "next": self._next,
            "count": self._count, "close": self._close,
        }  # fmt: skip
        started = time.perf_counter()
        header, samples = operations[request["op"]](request)
        self._busy_s += time.perf_counter() - started
        return header | {"busy_seconds": self._busy_s}, samples

    def _open(self, request: Request) -> Answer:
        self._close(request)  # the one before, if its reader went away
        audio = self._open_audio(
            Path(request["path"]),
            max_seconds=request["max_seconds"],
            channel_rule=request["channel_rule"],
        )
        self._audio = audio
        self._streams = {"blocks": _bounded(audio.blocks())}
        return self._state(), None

    def _exact(self, request: Request) -> Answer:
        return self._state() | {"exact_frames": self._open_one().exact_frames}, None

    def _part(self, request: Request) -> Answer:
        blocks = self._open_one().part(request["first"], request["last"])
        self._streams["part"] = _bounded(blocks)
        return self._state(), None

    def _next(self, request: Request) -> Answer:
        block = next(self._streams[request["of"]], None)
        if block is None:
            return self._state() | {"ended": True}, None
        return self._state() | {"shape": list(block.shape)}, block

    def _count(self, request: Request) -> Answer:
        end_s = time.monotonic() + COUNT_SECONDS
        for _ in self._streams[request["of"]]:
            if time.monotonic() >= end_s:
                return self._state(), None
        return self._state() | {"ended": True}, None

    def _close(self, request: Request) -> Answer:
        audio, self._audio, self._streams = self._audio, None, {}
        self._busy_s = 0.0
        if audio is not None:
            audio.close()
        return {}, None

    def _open_one(self) -> Audio:
        if self._audio is None:
            raise RuntimeError("no file is open")
        return self._audio

    def _state(self) -> dict[str, Any]:
        audio = self._open_one()
        return {
            "info": dataclasses.asdict(audio.info),
            "frames": audio.frames,
            "warnings": list(audio.warnings),
            "mono_seconds": audio.mono_seconds,
        }


def _bounded(blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
    from transforms.audio.readers import BLOCK_SAMPLES

    return pieces(blocks, BLOCK_SAMPLES)


def _answered(server: Server, request: Request) -> Answer:
    try:
        return server.answer(request)
    except StageError as error:
        reason, message = error.reason, error.message
    except MemoryError:
        reason, message = Reason.OUT_OF_MEMORY, ""
    except Exception as error:  # the parent reports it; it kills this process and starts another
        reason, message = Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}"
    return {"error": reason.value, "message": message[:MESSAGE_CHARACTERS]}, None


def serve(
    server: Server, requests: Iterable[bytes], reply_fd: int, samples: FloatArray
) -> None:
    """Answer one request after the other until there are no more, with samples in ``samples``.

    A request's ``seconds`` are the parent's limit. Should the parent be gone by then, SIGALRM
    ends this process, even out of native code.
    """
    for line in requests:
        request = json.loads(line)
        signal.alarm(math.ceil(min(request["seconds"], MOST_SECONDS)) + GRACE_SECONDS)
        header, block = _answered(server, request)
        if block is not None:
            samples[: block.size].reshape(block.shape)[...] = block
        _send(reply_fd, header)
        signal.alarm(0)


def _send(fd: int, header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    write_all(fd, LENGTH.pack(len(text)) + text)


def _address_space_bytes() -> int | None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return None
    return int(statm.read_text().split()[0]) * resource.getpagesize()


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _harden(memory_bytes: int) -> None:
    """Take away what decoding does not need, when all that it needs is imported."""
    sys.dont_write_bytecode = True
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)  # writing a file is an error: Python ignores SIGXFSZ
    used = _address_space_bytes()
    if used is not None:  # macOS has no such file, and does not enforce RLIMIT_AS either
        _lower(resource.RLIMIT_AS, used + memory_bytes)


def _arm_alarm() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.alarm(math.ceil(START_SECONDS) + GRACE_SECONDS)


def run(load: Callable[[], OpenAudio], arguments: Sequence[str]) -> None:
    """Be the child process: returns when stdin ends.

    Parameters
    ----------
    load : callable
        Imports the decoders and returns ``open_audio``. Until it has, stderr is the parent's to
        read; from then on what libraries print on stdout or stderr is lost.
    arguments : sequence of str
        Address space in bytes that is allowed beyond that in use when everything is imported, and
        the file descriptor of the samples.
    """
    memory_bytes, samples_fd = map(int, arguments)
    _arm_alarm()
    reply_fd = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not write between the replies
    server = Server(load())
    from transforms.audio.shared_block import mapped

    samples = mapped(samples_fd)
    _harden(memory_bytes)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    _send(reply_fd, {"ready": True})
    signal.alarm(0)
    serve(server, sys.stdin.buffer, reply_fd, samples)


def _load() -> OpenAudio:
    from transforms.audio.decoders import open_audio

    return open_audio


if __name__ == "__main__":
    run(_load, sys.argv[1:])

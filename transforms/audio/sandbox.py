"""Decoding in a child process, which may hang, crash or run out of memory at one file's cost.

    with Sandbox(DecoderLimits(timeout_seconds=60)) as sandbox:
        with sandbox.open(path) as audio:  # as transforms.audio.decoders.open_audio
            for block in audio.blocks():
                ...

The child (transforms.audio.decoder_process) is kept from file to file, and started again after it
ended. It holds one file at a time.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transforms.audio.decoder_account import Account, crash_error
from transforms.audio.decoder_child import Child, EndedError, LateError
from transforms.audio.decoder_replies import GarbledError, Reply, check_fits
from transforms.audio.readers import AudioInfo
from transforms.errors import Reason, StageError, UsageError, WorkerError
from transforms.models.front_end import ChannelRule
from transforms.records import FloatArray

RESTART_SECONDS = 1.0  # before a child that did not start gets its second chance
FILES_PER_CHILD = 200  # then a new one: what decoders leak counts against the memory limit
# Of a file that fails to open so, an earlier one may be to blame, which damaged the child.
PERHAPS_INHERITED = (Reason.DECODER_CRASH, Reason.OUT_OF_MEMORY)


@dataclass(frozen=True)
class DecoderLimits:
    """What one file may cost.

    Parameters
    ----------
    timeout_seconds : float
        Seconds of waiting for the decoder, to which every second of sound that it gives adds
        one. A slow consumer does not count.
    memory_bytes : int
        Memory of the decoder beyond what it has before it opens a file. Not enforced on macOS.
    command : tuple of str
        The child, to which the arguments of transforms.audio.decoder_process are added. Empty
        for that program under the interpreter of the worker, which need not be where it was
        where the limits were made.

    Raises
    ------
    UsageError
        If a limit is not positive.
    """

    timeout_seconds: float = 60.0
    memory_bytes: int = 1 << 30
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("timeout_seconds", "memory_bytes"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}: give more than 0")


class Sandbox:
    """A child process that decodes one file after the other.

    It may be used from several threads, but by one at a time.

    Parameters
    ----------
    limits : DecoderLimits
        May be replaced between files; memory and command hold from the next child on.
    """

    def __init__(self, limits: DecoderLimits = DecoderLimits()) -> None:
        self.limits = limits
        self._child: Child | None = None
        self._opened = 0  # files, in this child
        self._current: Account | None = None  # of the file that the child has open

    def start(self) -> None:
        """Start the child, if there is none, without waiting for it.

        Raises
        ------
        WorkerError
            If it cannot be started.
        """
        if self._child is None:
            self._child = Child(self.limits.command, self.limits.memory_bytes)

    def open(
        self, path: Path, *, max_seconds: float = 86_400.0, channel_rule: ChannelRule | None = None
    ) -> RemoteAudio:
        """Open an audio file in the child; one opened before ends with that.

        Parameters
        ----------
        path, max_seconds, channel_rule
            As for transforms.audio.decoders.open_audio.

        Raises
        ------
        StageError
            As transforms.audio.decoders.open_audio, and here as in all that is done with the file
            the reasons timeout, decoder_crash, out_of_memory and internal_error.
        WorkerError
            If the child does not start, twice.
        """
        request = {
            "op": "open",
            "path": str(path.absolute()),
            "max_seconds": max_seconds,
            "channel_rule": channel_rule,
        }
        if self._child is not None and not self._child.is_running:
            self.close()
        if self._opened >= FILES_PER_CHILD:
            self.close()
        is_fresh = self._child is None
        try:
            return self._opened_file(path.name, request)
        except StageError as error:
            if is_fresh or error.reason not in PERHAPS_INHERITED:
                raise
        self.close()
        return self._opened_file(path.name, request)

    def _opened_file(self, name: str, request: Mapping[str, Any]) -> RemoteAudio:
        try:
            self._make_ready()
        except WorkerError:  # processes or memory may be short for a moment
            self.close()
            time.sleep(RESTART_SECONDS)
            self._make_ready()
        self._opened += 1
        account = self._current = Account(name, self.limits.timeout_seconds)
        reply, _ = self.ask(account, request)
        return RemoteAudio(self, account, reply)

    def _make_ready(self) -> None:
        self.start()
        assert self._child is not None
        self._child.wait_until_ready()

    def ask(self, account: Account, request: Mapping[str, Any]) -> tuple[Reply, FloatArray | None]:
        """Send a request about the open file; see transforms.audio.decoder_process.Server."""
        child = self._child
        if child is None or not self.has_open(account):
            raise RuntimeError(f"{account.name}: no longer open in this sandbox")
        try:
            with account.waiting():
                reply, samples = child.ask(request, account.allowance_s())
            check_fits(reply, request["op"])
        except (EndedError, LateError, GarbledError) as error:
            raise self._failure(child, account, error) from error
        except BaseException:  # the reply may still come, and would be taken for the next one's
            self.close()
            raise
        if reply.error is not None:
            raise self._refusal(account, reply.error)
        return reply, samples

    def has_open(self, account: Account) -> bool:
        """Whether the file can still be asked for."""
        return self._current is account

    def release(self, account: Account) -> None:
        """Let the child close the file, if it still has it open."""
        if self.has_open(account):
            # One that fails in closing has been ended by ask(); what the file gave is complete.
            with contextlib.suppress(StageError):
                self.ask(account, {"op": "close"})
            self._current = None

    def _failure(self, child: Child, account: Account, error: Exception) -> StageError:
        status = child.exit_status() if isinstance(error, EndedError) else 0
        self.close()
        if isinstance(error, LateError) or status == -signal.SIGALRM:
            return account.timeout_error()
        if isinstance(error, GarbledError):
            return StageError(
                Reason.DECODER_CRASH, f"{account.name}: the decoder answered garbage ({error}); "
                "convert the file or fetch it again"
            )  # fmt: skip
        return crash_error(account.name, status)

    def _refusal(self, account: Account, error: StageError) -> StageError:
        """What the child says of the file; where it lost its footing, a new one takes over."""
        if error.reason is Reason.OUT_OF_MEMORY:
            self.close()
            return StageError(
                error.reason, f"{account.name}: the decoder needs more than "
                f"{self.limits.memory_bytes} bytes; convert the file, or raise the limit"
            )  # fmt: skip
        if error.reason is Reason.INTERNAL_ERROR:
            self.close()
            return StageError(error.reason, f"{account.name}: {error.message}")
        return error

    def close(self) -> None:
        """End the child. The next file starts another."""
        child, self._child, self._current, self._opened = self._child, None, None, 0
        if child is not None:
            child.stop()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RemoteAudio:
    """A file that a sandbox has open; made by :meth:`Sandbox.open`.

    Attributes
    ----------
    info : AudioInfo
        Final when the blocks have ended.
    frames : int
        Handed out or counted so far.
    warnings : tuple of str
        What was wrong; complete when the blocks have ended.
    """

    info: AudioInfo
    frames: int
    warnings: tuple[str, ...]

    def __init__(self, sandbox: Sandbox, account: Account, opened: Reply) -> None:
        self._sandbox = sandbox
        self._account = account
        self._parts = 0
        self._take(opened)

    @functools.cached_property
    def exact_frames(self) -> int | None:
        """Frames in the file where it seeks truthfully, else None; asking costs a few seeks."""
        return self._ask({"op": "exact"})[0].exact_frames

    @property
    def spent(self) -> dict[str, float]:
        """Seconds by part: in the decoders, in the channel rule, and on the way to here."""
        busy_s = min(self._busy_s, self._account.waited_s)
        return {
            "decode": max(0.0, busy_s - self._mono_s),
            "mono": self._mono_s,
            "transfer": self._account.waited_s - busy_s,
        }

    @property
    def duration_s(self) -> float:
        """Seconds of sound handed out or counted so far."""
        return self.frames / self.info.sample_rate_hz

    def blocks(self) -> Iterator[FloatArray]:
        """Yield the sound from the beginning, (frames, channels) float32; once only."""
        return self._stream("blocks")

    def part(self, first: int, last: int) -> Iterator[FloatArray]:
        """Yield the frames from ``first`` to before ``last``, as :meth:`blocks` does.

        One part after the other.

        Raises
        ------
        ValueError
            If ``exact_frames`` is None, or the part is not within it.
        """
        if self.exact_frames is None or not 0 <= first <= last <= self.exact_frames:
            raise ValueError(f"no frames {first} to {last} of {self.exact_frames} by seeking")
        self._parts += 1
        self._ask({"op": "part", "first": first, "last": last})
        return self._stream("part", self._parts)

    def count_frames(self) -> int:
        """Decode to the end without handing out; ``frames`` grows all the while.

        Returns
        -------
        int
            ``frames`` at the end.
        """
        ended = False
        while not ended:
            reply, _ = self._ask({"op": "count", "of": "blocks"})
            self._account.given_s = max(self._account.given_s, self.duration_s)
            ended = reply.ended
        return self.frames

    def close(self) -> None:
        """Release the file, not the child."""
        self._sandbox.release(self._account)

    def _stream(self, of: str, part: int = 0) -> Iterator[FloatArray]:
        while True:
            if of == "part" and part != self._parts:
                raise RuntimeError(f"{self._account.name}: another part was asked for since")
            _, samples = self._ask({"op": "next", "of": of})
            if samples is None:
                return
            self._account.given_s += len(samples) / self.info.sample_rate_hz
            yield samples

    def _ask(self, request: Mapping[str, Any]) -> tuple[Reply, FloatArray | None]:
        reply, samples = self._sandbox.ask(self._account, request)
        self._take(reply)
        return reply, samples

    def _take(self, reply: Reply) -> None:
        assert reply.info is not None  # Sandbox.ask refuses such a reply
        self.info, self.frames, self.warnings = reply.info, reply.frames, reply.warnings
        self._busy_s, self._mono_s = reply.busy_seconds, reply.mono_seconds

    def __enter__(self) -> RemoteAudio:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

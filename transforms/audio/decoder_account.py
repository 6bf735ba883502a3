"""What one file may cost a decoder, and what is said of a file that costs more."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from transforms.errors import Reason, StageError

AGAIN = 0.01  # seconds per second of sound: a decoder that takes over decodes all of it again


@dataclass
class Account:
    """The time of one file: what it has used, and what it has earned by giving sound."""

    name: str  # of the file, for messages
    timeout_s: float
    waited_s: float = 0.0
    given_s: float = 0.0  # of sound

    def allowance_s(self) -> float:
        """Seconds that the next reply may take.

        They are fewer than what the file has left, so that a hang after hours of sound does not
        take hours too.
        """
        left = self.timeout_s + self.given_s - self.waited_s
        return max(0.0, min(left, self.timeout_s + AGAIN * self.given_s))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time that is spent inside."""
        begin_s = time.monotonic()
        try:
            yield
        finally:
            self.waited_s += time.monotonic() - begin_s

    def timeout_error(self) -> StageError:
        """Say that the file took too long."""
        return StageError(
            Reason.TIMEOUT, f"{self.name}: stopped after {self.waited_s:.1f} s of decoding, "
            f"which gave {self.given_s:.1f} s of sound (the limit is {self.timeout_s:g} s, and "
            "a second more for every second of sound); convert the file, or raise the limit if "
            "the machine or the storage is slow"
        )  # fmt: skip


def crash_error(name: str, status: int) -> StageError:
    """Say how the decoder ended.

    Parameters
    ----------
    name : str
        Of the file.
    status : int
        Of the process; negative for a signal.
    """
    how = f"ended with status {status}" if status >= 0 else f"was ended by {_signal_name(-status)}"
    if status == -signal.SIGKILL:
        how += ", perhaps by the kernel for want of memory"
    return StageError(
        Reason.DECODER_CRASH, f"{name}: the decoder {how}; convert the file or fetch it again"
    )


def _signal_name(number: int) -> str:
    names = {int(known): known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")

"""Where the bytes of a live source come from: a file, a pipe or a web address.

All of them are read through one small class, so that the decoder's library opens nothing by itself,
and a reader that waits can be told to stop.
"""

from __future__ import annotations

import os
import select
import stat
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path

from transforms.audio.pyav_reader import Unnamed
from transforms.errors import Reason, StageError

STDIN = "-"
_LOOK_SECONDS = 0.2  # how long a reader of a pipe does not see that it should stop


class Input(ABC):
    """Bytes in order, as they come.

    Attributes
    ----------
    name : str
        For messages: the source without a password.
    began_s : float or None
        When the first byte came, by ``time.monotonic``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.began_s: float | None = None
        self._held = b""

    def peek(self, size: int) -> bytes:
        """Wait for the first ``size`` bytes, which stay; fewer only at the end."""
        while len(self._held) < size and (part := self._timed(size - len(self._held))):
            self._held += part
        return self._held[:size]

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes: what is there, after waiting for one; none at the end."""
        if self._held:
            part, self._held = self._held[:size], self._held[size:]
            return part
        return self._timed(size)

    def _timed(self, size: int) -> bytes:
        part = self._read(size)
        if part and self.began_s is None:
            self.began_s = time.monotonic()
        return part

    def seekable(self) -> Unnamed | None:
        """The same from its beginning, with ``seek``, where that is possible."""
        return None

    def check(self) -> None:
        """Raise StageError if the end was none, but something that broke off."""
        return None

    @abstractmethod
    def _read(self, size: int) -> bytes: ...

    @abstractmethod
    def stop(self) -> None:
        """From another thread: let the reader find the end, at once."""

    @abstractmethod
    def close(self) -> None:
        """Release it."""

    def __enter__(self) -> Input:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FileInput(Input):
    """A regular file.

    Raises
    ------
    StageError
        With the reason not_found, permission_denied or unreadable.
    """

    def __init__(self, path: str | int, name: str) -> None:
        super().__init__(name)
        try:
            # Bytes come at once: nobody has to wake a reader.
            self._file = open(path, "rb", buffering=0, closefd=isinstance(path, str))  # noqa: SIM115
        except FileNotFoundError as error:
            raise StageError(Reason.NOT_FOUND, "no such file; check the path") from error
        except PermissionError as error:
            raise StageError(
                Reason.PERMISSION_DENIED, "must not be read; change its permissions"
            ) from error
        except OSError as error:
            raise StageError(Reason.UNREADABLE, f"{error.strerror}; name a file") from error
        self._stopped = False
        self._start = self._file.tell()

    def seekable(self) -> Unnamed:
        return Unnamed(self._file, self._start, os.fstat(self._file.fileno()).st_size)

    def _read(self, size: int) -> bytes:
        return b"" if self._stopped else self._file.read(size)

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self._file.close()


class PipeInput(Input):
    """A pipe that this process has open, as its standard input."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(name)
        self._descriptor = descriptor
        self._stopped = threading.Event()

    def _read(self, size: int) -> bytes:
        while not self._stopped.is_set():
            ready, _, _ = select.select([self._descriptor], [], [], _LOOK_SECONDS)
            if ready:
                return os.read(self._descriptor, size)
        return b""

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        """Leave it: it was open before."""


def open_local(source: str) -> Input:
    """Open a path, or ``-`` for standard input.

    Raises
    ------
    StageError
        With the reason not_found, permission_denied or unreadable.
    """
    if source != STDIN:
        _check_path(Path(source))
        return FileInput(source, source)
    try:
        mode = os.fstat(0).st_mode
    except OSError as error:
        raise StageError(Reason.UNREADABLE, "standard input is closed; pipe sound in") from error
    if os.isatty(0):
        raise StageError(Reason.UNREADABLE, "standard input is a terminal; pipe sound in")
    return FileInput(0, STDIN) if stat.S_ISREG(mode) else PipeInput(0, STDIN)


def _check_path(path: Path) -> None:
    """Refuse what opening would wait for, or could not read."""
    if path.is_dir():
        raise StageError(Reason.UNREADABLE, "is a folder; give --source once for each file")
    if path.exists() and not path.is_file():
        raise StageError(Reason.UNREADABLE, f"is no regular file; use --source=- < {path}")

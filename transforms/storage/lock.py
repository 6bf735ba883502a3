"""One run at a time into one output: a lock that a killed run does not keep.

On local disks the operating system's lock, which ends with its process. Object stores have none:
there a small object says who writes and is renewed while the run goes on; one that has not been
renewed for a while is of a dead run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from transforms.errors import StorageError, UsageError
from transforms.manifest import is_local
from transforms.storage.durable import commit, delete_files, read_file
from transforms.storage.retry import is_storage_error

RENEW_SECONDS, STALE_SECONDS = 20.0, 90.0
_SETTLE_SECONDS = 1.0  # for another's claim made at the same time to show
_NAME = "runs/.lock"
_LOGGER = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(output: str, name: str = _NAME) -> Iterator[None]:
    """Hold the lock of an output folder.

    Parameters
    ----------
    output : str
    name : str
        Of the lock's file inside the output.

    Raises
    ------
    UsageError
        If another run holds it; the message says which.
    StorageError
        If the lock cannot be written.
    """
    hold = _locked_local if is_local(output) else _locked_remote
    with hold(f"{output}/{name}", output):
        yield


def _owner() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _refusal(output: str, owner: str) -> UsageError:
    return UsageError(
        f"--output={output}: another run ({owner or 'just starting'}) is writing there; wait for "
        "its end, or choose another output"
    )


@contextlib.contextmanager
def _locked_local(path: str, output: str) -> Iterator[None]:
    with _lock_file(path) as file:
        _lock(file, output)
        file.truncate(0)
        file.write(_owner())
        file.flush()
        yield
        file.truncate(0)  # the file itself stays: another run may be waiting at it


def _lock_file(path: str) -> IO[str]:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be locked: {error}") from error


def _lock(file: IO[str], output: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise _refusal(output, file.read()) from None
    except OSError as error:
        raise StorageError(f"{file.name} cannot be locked: {error}") from error


@contextlib.contextmanager
def _locked_remote(path: str, output: str) -> Iterator[None]:
    claim = _Claim(path)
    _check_free(path, output, claim)
    claim.write()
    time.sleep(_SETTLE_SECONDS)
    _check_free(path, output, claim)
    thread = threading.Thread(target=claim.renew, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        claim.over.set()
        thread.join()
        if claim.is_held():
            delete_files([path])


class _Claim:
    """A run's claim on an object store's output."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.token = secrets.token_hex(8)
        self.over = threading.Event()

    def write(self) -> None:
        content = {"token": self.token, "owner": _owner(), "renewed": time.time()}
        commit(self._path, json.dumps(content).encode())

    def is_held(self) -> bool:
        held = _read_claim(self._path)
        return held is not None and held["token"] == self.token

    def renew(self) -> None:
        """Write it again and again; end the run if another one took it for dead."""
        while not self.over.wait(RENEW_SECONDS):
            try:
                if self.is_held():
                    self.write()
                    continue
            except Exception as error:  # each file system has its own kinds
                if not is_storage_error(error) and not isinstance(error, StorageError):
                    raise
                continue  # tried again in a moment
            _LOGGER.error("%s: another run has taken this output over; this one ends", self._path)
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _read_claim(path: str) -> dict[str, Any] | None:
    try:
        claim: dict[str, Any] = json.loads(read_file(path))
    except FileNotFoundError:
        return None
    return claim


def _check_free(path: str, output: str, claim: _Claim) -> None:
    held = _read_claim(path)
    if held is None or held["token"] == claim.token:
        return
    if time.time() - held["renewed"] < STALE_SECONDS:
        raise _refusal(output, held["owner"])

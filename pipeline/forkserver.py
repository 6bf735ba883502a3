"""The launching process's side of pipeline.worker: starts the server, and workers through it.

Imports little but the standard library, so that the server starts to import what workers need
while the launching process still does so itself.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from transforms.malloc import KEEP_FREED_MEMORY

PROGRAM = "pipeline.worker"
_ENDED_EARLY = "the server of the worker processes ended"
_SINGLE_THREADED = {  # what is forked must have one thread
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}


class ForkServer:
    """A process from which workers are forked; see :func:`fork_server`."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            self._process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**KEEP_FREED_MEMORY, **os.environ, **_SINGLE_THREADED},
            )
        self._lock = threading.Lock()
        self._workers: dict[int, _Worker] = {}
        self._over = False
        self._reader = threading.Thread(target=self._read, name="forkserver", daemon=True)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        """Whether it can start workers."""
        return not self._over

    def load(self, **arguments: Any) -> None:
        """Let the weights be loaded, of which workers forked from then on get a shared copy.

        Parameters
        ----------
        **arguments
            Those of transforms.models.loading.load_model; they must survive JSON.
        """
        self._send({"load": arguments})

    def run_worker(self, environment: Mapping[str, str]) -> int:
        """Start a worker and wait for its end.

        Parameters
        ----------
        environment : mapping
            Environment variables beyond those of this process, of which a worker gets a copy.

        Returns
        -------
        int
            Its exit status, negative for the signal that ended it.

        Raises
        ------
        RuntimeError
            If the server itself has ended.
        """
        worker = _Worker()
        with self._lock:
            if self._over:
                raise RuntimeError(_ENDED_EARLY)
            number = len(self._workers)
            self._workers[number] = worker
        own = {"environment": {**os.environ, **environment}, "folder": os.getcwd()}
        self._send({"start": number, **own})
        worker.ended.wait()
        if worker.status is None:
            raise RuntimeError(_ENDED_EARLY)
        return worker.status

    def close(self) -> None:
        """End the server and the workers that are left."""
        with contextlib.suppress(OSError):  # the other side has closed it
            self._connection.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _send(self, request: Mapping[str, Any]) -> None:
        line = json.dumps(request).encode() + b"\n"
        try:
            with self._lock:
                self._connection.sendall(line)
        except OSError as error:
            raise RuntimeError(_ENDED_EARLY) from error

    def _read(self) -> None:
        try:
            # A server that was killed with a request unread resets the connection.
            with (
                contextlib.suppress(ConnectionResetError),
                self._connection.makefile("rb") as lines,
            ):
                for line in lines:
                    told = json.loads(line)
                    worker = self._workers[told["ended"]]
                    worker.status = told["status"]
                    worker.ended.set()
        finally:
            with self._lock:
                self._over = True
                for worker in self._workers.values():
                    worker.ended.set()


class _Worker:
    def __init__(self) -> None:
        self.ended = threading.Event()
        self.status: int | None = None


_current: ForkServer | None = None


def fork_server() -> ForkServer:
    """The server of this process, started at the first call; it ends with this process."""
    global _current
    if _current is None or not _current.is_running:
        if _current is not None:
            _current.close()
        _current = ForkServer()
        atexit.register(_current.close)
    return _current

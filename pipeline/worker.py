"""DirectRunner's worker processes, forked from one process that has everything loaded.

    python -m pipeline.worker SOCKET

Imports and weights are there once: forked workers start at once and share their memory. The other
side is pipeline.forkserver. Requests come over the socket, one JSON object per line:

    {"load": {...}}                           arguments of transforms.models.loading.load_model
    {"start": NUMBER, "environment": {...}, "folder": "..."}
                                              a worker, with these environment variables, in which
                                              Beam's SDK worker finds what it needs, there

and for every worker that has ended goes back {"ended": NUMBER, "status": EXIT_STATUS}. Workers end
with this process, and this process with the socket: should the launching process be killed, the
run that goes on from there must be alone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from pipeline.logs import quiet_native_libraries
from transforms.errors import CatalogError

_LOOK_SECONDS = 0.5
_CAN_FORK = sys.platform != "darwin"  # whose own libraries do not survive a fork


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def _not_printed(*_: object, **__: object) -> None:
    """In place of the print of Beam's worker: the tracebacks, which it logs as well."""


def work() -> None:
    """Run Beam's SDK worker, as the environment variables say."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker, sdk_worker_main

    sdk_worker.print = _not_printed
    # At once: Beam waits for no bundle that is in work. While the interpreter takes itself apart,
    # the bundle's thread would journal as a track's failure whatever is already missing.
    status = 1
    try:
        sdk_worker_main.main(sys.argv)
        status = 0
    finally:  # Beam has logged what happened
        os._exit(status)


class _Server:
    """Starts workers and tells of their ends, in one thread: a fork copies no other."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._numbers: dict[int, int] = {}  # by process id
        self._received = b""
        wakened, self._waker = socket.socketpair()
        for end in (wakened, self._waker):
            end.setblocking(False)
        self._wakened = wakened
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # it wakes the selector up
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)
        self._selector.register(wakened, selectors.EVENT_READ)

    def serve(self) -> Callable[[], None] | None:
        """Answer until the socket is closed.

        Returns
        -------
        callable or None
            What a worker has to do, in a worker that was forked; None in the server itself.
        """
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._wakened:
                    self._wakened.recv(1 << 10)
                    self._tell_ends()
                    continue
                data = self._connection.recv(1 << 16)
                if not data:
                    return None
                *lines, self._received = (self._received + data).split(b"\n")
                for line in lines:
                    if job := self._answer(json.loads(line)):
                        return job

    def _answer(self, request: dict[str, Any]) -> Callable[[], None] | None:
        if "load" in request:
            from transforms.models.loading import load_model
            from transforms.models.vit import use_threads

            use_threads(1)  # a fork copies no pool of threads either
            with contextlib.suppress(CatalogError):  # of which a worker will tell
                load_model(**request["load"])
            return None
        environment, folder = request["environment"], request["folder"]
        if not _CAN_FORK:
            command = [sys.executable, "-m", "pipeline.worker"]
            process = subprocess.Popen(command, env=environment, cwd=folder)
            self._numbers[process.pid] = request["start"]
            return None
        pid = os.fork()
        if pid:
            self._numbers[pid] = request["start"]
            return None
        self._let_go()
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        return work

    def _let_go(self) -> None:
        """Give back in a worker what only its parent needs."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for end in (self._connection, self._wakened, self._waker):
            end.close()

    def _tell_ends(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            ended = {
                "ended": self._numbers.pop(pid),
                "status": os.waitstatus_to_exitcode(status),
            }
            self._connection.sendall(json.dumps(ended).encode() + b"\n")


def _import_all() -> None:
    """Import what workers will need, before the first of them is asked for."""
    for name in (
        "apache_beam.runners.worker.sdk_worker_main",
        "pipeline.graph",
        "transforms.models.sequence_network",
        "transforms.models.vit_network",
    ):
        importlib.import_module(name)


def main(arguments: list[str]) -> None:
    """Be the server, or without arguments one worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launching process's business
    quiet_native_libraries()
    # Beam sends a worker's log to the launching process, which prints it. Without a handler on the
    # root logger Python prints all of it a second time, from every worker.
    logging.getLogger().addHandler(logging.NullHandler())
    job: Callable[[], None] | None = work
    if arguments:
        server = _Server(socket.socket(fileno=int(arguments[0])))
        if _CAN_FORK:
            _import_all()
        job = server.serve()
    if job is not None:
        job()


if __name__ == "__main__":
    main(sys.argv[1:])

"""What the workers of test_pool do: as the real ones talk, but light to import."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.serving.answers import Problem, RefusedError
from transforms.errors import Reason, StageError


def count(to: int) -> Iterator[int]:
    yield from range(to)


def step_by_step(folder: str, steps: int) -> Iterator[int]:
    """Makes a part only when somebody has asked for it by a file of its number."""
    for step in range(steps):
        while not Path(folder, str(step)).exists():
            time.sleep(0.01)
        yield step


def fail() -> Iterator[int]:
    yield 1
    raise StageError(Reason.CORRUPT, "it is broken")


def refuse() -> Iterator[int]:
    raise RefusedError(Problem.TOO_LONG, "it has no end")
    yield


def tell_of_errors() -> Iterator[list[StageError]]:
    yield [StageError(Reason.INVALID_SCORES, "they are no numbers")]


def hang(file: str) -> Iterator[int]:
    Path(file).write_text(str(os.getpid()))
    yield 1
    time.sleep(1_000)


def die(after: int) -> Iterator[int]:
    yield from range(after)
    os.kill(os.getpid(), signal.SIGKILL)
    yield -1


def process_id() -> Iterator[int]:
    yield os.getpid()


def size_of(content: bytes) -> Iterator[int]:
    yield len(content)


def bytes_of(size: int) -> Iterator[bytes]:
    yield bytes(size)


JOBS: dict[str, Callable[..., Iterator[Any]]] = {
    one.__name__: one
    for one in (
        count,
        step_by_step,
        fail,
        refuse,
        tell_of_errors,
        hang,
        die,
        process_id,
        size_of,
        bytes_of,
    )
}


def work(connection: Connection, greeting: str = "") -> None:
    if greeting:
        connection.send(greeting)
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        try:
            for part in JOBS[name](*arguments):
                connection.send(("part", part))
        except StageError as error:
            connection.send(("failed", error.reason, error.message))
        except RefusedError as error:
            connection.send(("refused", error.problem, error.message))
        else:
            connection.send(("end",))


def end_at_once(connection: Connection) -> None:
    connection.close()

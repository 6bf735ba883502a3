"""Worker processes, as the process that answers sees them: jobs go in, their parts come out.

What pools of processes in libraries do not do: a job's parts arrive while it goes on (windows are
computed while the rest of their file is decoded), a job that nobody waits for any more is ended at
once, and so is its process, at the cost of a fork.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from multiprocessing.context import BaseContext
from typing import Any

from pipeline.serving.answers import RefusedError
from transforms.errors import Reason, StageError
from transforms.malloc import KEEP_FREED_MEMORY

_PRELOADED = "pipeline.serving.preloaded"
_SINGLE_THREADED = {  # what is forked must have one thread
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
_RESTART_SECONDS = 1.0  # before a process that did not start is tried again
_LOGGER = logging.getLogger(__name__)


def start_fork_server() -> BaseContext:
    """Let the server that workers are forked from begin to import what they need.

    Returns
    -------
    multiprocessing context
        Whose processes come from it. On macOS, whose libraries do not survive a fork, each process
        imports for itself.
    """
    if sys.platform == "darwin":
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    before = dict(os.environ)
    os.environ.update({**KEEP_FREED_MEMORY, **os.environ, **_SINGLE_THREADED})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


class LostError(Exception):
    """A worker ended in the middle of a job."""


class Worker:
    """A process that does one job at a time.

    Parameters
    ----------
    context : multiprocessing context
    run : callable
        What it runs: takes its end of the pipe, then ``arguments``.
    """

    def __init__(self, context: BaseContext, run: Callable[..., None], *arguments: Any) -> None:
        self._connection, theirs = context.Pipe()
        self._process = context.Process(  # type: ignore[attr-defined]
            target=run, args=(theirs, *arguments), daemon=True
        )
        self._process.start()
        theirs.close()
        self._thread = ThreadPoolExecutor(1, "worker")  # a pipe's reads and writes block
        self.is_idle = True

    @property
    def process_id(self) -> int:
        """The process's."""
        pid: int = self._process.pid
        return pid

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        alive: bool = self._process.is_alive()
        return alive

    def receive_now(self) -> Any:
        """Its next message; blocks, and raises EOFError if it has ended."""
        return self._connection.recv()

    async def receive(self) -> Any:
        """Its next message.

        Raises
        ------
        LostError
            If it has ended.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self.receive_now)
        except (EOFError, OSError) as error:
            raise LostError from error

    async def run(self, job: str, *arguments: Any) -> AsyncGenerator[Any, None]:
        """Do a job, part by part.

        Raises
        ------
        StageError, RefusedError
            What the job raises.
        LostError
            If the process ends.
        """
        self.is_idle = False
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._connection.send, (job, arguments))
        except OSError as error:
            raise LostError from error
        while True:
            kind, *content = await self.receive()
            if kind == "part":
                yield content[0]
                continue
            self.is_idle = True
            if kind == "failed":
                raise StageError(*content)
            if kind == "refused":
                raise RefusedError(*content)
            return

    def end(self) -> None:
        """End the process, whatever it does; may be called again."""
        self._process.kill()
        self._process.join()
        with suppress(RuntimeError):  # closed before
            # By the thread that may be about to read: the number of what is closed is given away.
            self._thread.submit(self._connection.close)
        self._thread.shutdown(wait=False)


class Pool:
    """Workers of one kind, of which each job gets one when its turn has come.

    Parameters
    ----------
    size : int
    start : callable
        Starts one; blocking.
    """

    def __init__(self, size: int, start: Callable[[], Worker]) -> None:
        self._size, self._start = size, start
        self._free: asyncio.Queue[Worker] = asyncio.Queue()
        self._all: set[Worker] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._over = False
        self.restarts = 0

    async def open(self) -> None:
        """Start the workers; raises what starting one does."""
        await asyncio.gather(*(self._add() for _ in range(self._size)))

    @property
    def process_ids(self) -> list[int]:
        """Of the workers that are there."""
        return [worker.process_id for worker in list(self._all)]

    @property
    def has_worker(self) -> bool:
        """Whether a worker is there that has not ended."""
        return any(worker.is_alive for worker in list(self._all))

    def replace_ended(self) -> None:
        """Replace workers that ended while they were free: else the next job would notice it."""
        for _ in range(self._free.qsize()):
            worker = self._free.get_nowait()
            if worker.is_alive:
                self._free.put_nowait(worker)
            else:
                self._replace(worker)

    async def run(
        self, job: str, *arguments: Any, begun: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[Any, None]:
        """Wait for a worker and let it do a job; use it with contextlib.aclosing.

        Parameters
        ----------
        job : str
            The name of the worker's method.
        *arguments
        begun : callable
            Is called when a worker has been found.

        Raises
        ------
        StageError, RefusedError
            What the job raises.
        LostError
            If its process ends.
        """
        worker = await self._next()
        try:
            begun()
            async with aclosing(worker.run(job, *arguments)) as parts:
                async for part in parts:
                    yield part
        finally:
            if worker.is_idle:
                self._free.put_nowait(worker)
            else:
                self._replace(worker)

    async def result(self, job: str, *arguments: Any) -> Any:
        """The only part of a job that has one.

        Raises
        ------
        StageError
            ``decoder_crash`` too, where its process ends: by the system, for want of memory.
        RefusedError
            What the job raises.
        """
        async with aclosing(self.run(job, *arguments)) as parts:
            try:
                (only,) = [part async for part in parts]
                return only
            except LostError as error:
                raise lost(error) from error

    async def _next(self) -> Worker:
        """A free worker; one that has ended while it was free is to blame on no job."""
        while not (worker := await self._free.get()).is_alive:
            self._replace(worker)
        return worker

    def _replace(self, worker: Worker) -> None:
        self.restarts += 1
        self._all.discard(worker)
        worker.end()
        task = asyncio.get_running_loop().create_task(self._add_at_last())
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _add(self) -> None:
        self._free.put_nowait(await asyncio.to_thread(self._started))

    def _started(self) -> Worker:
        """Start a worker, in a thread: nobody else may be left to end it."""
        worker = self._start()
        self._all.add(worker)
        if self._over:
            self._end(worker)
        return worker

    async def _add_at_last(self) -> None:
        """Start a worker, however often that must be tried."""
        while not self._over:
            try:
                return await self._add()
            except Exception:
                _LOGGER.exception("a worker process cannot be started; trying again")
                await asyncio.sleep(_RESTART_SECONDS)

    def _end(self, worker: Worker) -> None:
        self._all.discard(worker)
        worker.end()

    def close(self) -> None:
        """End all workers."""
        self._over = True
        for worker in list(self._all):
            self._end(worker)


def lost(error: LostError) -> StageError:
    """What a file is told of whose worker ended."""
    return StageError(
        Reason.DECODER_CRASH,
        "the process that worked on it ended; try again, and convert the file if that fails too",
    )

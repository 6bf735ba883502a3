"""The model of the service, in a process of its own: windows in, predictions out, in batches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from multiprocessing.context import BaseContext

from pipeline.serve_config import ServeConfig
from pipeline.serving import pool, worker_entry
from pipeline.serving.announced import Announced
from pipeline.serving.answers import Problem, RefusedError, ServedModel
from pipeline.serving.batching import MicroBatcher
from pipeline.serving.deadlines import Deadline
from pipeline.serving.metrics import Metrics
from transforms.errors import StageError, UsageError
from transforms.records import LogMelWindow, WindowPrediction

Outcome = WindowPrediction | StageError
"""Of one window."""

_MODEL_THREADS = 1
"""PyTorch's: with more they wait for each other in loops, on cores that decoding needs."""
_QUEUED_BATCHES = 4  # of windows that wait for the model; then decoding waits
_ATTEMPTS = 2  # of a batch whose process ended
_GPU_SECONDS = 2.0  # a look at its memory may wait for the batch that is computed
_LOGGER = logging.getLogger(__name__)


class Inference:
    """The process with the model, and the batches that wait for it.

    First :meth:`announce`, then :meth:`open`, then :meth:`add`.

    Parameters
    ----------
    config : ServeConfig
    context : multiprocessing.context.BaseContext
        How processes are started.
    metrics : Metrics
    """

    def __init__(self, config: ServeConfig, context: BaseContext, metrics: Metrics) -> None:
        self._config, self._context, self._metrics = config, context, metrics
        self._announced: Future[Announced] = Future()
        self._model = pool.Pool(1, self._start)
        self._batching: asyncio.Task[None] | None = None
        self._gpu_look: asyncio.Future[tuple[int, int]] | None = None

    async def announce(self) -> Announced:
        """Begin to load the model, and wait until it is known what the service will be.

        Raises
        ------
        UsageError
            If what was asked for cannot be done.
        """
        self._loading = asyncio.ensure_future(self._model.open())
        announced = asyncio.ensure_future(self.wait_until_announced())
        await asyncio.wait([self._loading, announced], return_when=asyncio.FIRST_COMPLETED)
        if self._loading.done():
            announced.cancel()
            self._loading.result()
        batch_size = self.announced.batch_size
        self._batcher: MicroBatcher[LogMelWindow, Outcome] = MicroBatcher(
            self._predict,
            max_batch=batch_size,
            max_wait_seconds=self._config.batch_wait_ms / 1e3,
            max_waiting=_QUEUED_BATCHES * batch_size,
            told=self._metrics.batch_rows.observe,
        )
        return self.announced

    async def open(self) -> None:
        """Wait until the model is loaded; windows are taken from then on."""
        await self._loading
        self._batching = asyncio.ensure_future(self._batcher.run())

    def _start(self) -> pool.Worker:
        """Start the process with the model, and wait until it is loaded."""
        worker = pool.Worker(self._context, worker_entry.model_worker, self._config, _MODEL_THREADS)
        try:
            for _ in ("announced", "loaded"):
                kind, *content = worker.receive_now()
                if kind == "wrong":
                    raise UsageError(content[0])
                if kind == "announced":
                    self._note(content[0])
        except BaseException:
            worker.end()
            raise
        return worker

    def _note(self, announced: Announced) -> None:
        """What the first process with the model says holds for all that come after it."""
        if not self._announced.done():
            self._announced.set_result(announced)
        elif announced.models[0] != self.models[0]:
            raise UsageError(
                f"--model={self._config.model}: another model lies there by now; restart the server"
            )

    @property
    def announced(self) -> Announced:
        """What the process said of the service; it must have been announced."""
        return self._announced.result()

    @property
    def models(self) -> Sequence[ServedModel]:
        """Those that the service has; none before they are announced."""
        return self.announced.models if self._announced.done() else ()

    async def wait_until_announced(self) -> None:
        """Wait until ``models`` are known, which is before they are loaded."""
        await asyncio.shield(asyncio.wrap_future(self._announced))  # there are others who wait

    def is_able(self) -> bool:
        """Whether the process is there; one that has ended is replaced at once."""
        self._model.replace_ended()
        return self._batching is not None and self._model.has_worker

    @property
    def windows_waiting(self) -> int:
        """Windows that are in no batch yet."""
        return self._batcher.waiting if self._batching is not None else 0

    @property
    def restarts(self) -> int:
        """How often the process was started anew."""
        return self._model.restarts

    async def add(self, window: LogMelWindow) -> asyncio.Future[Outcome]:
        """Put a window into a batch, as soon as there is room; its outcome."""
        return await self._batcher.add(window)

    async def gpu_memory(self) -> tuple[int, int] | None:
        """(free, total) bytes of the GPU; None on a CPU, or where the model does not say it now.

        The look is not given up with the wait: that would end the process with the model.
        """
        if self.models[0].device != "cuda":
            return None
        look = self._gpu_look
        if look is None or look.done():
            look = self._gpu_look = asyncio.ensure_future(self._model.result("gpu_memory"))
        await asyncio.wait([look], timeout=_GPU_SECONDS)
        return look.result() if look.done() and look.exception() is None else None

    async def _predict(self, windows: Sequence[LogMelWindow]) -> Sequence[Outcome]:
        """Compute a batch; one whose process ended is tried again in another.

        A process that hangs is replaced when a request's time is over: nobody waits any more.
        """
        for _ in range(_ATTEMPTS):
            deadline = Deadline(self._config.limits.request_seconds)
            try:
                return await deadline.keep(self._computed(windows))
            except pool.LostError:
                _LOGGER.error("the process with the model ended; it is started anew")
        raise RefusedError(Problem.INTERNAL, "the process with the model ended; try again")

    async def _computed(self, windows: Sequence[LogMelWindow]) -> Sequence[Outcome]:
        async with contextlib.aclosing(self._model.run("predict", windows)) as parts:
            computed: Sequence[Outcome]
            (computed,) = [part async for part in parts]
            return computed

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._batching is not None:
            self._batching.cancel()
        self._model.close()

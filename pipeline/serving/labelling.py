"""The service itself: from a file's bytes to its row, by workers, batches and the cache."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pipeline.serve_arguments import ServeConfig
from pipeline.serving import pool, worker_entry
from pipeline.serving.announced import Announced
from pipeline.serving.answers import (
    Enhanced,
    Heard,
    Labelled,
    Limits,
    Problem,
    Progress,
    RefusedError,
    ServedModel,
    Step,
    Upload,
    untold,
)
from pipeline.serving.batching import MicroBatcher
from pipeline.serving.cache import Key, ResultCache
from pipeline.serving.deadlines import Deadline
from pipeline.serving.flights import Flights, Told
from pipeline.serving.metrics import Metrics
from pipeline.serving.rows import labelled_by, told_of
from transforms.errors import StageError, UsageError
from transforms.records import (
    FloatArray,
    LogMelWindow,
    WindowPrediction,
)
from transforms.scores import LabelRule

Out = TypeVar("Out")

PLAYABLE = frozenset({"mp3", "pcm_s16", "flac", "vorbis", "opus", "aac"})
"""Codecs that every browser of today plays; PCM in a WAV alone."""
_MODEL_THREADS = 1
"""PyTorch's: with more they wait for each other in loops, on cores that decoding needs."""
_QUEUED_BATCHES = 4  # of windows that wait for the model; then decoding waits
_ATTEMPTS = 2  # of a batch whose process ended
_GPU_SECONDS = 2.0  # a look at its memory may wait for the batch that is computed
_LOGGER = logging.getLogger(__name__)


class LabelService:
    """The :class:`pipeline.serving.answers.Service` of a configuration.

    Parameters
    ----------
    config : ServeConfig
    cache : ResultCache
    metrics : Metrics
    """

    def __init__(self, config: ServeConfig, cache: ResultCache, metrics: Metrics) -> None:
        self._config, self._cache, self._metrics = config, cache, metrics
        self._context = pool.start_fork_server()
        self._announced: Future[Announced] = Future()
        self._flights: Flights[Labelled] = Flights()
        self._shared = tempfile.TemporaryDirectory(prefix="shared-", ignore_cleanup_errors=True)
        self._numbers = itertools.count()
        self._model = pool.Pool(1, self._start_model)
        self._sound = pool.Pool(config.workers, self._start_sound)
        self._listener = pool.Pool(1, self._start_sound)  # a live stream waits for no file
        self._batching: asyncio.Task[None] | None = None
        self._gpu_look: asyncio.Future[tuple[int, int]] | None = None
        self.is_loaded = False

    async def open(self) -> None:
        """Start the workers and load the model.

        Raises
        ------
        UsageError
            If what was asked for cannot be done.
        """
        loading = asyncio.ensure_future(self._model.open())
        announced = asyncio.ensure_future(self.wait_until_announced())
        await asyncio.wait([loading, announced], return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            announced.cancel()
            loading.result()
        self._prepare(self._announced.result())
        await asyncio.gather(loading, self._sound.open(), self._listener.open())
        self.is_loaded = True

    def _prepare(self, announced: Announced) -> None:
        config, model = self._config, announced.models[0]
        self._rule = LabelRule(model.labels, model.unknown_threshold or 0.0, config.top_k)
        self._key = Key(
            content_sha256="",
            model_fingerprint=model.model_fingerprint,
            front_end_fingerprint=announced.provenance.front_end_fingerprint,
            settings=json.dumps(
                [config.min_seconds, config.top_k, config.features, config.embeddings,
                 self._rule.unknown_threshold, model.device, announced.batch_size]
            ),
        )  # fmt: skip
        self._batcher: MicroBatcher[LogMelWindow, WindowPrediction | StageError] = MicroBatcher(
            self._predict,
            max_batch=announced.batch_size,
            max_wait_seconds=config.batch_wait_ms / 1e3,
            max_waiting=_QUEUED_BATCHES * announced.batch_size,
            told=self._metrics.batch_rows.observe,
        )
        self._batching = asyncio.ensure_future(self._batcher.run())

    def _start_model(self) -> pool.Worker:
        """Start the process with the model, and wait until it is loaded."""
        worker = pool.Worker(
            self._context, worker_entry.model_worker, self._config, _MODEL_THREADS
        )
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

    def _start_sound(self) -> pool.Worker:
        prepared = self._announced.result().prepared
        return pool.Worker(self._context, worker_entry.sound_worker, prepared)

    @property
    def models(self) -> Sequence[ServedModel]:
        """The models that it has; the first one labels."""
        return self._announced.result().models if self._announced.done() else ()

    @property
    def limits(self) -> Limits:
        """What one request may cost."""
        return self._config.limits

    def is_able(self) -> bool:
        """Whether a process with the model is there; one that has ended is replaced at once."""
        self._model.replace_ended()
        return self.is_loaded and self._model.has_worker

    @property
    def windows_waiting(self) -> int:
        """Windows that are in no batch yet."""
        return self._batcher.waiting if self.is_loaded else 0

    @property
    def restarts(self) -> int:
        """Workers that were started anew."""
        return sum(one.restarts for one in (self._model, self._sound, self._listener))

    async def wait_until_announced(self) -> None:
        """Wait until ``models`` are known, which is before they are loaded."""
        await asyncio.shield(asyncio.wrap_future(self._announced))  # there are others who wait

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

    async def label(
        self, upload: Upload, *, picture: bool = False, told: Told = untold
    ) -> Labelled:
        """See :class:`pipeline.serving.answers.Service`."""
        self._check_loaded()
        key = dataclasses.replace(self._key, content_sha256=upload.sha256)
        found = await asyncio.to_thread(self._cache.get, key, picture=picture)
        if found is not None:
            self._metrics.files.labels("label", "cache").inc()
            return self._told_of(found, upload)

        async def work(tell: Told) -> Labelled:
            with self._kept(upload) as kept:
                labelled = await self._labelled(kept, picture, tell)
            await asyncio.to_thread(self._cache.put, key, labelled)
            return labelled

        flight = self._flights.join((upload.sha256, picture), work, told)
        try:
            labelled = await self._in_time(flight)
        except StageError as error:
            own = error.message.replace(upload.sha256, PurePosixPath(upload.uri).name)
            raise StageError(error.reason, own) from error
        self._metrics.files.labels("label", "model").inc()
        self._metrics.audio_seconds.inc(labelled.prediction["duration_s"])
        return self._told_of(labelled, upload)

    @contextlib.contextmanager
    def _kept(self, upload: Upload) -> Iterator[Upload]:
        """The same bytes under a name that says nothing of who handed them in.

        Others who handed in the same may wait for the work on them when the first one leaves, and
        takes the file along. What cannot be linked is taken where it lies.
        """
        link = Path(self._shared.name) / str(next(self._numbers))
        try:
            os.link(upload.path, link)
        except OSError:
            link = upload.path
        try:
            yield dataclasses.replace(upload, uri=upload.sha256, path=link)
        finally:
            if link != upload.path:
                link.unlink(missing_ok=True)

    def _told_of(self, labelled: Labelled, upload: Upload) -> Labelled:
        return told_of(labelled, upload, self._announced.result().provenance)

    async def _labelled(self, upload: Upload, picture: bool, tell: Told) -> Labelled:
        """Decode, compute and roll up, all at once as far as it goes."""
        tell(Progress(Step.WAITING))
        waiting: list[asyncio.Future[WindowPrediction | StageError]] = []
        png = None
        job = self._sound.run("label", upload, picture, begun=lambda: tell(Progress(Step.DECODING)))
        try:
            async with contextlib.aclosing(job) as parts:
                async for part in parts:
                    if not isinstance(part, list):
                        png = part
                        continue
                    tell(Progress(Step.DECODING, part[-1].end_s))
                    for window in part:
                        waiting.append(await self._batcher.add(window))
            tell(Progress(Step.LABELLING))
            predictions = [_checked(await future) for future in waiting]
        except pool.LostError as error:
            raise pool.lost(error) from error
        finally:
            for future in waiting:
                future.cancel()
        return labelled_by(predictions, self._rule, png)

    async def _predict(
        self, windows: Sequence[LogMelWindow]
    ) -> Sequence[WindowPrediction | StageError]:
        """Compute a batch; one whose process ended is tried again in another.

        A process that hangs is replaced when a request's time is over: nobody waits any more.
        """
        for _ in range(_ATTEMPTS):
            try:
                return await self._in_time(self._computed(windows))
            except pool.LostError:
                _LOGGER.error("the process with the model ended; it is started anew")
        raise RefusedError(Problem.INTERNAL, "the process with the model ended; try again")

    async def _computed(
        self, windows: Sequence[LogMelWindow]
    ) -> Sequence[WindowPrediction | StageError]:
        async with contextlib.aclosing(self._model.run("predict", windows)) as parts:
            computed: Sequence[WindowPrediction | StageError]
            (computed,) = [part async for part in parts]
            return computed

    async def enhance(self, upload: Upload) -> Enhanced:
        """See :class:`pipeline.serving.answers.Service`."""
        self._check_loaded()
        folder = Path(tempfile.mkdtemp(prefix="enhanced-", dir=upload.path.parent))
        path = folder.with_suffix(".flac")
        try:
            row = await self._in_time(self._sound.result("enhance", upload, folder))
            Path(row["output"]).rename(path)
        finally:  # a draft, too, of work that was cancelled
            shutil.rmtree(folder, ignore_errors=True)
        self._metrics.files.labels("enhance", "model").inc()
        return Enhanced({**row, "output": str(path)}, path)

    async def playable(self, upload: Upload, codec: str) -> Path:
        """See :class:`pipeline.serving.answers.Service`."""
        if codec in PLAYABLE and (not codec.startswith("pcm") or _is_wav(upload.path)):
            return upload.path
        output = upload.path.with_name(f"{upload.path.name}-copy.flac")
        if not output.exists():
            await self._in_time(self._sound.result("flac", upload, output))
        return output

    async def follow(
        self, stream_id: str, samples: FloatArray, sample_rate_hz: int, state: bytes | None
    ) -> Heard:
        """See :class:`pipeline.serving.answers.Service`."""
        self._check_loaded()
        heard = self._listener.result("follow", stream_id, samples, sample_rate_hz, state)
        rows, after = await self._in_time(heard)
        return Heard(rows, after)

    async def fetch(self, uri: str, path: Path) -> Upload:
        """Copy what an allowed uri names to a new file.

        Raises
        ------
        StageError
            With the reason not_found, permission_denied or unreadable.
        RefusedError
            If it is too large, or takes too long.
        """
        most_bytes = self.limits.upload_bytes
        upload: Upload = await self._in_time(self._sound.result("fetch", uri, path, most_bytes))
        return upload

    def _check_loaded(self) -> None:
        if not self.is_loaded:
            raise RefusedError(Problem.OVERLOADED, "the model is still being loaded; try again", 1)

    async def _in_time(self, work: Awaitable[Out]) -> Out:
        return await Deadline(self.limits.request_seconds).keep(work)

    def close(self) -> None:
        """End all workers, whatever they do."""
        if self._batching is not None:
            self._batching.cancel()
        for one in (self._model, self._sound, self._listener):
            one.close()
        self._shared.cleanup()


def _checked(outcome: WindowPrediction | StageError) -> WindowPrediction:
    if isinstance(outcome, StageError):
        raise outcome
    return outcome


def _is_wav(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"RIFF"

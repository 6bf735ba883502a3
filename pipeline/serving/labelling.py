"""The service itself: from a file's bytes to its row, by workers, batches and the cache."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pipeline.serve_config import ServeConfig
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
from pipeline.serving.cache import Key, ResultCache
from pipeline.serving.deadlines import Deadline
from pipeline.serving.flights import Flights, Told
from pipeline.serving.inference import Inference, Outcome
from pipeline.serving.metrics import Metrics
from pipeline.serving.rows import labelled_by, told_of
from transforms.errors import StageError
from transforms.records import FloatArray, WindowPrediction
from transforms.scores import LabelRule

Out = TypeVar("Out")

PLAYABLE = frozenset({"mp3", "pcm_s16", "flac", "vorbis", "opus", "aac"})
"""Codecs that every browser of today plays; PCM in a WAV alone."""


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
        self._flights: Flights[Labelled] = Flights()
        self._shared = tempfile.TemporaryDirectory(prefix="shared-", ignore_cleanup_errors=True)
        self._numbers = itertools.count()
        self._inference = Inference(config, self._context, metrics)
        self._sound = pool.Pool(config.workers, self._start_sound)
        self._listener = pool.Pool(1, self._start_sound)  # a live stream waits for no file
        self.is_loaded = False

    async def open(self) -> None:
        """Start the workers and load the model.

        Raises
        ------
        UsageError
            If what was asked for cannot be done.
        """
        self._prepare(await self._inference.announce())
        await asyncio.gather(self._inference.open(), self._sound.open(), self._listener.open())
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

    def _start_sound(self) -> pool.Worker:
        prepared = self._inference.announced.prepared
        return pool.Worker(self._context, worker_entry.sound_worker, prepared)

    @property
    def models(self) -> Sequence[ServedModel]:
        """The models that it has; the first one labels."""
        return self._inference.models

    @property
    def limits(self) -> Limits:
        """What one request may cost."""
        return self._config.limits

    def is_able(self) -> bool:
        """Whether a process with the model is there; one that has ended is replaced at once."""
        return self._inference.is_able() and self.is_loaded

    @property
    def windows_waiting(self) -> int:
        """Windows that are in no batch yet."""
        return self._inference.windows_waiting

    @property
    def restarts(self) -> int:
        """Workers that were started anew."""
        return sum(one.restarts for one in (self._inference, self._sound, self._listener))

    async def wait_until_announced(self) -> None:
        """Wait until ``models`` are known, which is before they are loaded."""
        await self._inference.wait_until_announced()

    async def gpu_memory(self) -> tuple[int, int] | None:
        """(free, total) bytes of the GPU; None on a CPU, or where the model does not say it now."""
        return await self._inference.gpu_memory()

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
        return told_of(labelled, upload, self._inference.announced.provenance)

    async def _labelled(self, upload: Upload, picture: bool, tell: Told) -> Labelled:
        """Decode, compute and roll up, all at once as far as it goes."""
        tell(Progress(Step.WAITING))
        waiting: list[asyncio.Future[Outcome]] = []
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
                        waiting.append(await self._inference.add(window))
            tell(Progress(Step.LABELLING))
            predictions = [_checked(await future) for future in waiting]
        except pool.LostError as error:
            raise pool.lost(error) from error
        finally:
            for future in waiting:
                future.cancel()
        return labelled_by(predictions, self._rule, png)

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
        for one in (self._inference, self._sound, self._listener):
            one.close()
        self._shared.cleanup()


def _checked(outcome: Outcome) -> WindowPrediction:
    if isinstance(outcome, StageError):
        raise outcome
    return outcome


def _is_wav(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"RIFF"

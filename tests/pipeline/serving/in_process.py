"""The real service with real worker processes, for tests that are no coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pipeline.serve_arguments import parse_options
from pipeline.serving.answers import Labelled, Problem, Progress, RefusedError, Step, Upload
from pipeline.serving.cache import ResultCache
from pipeline.serving.labelling import LabelService
from pipeline.serving.metrics import Metrics
from tests.audio_files import noise, write_soundfile

Out = TypeVar("Out")

PATIENCE_SECONDS = 120.0
MOST_SECONDS = 20.0
"""Of a file, in the service that tests share."""
RATE = 8_000


def upload(path: Path, uri: str | None = None) -> Upload:
    content = path.read_bytes()
    return Upload(uri or path.name, path, hashlib.sha256(content).hexdigest(), len(content))


class Served:
    """A service on an event loop of its own."""

    def __init__(self, *options: str, cache: Path | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.cache = ResultCache(cache)
        self.metrics = Metrics()
        config = parse_options(["--live_model=none", "--enhancer=none", "--workers=2", *options])
        self.service = LabelService(config, self.cache, self.metrics)
        self.do(self.service.open())

    def begin(self, work: Coroutine[Any, Any, Out]) -> Any:
        """Its future, of concurrent.futures."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def do(self, work: Coroutine[Any, Any, Out]) -> Out:
        result: Out = self.begin(work).result(PATIENCE_SECONDS)
        return result

    def label(self, path: Path, uri: str | None = None, **options: Any) -> Labelled:
        return self.do(self.service.label(upload(path, uri), **options))

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"catalog_labels_{name}", labels) or 0.0

    def close(self) -> None:
        async def end() -> None:
            self.service.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.cache.close()


@contextlib.contextmanager
def served(*options: str, cache: Path | None = None) -> Iterator[Served]:
    with contextlib.closing(Served(*options, cache=cache)) as made:
        yield made


@contextlib.contextmanager
def own_fork_server() -> Iterator[None]:
    """A server of forks that has loaded what the service needs, not what other tests need."""
    server: Any = forkserver._forkserver
    preloaded = server._preload_modules
    server._stop()
    try:
        yield
    finally:
        server._stop()
        server.set_forkserver_preload(preloaded)


def forget(service: Served) -> None:
    service.cache = service.service._cache = ResultCache(None)


def is_idle(service: Served) -> bool:
    of = service.service
    pools = ((of._sound, 2), (of._inference._model, 1), (of._listener, 1))
    return all(pool._free.qsize() == len(pool.process_ids) == size for pool, size in pools)


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wav(folder: Path, name: str, seconds: float, seed: int = 0, extra_frames: int = 0) -> Path:
    sound = noise(seconds + extra_frames / RATE, RATE, 1, seed)
    return write_soundfile(folder / name, sound, RATE, "WAV", "PCM_16")


def row_of(labelled: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    own = ("uri", "labelled_at", "run_id")
    rows = [dict(labelled.prediction), *map(dict, labelled.windows)]
    return [{k: v for k, v in row.items() if k not in own} for row in rows]


def problem_of(call: Callable[[], Any]) -> Problem:
    with pytest.raises(RefusedError) as caught:
        call()
    return caught.value.problem


class Tap:
    """Is told of the progress, and does something when the work has begun."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.heard: list[Progress] = []
        self.has_begun = threading.Event()
        self._then = then

    def __call__(self, progress: Progress) -> None:
        self.heard.append(progress)
        if progress == Progress(Step.DECODING):
            self._then()
            self.has_begun.set()


def stop(pids: list[int]) -> None:
    """Let processes do nothing; they can still be killed."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


def go_on(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)

"""The real service with real worker processes, for tests that are no coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Coroutine, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, TypeVar

from pipeline.serve_arguments import parse_options
from pipeline.serving.answers import Labelled, Upload
from pipeline.serving.cache import ResultCache
from pipeline.serving.labelling import LabelService
from pipeline.serving.metrics import Metrics

Out = TypeVar("Out")

PATIENCE_SECONDS = 120.0


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

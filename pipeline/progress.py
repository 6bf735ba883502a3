"""Progress of a run, read from its journal, so that it works with every runner.

On a terminal a bar (tracks done, tracks/s, time left, failures), else a plain line now and then.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType

from tqdm import tqdm

from transforms.storage.retry import is_storage_error

_BAR_INTERVAL_S, _LINES_INTERVAL_S = 0.5, 10.0


class Progress(AbstractContextManager["Progress"]):
    """Shows progress from a thread of its own while the run goes on.

    Parameters
    ----------
    count : callable
        Journalled entries by kind: ``tracks``, ``copies``, ``failures``, ``listed``
        and ``skipped``.
    style : {"auto", "bar", "lines", "none"}
    doing : str
        What the bar is of.
    """

    def __init__(
        self,
        count: Callable[[], Mapping[str, int]],
        style: str = "auto",
        doing: str = "labelling",
    ) -> None:
        self._doing = doing
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "lines"
        self._count = count
        self._style = style
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        if self._style != "none":
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _show(self) -> None:
        interval_s = _BAR_INTERVAL_S if self._style == "bar" else _LINES_INTERVAL_S
        with tqdm(
            desc=self._doing,
            unit="track",
            file=sys.stderr,
            disable=self._style != "bar",
            dynamic_ncols=True,
        ) as bar:
            while not self._stop.wait(interval_s):
                started = time.monotonic()
                self._update(bar)
                # A journal of many segments takes a while to list: never most of the time.
                interval_s = max(interval_s, 10 * (time.monotonic() - started))
            if self._style == "bar":
                self._update(bar)

    def _update(self, bar: tqdm) -> None:
        try:
            counts = self._count()
        except Exception as error:
            if not is_storage_error(error):
                raise
            return  # the next look may find it
        failed, skipped = counts.get("failures", 0), counts.get("skipped", 0)
        done = counts.get("tracks", 0) + counts.get("copies", 0) + failed
        total = counts.get("listed", 0) - skipped
        if self._style == "bar":
            bar.total = total or None  # unknown until all inputs are listed
            bar.set_postfix(failed=failed, skipped=skipped, refresh=False)
            bar.update(done - bar.n)
            return
        elapsed_s = time.monotonic() - self._started
        print(self.line(done, failed, total, elapsed_s), file=sys.stderr, flush=True)

    @staticmethod
    def line(done: int, failed: int, total: int, elapsed_s: float) -> str:
        """One plain line of progress."""
        rate = done / elapsed_s
        left = tqdm.format_interval((total - done) / rate) if 0 < done <= total else "?"
        return (
            f"{done} of {total} tracks, {failed} failed, {rate:.2f} tracks/s, "
            f"{tqdm.format_interval(elapsed_s)} gone, {left} left"
        )

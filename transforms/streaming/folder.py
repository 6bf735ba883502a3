"""A folder into which recorders write, ``FOLDER/STREAM_ID/FILE``, as a source of blocks.

A stream's folder holds either blocks in the wire format, renamed into place and read at once, or
audio files of a recorder that numbers them (see transforms.streaming.recorded). Names that begin
with "." or end in .tmp, .part or .partial are not there yet, and what lies beside music, such as
playlists, is left out. The newest audio file may still be written to: it is read when there is a
newer one, or when it has not changed for a while.

No file is read twice in a run, and none is deleted. A block whose number is lower than one that
was read is passed on late.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from transforms.audio.sandbox import DecoderLimits, Sandbox
from transforms.errors import InputError, Reason, StageError
from transforms.streaming.arrivals import (
    MAX_POLL_BYTES,
    MAX_POLL_SECONDS,
    Arrived,
    Polled,
    Source,
    SourceFailure,
    SourceSpec,
)
from transforms.streaming.folder_names import Key, is_left_out
from transforms.streaming.folder_stream import (
    Foreign,
    Item,
    StreamFolder,
    as_stage_error,
    check_stream_id,
)
from transforms.streaming.watermark import DEFAULT_IDLE_SECONDS, Watermark

DEFAULT_SETTLE_SECONDS = 10.0  # recorders write when a buffer is full
_SCAN_SECONDS = 0.1  # between two looks at the folder, and at least
_SCAN_SHARE = 10  # times as long as the last look took

_STRAY = StageError(
    Reason.MALFORMED_BLOCK,
    "lies beside the folders of streams; put it into one, named by its stream_id",
)


def check_folder(folder: str) -> None:
    """Fail before any work if a folder is not there.

    Raises
    ------
    InputError
    """
    if not os.path.isdir(folder):
        raise InputError(f"{folder} is no folder; give one that holds a folder for each stream")


@dataclass(frozen=True)
class FolderSpec(SourceSpec):
    """A folder, and how it is read.

    Parameters
    ----------
    folder : str
    follow : bool
        For ever, or what is there now.
    only : str or None
        The one stream that is read; None for all.
    settle_seconds : float
        Without a change for so long, the newest audio file is complete.
    idle_seconds : float
        Without a new file for so long, a stream does not hold up the others.
    limits : DecoderLimits
        What an audio file may cost.
    """

    folder: str
    follow: bool = True
    only: str | None = None
    settle_seconds: float = DEFAULT_SETTLE_SECONDS
    idle_seconds: float = DEFAULT_IDLE_SECONDS
    limits: DecoderLimits = field(default_factory=DecoderLimits)

    def open(self) -> FolderSource:
        return FolderSource(self)


def stream_ids(folder: str) -> list[str]:
    """The folders in a folder, sorted; whether they can be streams is told in reading them."""
    return _folders(Path(folder))


def strays(folder: str) -> list[SourceFailure]:
    """The files that lie beside the folders of streams."""
    return [SourceFailure.of(os.path.join(folder, name), _STRAY) for name in _strays(Path(folder))]


class FolderSource(Source):
    """Reads a folder; made by :meth:`FolderSpec.open`.

    Parameters
    ----------
    spec : FolderSpec
    clock : callable
        Seconds, of which only differences count.
    """

    def __init__(self, spec: FolderSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec, self._clock = spec, clock
        self._folder = Path(spec.folder)
        self._sandbox = Sandbox(spec.limits)
        self._streams: dict[str, StreamFolder] = {}
        self._foreign = Foreign(self._folder, None)
        self._watermark = Watermark(spec.idle_seconds, clock)
        self._work: Iterator[Item] = iter(())
        self._pending: dict[str, int] = {}  # files found and not read, by stream
        self._next_scan_s = float("-inf")
        self._ended = False

    def poll(self) -> Polled:
        items = self._some()
        if not items and not self._ended and self._clock() >= self._next_scan_s:
            self._scan()
            items = self._some()
        return Polled(tuple(items), self._watermark.now_us(self._expected()), self._ended)

    def _expected(self) -> set[str]:
        """Streams of which more is there than was read."""
        written = {name for name, stream in self._streams.items() if stream.is_written_to}
        return written | self._pending.keys()

    def _some(self) -> list[Item]:
        items: list[Item] = []
        size, began_s = 0, time.monotonic()
        for item in self._work:
            items.append(item)
            if isinstance(item, Arrived):
                size += len(item.content)
            if size >= MAX_POLL_BYTES or time.monotonic() - began_s >= MAX_POLL_SECONDS:
                break
        return items

    def _scan(self) -> None:
        """Look for files, and put them to work: of each stream one after the other."""
        began_s = self._clock()
        failures: list[SourceFailure] = list(self._find_streams())
        queues: dict[str, list[tuple[Key, str]]] = {}
        for stream in self._streams.values():
            foreign, ready = stream.scan(self._spec.follow)
            failures += foreign
            if ready:
                queues[stream.stream_id] = ready[::-1]
        self._pending = {stream_id: len(ready) for stream_id, ready in queues.items()}
        self._work = self._in_turn(failures, queues)
        self._ended = not self._spec.follow and not failures and not queues
        now_s = self._clock()
        self._next_scan_s = now_s + max(_SCAN_SECONDS, _SCAN_SHARE * (now_s - began_s))
        if not self._spec.follow:
            self._next_scan_s = now_s

    def _find_streams(self) -> Iterator[SourceFailure]:
        beside: list[str] = []
        try:
            if self._spec.only is not None:
                found = [self._spec.only]
            else:
                found, beside = _folders(self._folder), _strays(self._folder)
        except OSError as error:
            yield from self._foreign.failure(".", as_stage_error(error))
            return
        for name in found:
            try:
                self._take_up(name)
            except StageError as error:
                yield from self._foreign.failure(name, error)
        for name in beside:
            yield from self._foreign.failure(name, _STRAY)

    def _take_up(self, name: str) -> None:
        if name not in self._streams:
            check_stream_id(name)
            self._streams[name] = StreamFolder(
                self._folder / name, self._sandbox, self._spec.settle_seconds, self._clock
            )

    def _in_turn(
        self, failures: list[SourceFailure], queues: dict[str, list[tuple[Key, str]]]
    ) -> Iterator[Item]:
        yield from failures
        while queues:
            for stream_id in list(queues):
                key, name = queues[stream_id].pop()
                for item in self._streams[stream_id].read(key, name):
                    if isinstance(item, Arrived):
                        self._watermark.saw(stream_id, item.event_time_us)
                    yield item
                self._pending[stream_id] -= 1
                if not queues[stream_id]:
                    del queues[stream_id], self._pending[stream_id]

    def close(self) -> None:
        self._sandbox.close()


def _folders(folder: Path) -> list[str]:
    return _entries(folder, are_folders=True)


def _strays(folder: Path) -> list[str]:
    return _entries(folder, are_folders=False)


def _entries(folder: Path, *, are_folders: bool) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.is_dir() is are_folders and not is_left_out(entry.name)
        )

"""One stream's folder: which of its files are new, in what order, and the blocks they hold."""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from transforms.audio.sandbox import Sandbox
from transforms.errors import Reason, StageError
from transforms.streaming.arrivals import Arrived, SourceFailure
from transforms.streaming.blocks import MAX_BLOCK_BYTES, Block, decode_block, encode_block
from transforms.streaming.folder_names import Blocks, Key, Segments, is_left_out, naming_of
from transforms.streaming.recorded import Recording
from transforms.streaming.taken import TakenBySession

MAX_NAMES = 2_000  # of one stream, held at a time
MAX_FOREIGN = 1_000  # files of one folder that are named in failures

Item = Arrived | SourceFailure


class Foreign:
    """The files of a folder that are none of its stream's, each of which fails once.

    Parameters
    ----------
    folder : Path
    stream_id : str or None
        None for the folder of all streams.
    """

    def __init__(self, folder: Path, stream_id: str | None) -> None:
        self._folder, self._stream_id = folder, stream_id
        self._names: set[str] = set()

    def failure(self, name: str, error: StageError) -> Iterator[SourceFailure]:
        """The failure of a file, unless it was told before; after many, one for all others."""
        if name in self._names or len(self._names) > MAX_FOREIGN:
            return
        self._names.add(name)
        if len(self._names) > MAX_FOREIGN:
            message = f"over {MAX_FOREIGN} such files are not named: {error.message}"
            error = StageError(error.reason, message)
        yield SourceFailure.of(str(self._folder / name), error, self._stream_id)


class StreamFolder:
    """One stream's folder.

    Parameters
    ----------
    path : Path
        Its name is the stream's id.
    sandbox : Sandbox
        Decodes audio files.
    settle_s : float
        Without a change for so long, the newest audio file is complete.
    now : callable
        Seconds, of which only differences count.
    """

    def __init__(self, path: Path, sandbox: Sandbox, settle_s: float, now: Callable[[], float]):
        self.stream_id = path.name
        self._path, self._now, self._settle_s = path, now, settle_s
        self._naming: Blocks | Segments | None = None
        self._taken = TakenBySession()
        self._foreign = Foreign(path, self.stream_id)
        self._recording = Recording(self.stream_id, sandbox)
        self._watched: tuple[str, int, int] | None = None  # the newest: name, size, mtime
        self._watched_since_s = 0.0
        self.is_written_to = False  # now, as far as one can tell

    def scan(self, follow: bool) -> tuple[list[SourceFailure], list[tuple[Key, str]]]:
        """What does not belong here, and the files to read next, in order."""
        try:
            names = [name for name in os.listdir(self._path) if not is_left_out(name)]
        except OSError as error:
            return list(self._foreign.failure(".", as_stage_error(error))), []
        if self._naming is None:
            self._naming = naming_of(names)
        failures: list[SourceFailure] = []
        ready = heapq.nsmallest(MAX_NAMES, self._new(names, failures))
        self.is_written_to = False
        # Of more names, the newest is not among these.
        if follow and isinstance(self._naming, Segments) and 0 < len(ready) < MAX_NAMES:
            ready = ready if self._is_complete(ready[-1][1]) else ready[:-1]
        return failures, ready

    def _new(
        self, names: Iterable[str], failures: list[SourceFailure]
    ) -> Iterator[tuple[Key, str]]:
        naming = self._naming
        for name in names:
            try:
                if naming is None:
                    raise StageError(
                        Reason.MALFORMED_BLOCK, "its name holds no number; number the segments"
                    )
                key = naming.key(name)
            except StageError as error:
                failures += self._foreign.failure(name, error)
                continue
            if key not in self._taken:
                yield key, name

    def _is_complete(self, newest: str) -> bool:
        try:
            found = os.stat(self._path / newest)
        except OSError:
            return True  # reading it tells
        state = (newest, found.st_size, found.st_mtime_ns)
        if state != self._watched:
            self._watched, self._watched_since_s = state, self._now()
        self.is_written_to = self._now() - self._watched_since_s < self._settle_s
        return not self.is_written_to and found.st_size > 0  # empty: the first buffer is not full

    def read(self, key: Key, name: str) -> Iterator[Item]:
        """The blocks of a file, then its failure, if it has one."""
        self._taken.add(key)
        path = self._path / name
        try:
            if isinstance(self._naming, Segments):
                for block in self._recording.blocks(path, key[1]):
                    yield Arrived(self.stream_id, encode_block(block), block.event_time_us)
            else:
                content = read_block(path)
                block = checked_block(content, self.stream_id, key)
                yield Arrived(self.stream_id, content, block.event_time_us)
        except StageError as error:
            yield SourceFailure.of(str(path), error, self.stream_id)
        except OSError as error:
            yield SourceFailure.of(str(path), as_stage_error(error), self.stream_id)


def check_stream_id(stream_id: str) -> None:
    """Refuse what is no name of a stream.

    Raises
    ------
    StageError
        ``malformed_block``.
    """
    Block(stream_id=stream_id, sequence=0, event_time_us=0, sample_rate_hz=8_000, channels=1,
          payload=b"")  # fmt: skip


def read_block(path: Path) -> bytes:
    """A file's bytes, at most one more than a block may have.

    Raises
    ------
    OSError
    StageError
        ``unreadable``: it is no regular file.
    """
    # Opening a pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StageError(Reason.UNREADABLE, "is no regular file")
        return file.read(MAX_BLOCK_BYTES + 1)


def checked_block(content: bytes, stream_id: str, key: Key) -> Block:
    """The block of a file, which must be the one that the file's name promises.

    Raises
    ------
    StageError
        ``malformed_block``.
    """
    block = decode_block(content)
    if (block.stream_id, block.session, block.sequence) != (stream_id, *key):
        raise StageError(Reason.MALFORMED_BLOCK, f"its header says it is {block.file_name}")
    return block


def as_stage_error(error: OSError) -> StageError:
    """What the system says of a file, as a failure of the stream's."""
    if isinstance(error, FileNotFoundError):
        return StageError(Reason.NOT_FOUND, "went before it was read; keep files for longer")
    if isinstance(error, PermissionError):
        return StageError(Reason.PERMISSION_DENIED, "must not be read; change its permissions")
    return StageError(Reason.UNREADABLE, f"{error.strerror}; check the disk")

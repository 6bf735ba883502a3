"""A Beam file system in this process's memory: ``memtest://folder/name``, an object store's ways.

An object shows when it is complete, a folder is only a part of names, and a stop that a test asks
for is an error of storage.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem

MODIFIED_S = 1_700_000_000.25


class CodedError(Exception):
    """As the clients of clouds raise them."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"status {code}")
        self.code = code


class _LateError(io.BytesIO):
    """An object whose absence shows when it is read, as on Google's."""

    def read(self, size: int | None = -1) -> bytes:
        raise CodedError(404)


class _Upload(io.BytesIO):
    def __init__(self, finish: Callable[[bytes], None]) -> None:
        super().__init__()
        self._finish = finish

    def close(self) -> None:
        if not self.closed:
            self._finish(self.getvalue())
        super().close()


class MemoryFileSystem(FileSystem):
    """What a test has put there; the fixture ``memory_files`` empties it."""

    content: dict[str, bytes] = {}  # noqa: RUF012 (one for all instances)
    stops: list[Exception] = []  # noqa: RUF012 (raised by the next calls, one each)
    missing: Callable[[str], Exception] | None = FileNotFoundError  # None: only when it is read

    @classmethod
    def scheme(cls):
        return "memtest"

    def _stop(self) -> None:
        if self.stops:
            raise self.stops.pop(0)

    def open(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        assert compression_type == CompressionTypes.UNCOMPRESSED
        self._stop()
        if path in self.content:
            return io.BytesIO(self.content[path])
        if self.missing is None:
            return _LateError()
        raise type(self).missing(path)

    def create(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        assert compression_type == CompressionTypes.UNCOMPRESSED
        self._stop()
        return _Upload(lambda content: self.content.__setitem__(path, content))

    def join(self, basepath, *paths):
        return "/".join((basepath.rstrip("/"), *paths))

    def split(self, path):
        head, _, tail = path.rpartition("/")
        return head, tail

    def has_dirs(self):
        return False

    def mkdirs(self, path):
        raise AssertionError("an object store has no folders to make")

    def _list(self, dir_or_prefix) -> Iterator[FileMetadata]:
        for path, content in sorted(self.content.items()):
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(content), MODIFIED_S)

    def exists(self, path):
        return path in self.content

    def metadata(self, path):
        if path not in self.content:
            raise BeamIOError("Metadata operation failed", {path: FileNotFoundError(path)})
        return FileMetadata(path, len(self.content[path]), MODIFIED_S)

    def delete(self, paths):
        for path in paths:
            for name in list(self.content):
                if name == path or (path.endswith("/") and name.startswith(path)):
                    del self.content[name]

    def _unused(self, *_args, **_options):
        raise NotImplementedError

    copy = rename = size = last_updated = _unused


class FakeClock:
    """Stands for ``apache_beam.utils.retry.Clock``: remembers the delays and does not wait."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

"""A track's bytes as a local file, hashed, from any of Beam's file systems."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.errors import Reason, StageError, StorageError
from transforms.manifest import file_uri_path
from transforms.storage.retry import retried

_CHUNK_BYTES = 1 << 20
_PROBE_BYTES = 4_096


@dataclass(frozen=True)
class Fetched:
    """A track's bytes as a local file."""

    path: Path
    sha256: str  # hexadecimal
    size_bytes: int  # as read


def local_path(uri: str) -> Path | None:
    """Return the local file that ``uri`` names, or None where it is on another filesystem."""
    if (named := file_uri_path(uri)) is not None:
        return Path(named)
    return Path(uri) if FileSystems.get_scheme(uri) is None else None


@contextlib.contextmanager
def fetched(uri: str) -> Iterator[Fetched]:
    """Provide the bytes behind ``uri``, hashed: in place, or as a temporary copy.

    What storage refuses for a while is tried again (see transforms.storage.retry).

    Parameters
    ----------
    uri : str
        A path, or a URI of any Beam filesystem. Compressed files are taken as they are.

    Yields
    ------
    Fetched

    Raises
    ------
    StageError
        With the reason not_found, permission_denied or unreadable.
    """
    path = local_path(uri)
    if path is not None:
        with _reasoned(uri):
            digest, size = retried(uri, lambda: _hash_local(path))
        yield Fetched(path, digest, size)
        return
    # No TemporaryDirectory, which goes at the interpreter's exit even while a thread decodes.
    with _reasoned(uri):
        folder = Path(tempfile.mkdtemp(prefix="decode-"))
    try:
        copy = folder / "track"
        with _reasoned(uri):
            digest, size = retried(uri, lambda: _copy(uri, copy))
        yield Fetched(copy, digest, size)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copied(uri: str, path: Path, *, most_bytes: int) -> Fetched | None:
    """Copy the bytes behind ``uri`` to a new local file, hashed; None if they are too many.

    Parameters
    ----------
    uri, path
        From where, to where. An incomplete copy is left for the caller to delete.
    most_bytes : int
        Reading stops there, whatever the storage says of the size.

    Raises
    ------
    StageError
        As :func:`fetched`.
    """

    def copy() -> tuple[str, int]:
        return _copy(uri, path, most_bytes)

    with _reasoned(uri):
        digest, size = retried(uri, copy)
    return None if size > most_bytes else Fetched(path, digest, size)


def probe(uri: str, size_bytes: int) -> bytes:
    """Hash the beginning, the middle and the end of a file: equal files have equal probes.

    Raises
    ------
    StageError
        As :func:`fetched`.
    """
    path = local_path(uri)
    digest = hashlib.blake2b(digest_size=16)
    with _reasoned(uri):
        if path is not None:
            if not path.is_file():
                _refuse(path)
            source: BinaryIO = path.open("rb", buffering=0)
        else:
            source = FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)
        with contextlib.closing(source):
            for start in sorted({0, size_bytes // 2, max(0, size_bytes - _PROBE_BYTES)}):
                source.seek(start)
                digest.update(source.read(_PROBE_BYTES))
    return digest.digest()


def _refuse(path: Path) -> None:
    path.stat()  # says not found or permission denied
    raise StageError(Reason.UNREADABLE, f"{path} is no regular file")


def _hash_local(path: Path) -> tuple[str, int]:
    if not path.is_file():  # a pipe must not be opened: it may never end
        _refuse(path)
    with path.open("rb") as source:
        return _read(source, None)


def _copy(uri: str, copy: Path, most_bytes: float = math.inf) -> tuple[str, int]:
    # UNCOMPRESSED: the default would silently undo what a name like "take.wav.gz" suggests.
    source: BinaryIO = FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)
    with contextlib.closing(source), copy.open("wb") as sink:
        return _read(source, sink, most_bytes)


def _read(
    source: BinaryIO, sink: BinaryIO | None, most_bytes: float = math.inf
) -> tuple[str, int]:
    """SHA-256 and size of what ``source`` holds, copied to ``sink`` on the way.

    It ends behind ``most_bytes``, whatever follows.
    """
    digest, size = hashlib.sha256(), 0
    while size <= most_bytes and (chunk := source.read(_CHUNK_BYTES)):
        digest.update(chunk)
        size += len(chunk)
        if sink is not None:
            sink.write(chunk)
    return digest.hexdigest(), size


@contextlib.contextmanager
def _reasoned(uri: str) -> Iterator[None]:
    """Turn whatever a filesystem raises into a StageError with the nearest reason."""
    try:
        yield
    except StageError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"no room for a temporary copy in {tempfile.gettempdir()}: free some"
            raise StorageError(message) from error
        raise StageError(_reason(error), _told(uri, error)) from error
    except Exception as error:  # each filesystem has its own kinds; the cause stays attached
        raise StageError(_reason(error), _told(uri, error)) from error


def _told(uri: str, error: Exception) -> str:
    return f"{uri}: {type(error).__name__}: {error}"


def _reason(error: Exception) -> Reason:
    if isinstance(error, BeamIOError) and error.exception_details:
        error = next(iter(error.exception_details.values()))
    code = getattr(error, "code", None)  # cloud clients put the HTTP status here
    if isinstance(error, FileNotFoundError) or code == 404:
        return Reason.NOT_FOUND
    if isinstance(error, PermissionError) or code in (401, 403):
        return Reason.PERMISSION_DENIED
    return Reason.UNREADABLE

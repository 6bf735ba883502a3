"""Files of a run that are there whole or not at all, on local disks and object stores."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.errors import StorageError
from transforms.manifest import is_local
from transforms.storage.retry import is_storage_error, retried


@contextlib.contextmanager
def committed(path: str, drafts: str | None = None) -> Iterator[Path]:
    """Give a local path to write to; what is written becomes ``path`` at once and durably.

    On this machine by fsync and rename. Elsewhere by an upload: object stores show an object when
    it is complete. What storage refuses for a while is tried again (see transforms.storage.retry).

    Parameters
    ----------
    path : str
    drafts : str, optional
        Folder of the same local file system for what is being written, under a name of its own;
        beside ``path``, under a name that follows from it, when None.

    Raises
    ------
    StorageError
        If ``path`` cannot be written.
    """
    with _storage_errors(path), _draft(path, drafts) as draft:
        yield draft
        retried(path, lambda: _commit(draft, path))


def commit(path: str, content: bytes) -> None:
    """Write a whole file, see :func:`committed`."""
    with _storage_errors(path), _draft(path) as draft:
        retried(path, lambda: draft.write_bytes(content))
        retried(path, lambda: _commit(draft, path))


@contextlib.contextmanager
def _storage_errors(path: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if not is_storage_error(error):
            raise
        told = str(error) or type(error).__name__
        raise StorageError(
            f"{path} cannot be written: {told}; what was done is in the journal: start the run "
            "again to go on"
        ) from error


@contextlib.contextmanager
def _draft(path: str, drafts: str | None = None) -> Iterator[Path]:
    if not is_local(path):
        with tempfile.TemporaryDirectory(prefix="commit-") as folder:
            yield Path(folder) / "draft"
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.tmp"
    if drafts is not None:
        Path(drafts).mkdir(parents=True, exist_ok=True)
        draft = Path(drafts, f"{uuid.uuid4().hex}{target.suffix}")
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)  # half a file on a full disk takes what room is left


def _commit(draft: Path, path: str) -> None:
    if is_local(path):
        with draft.open("rb+") as stream:
            os.fsync(stream.fileno())
        draft.replace(path)
        _sync_folder(Path(path).parent)
        return
    with (
        draft.open("rb") as source,
        FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream,
    ):
        shutil.copyfileobj(source, stream, 1 << 20)


def _sync_folder(folder: Path) -> None:
    """Make a rename in a local folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mark(path: str) -> bool:
    """Leave a file that only says that it is there; False if it was there before.

    Without fsync: to lose it in a power cut must do no harm.

    Raises
    ------
    StorageError
        If ``path`` cannot be written.
    """
    with _storage_errors(path):
        if is_local(path):
            try:
                Path(path).touch(exist_ok=False)
            except FileExistsError:
                return False
            return True
        try:
            read_file(path)
        except FileNotFoundError:
            commit(path, b"marked\n")  # Beam's S3 client fails on an empty object
            return True
        return False


def read_file(path: str) -> bytes:
    """All of a file of the run.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """

    def read() -> bytes:
        if is_local(path):
            return Path(path).read_bytes()
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            content: bytes = stream.read()
            return content

    try:
        return retried(path, read)
    except Exception as error:  # each file system has its own way to say that there is none
        missing = isinstance(error, BeamIOError) and not FileSystems.exists(path)
        if missing or getattr(error, "code", None) == HTTPStatus.NOT_FOUND:
            raise FileNotFoundError(path) from error
        raise


def list_folder(folder: str) -> list[str]:
    """Paths of the files right in a folder, by name; none if there is no such folder."""
    if is_local(folder):
        if not Path(folder).is_dir():
            return []
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if entry.is_file())
    (found,) = retried(folder, lambda: FileSystems.match([f"{folder}/*"]))
    return sorted(metadata.path for metadata in found.metadata_list)


def delete_files(paths: list[str]) -> None:
    """Delete files; those that are gone already are no error."""
    for path in paths:
        with _storage_errors(path):
            if is_local(path):
                Path(path).unlink(missing_ok=True)
            else:
                retried(path, functools.partial(FileSystems.delete, [path]))


def delete_tree(folder: str) -> None:
    """Delete a folder and all below it, or what there is of it."""
    with _storage_errors(folder):
        if not is_local(folder):  # the closing / says that all below it is meant
            retried(folder, lambda: FileSystems.delete([f"{folder}/"]))
        elif Path(folder).exists():
            shutil.rmtree(folder)

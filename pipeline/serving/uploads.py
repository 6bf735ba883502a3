"""Files that come in a form: written, hashed and measured while they arrive.

The parser is the one that Starlette uses, fed directly: Starlette would first spool a file
somewhere else, and would take a form that was cut off for a whole one.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from pipeline.serving.answers import Limits, Problem, RefusedError, Upload

FIELD = "file"
"""Name of the form's field, which may come several times."""

_WRITE_BYTES = 1 << 20  # that arrive before a thread is asked to write them
_MOST_NAME_CHARACTERS = 255
_FULL_SECONDS = 30  # in which other requests may have deleted their files
_REMEDY = f"send multipart/form-data with the sound in the field {FIELD!r}"


@asynccontextmanager
async def received_files(
    request: Request, folder: Path, limits: Limits, most_files: int | None = None
) -> AsyncIterator[list[Upload]]:
    """Provide the files of a request's form; they are deleted at the end, however it comes.

    Parameters
    ----------
    request : Request
        multipart/form-data; every part is a file named ``file``.
    folder : Path
        Where a folder of its own is made for them.
    limits : Limits
        ``upload_bytes`` of each file.
    most_files : int, optional
        ``limits.batch_files`` when None.

    Yields
    ------
    list of Upload
        In their order; at least one. A file may be empty.

    Raises
    ------
    RefusedError
        TOO_LARGE for a file over its limit, INVALID_REQUEST for any other body, OVERLOADED
        where the disk is full.
    starlette.requests.ClientDisconnect
        If the client leaves before it has sent everything.
    """
    boundary = _boundary(request.headers.get("content-type"))
    own = Path(tempfile.mkdtemp(prefix="upload-", dir=folder))
    form = _Form(boundary, own, limits.upload_bytes, most_files or limits.batch_files)
    try:
        await _receive(request, form)
        yield form.uploads
    finally:
        # Goes on even if this task is cancelled meanwhile.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, form.delete))


async def _receive(request: Request, form: _Form) -> None:
    pending = bytearray()
    async for chunk in request.stream():
        pending += chunk
        if len(pending) >= _WRITE_BYTES:
            await asyncio.to_thread(form.feed, bytes(pending))
            pending.clear()
    await asyncio.to_thread(form.feed, bytes(pending))
    form.finish()


def shown_name(name: str) -> str:
    """A file's name as it may be shown: one line of bounded length, nothing invisible."""
    visible = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in name)
    return " ".join(visible.split())[:_MOST_NAME_CHARACTERS] or "unnamed"


def local_upload(uri: str, path: Path, limits: Limits, copy: Path | None = None) -> Upload:
    """Hash a file of this machine; blocks.

    Parameters
    ----------
    uri : str
        For the answer.
    path : Path
        As :func:`pipeline.serving.uris.resolve_uri` resolved it.
    limits : Limits
    copy : Path, optional
        Where to copy it on the way: it may change later. None takes it where it lies.

    Raises
    ------
    RefusedError
        TOO_LARGE.
    OSError
        If it cannot be read, or is no regular file: a pipe may never end.
    """
    if not path.is_file():
        path.stat()  # says not found or permission denied
        raise OSError(f"{path} is no regular file")
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source, (copy or Path(os.devnull)).open("wb") as sink:
        while chunk := source.read(_WRITE_BYTES):
            size += len(chunk)
            _check_size(size, limits.upload_bytes)  # not by stat(): the file may be growing
            digest.update(chunk)
            sink.write(chunk)
    return Upload(uri, copy or path, digest.hexdigest(), size)


class _Form:
    """A form that arrives in pieces; used by one thread at a time, and deleted by any."""

    def __init__(self, boundary: bytes, folder: Path, upload_bytes: int, most_files: int) -> None:
        self.uploads: list[Upload] = []
        self._folder = folder
        self._upload_bytes = upload_bytes
        self._most_files = most_files
        self._lock = threading.Lock()  # a cancelled task leaves its thread behind
        self._is_whole = self._is_deleted = False
        self._header = self._value = self._disposition = b""
        self._name = ""
        self._sink: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> None:
        with self._lock:
            if self._is_deleted:
                return
            try:
                self._parser.write(data)
            except FormParserError as error:
                raise _invalid("the body is no well-formed form") from error
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                message = "there is no room for uploads at the moment; try again later"
                raise RefusedError(Problem.OVERLOADED, message, _FULL_SECONDS) from error

    def finish(self) -> None:
        if not self._is_whole:
            raise _invalid("the body is empty or ends before the form does")
        if not self.uploads:
            raise _invalid("the form has no file")

    def delete(self) -> None:
        with self._lock:
            self._is_deleted = True
            if self._sink is not None:
                self._sink.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = b""
        field = _decoded(options.get(b"name", b""))
        if field != FIELD:
            raise _invalid(f"unknown field {shown_name(field)[:40]!r}")
        if b"filename" not in options:
            raise _invalid(f"the field holds text and no file (curl: -F {FIELD}=@song.mp3)")
        if len(self.uploads) == self._most_files:
            raise _invalid(f"more files than the {self._most_files} that are taken at once here")
        self._name = _decoded(options[b"filename"])
        self._hash, self._size_bytes = hashlib.sha256(), 0
        self._sink = self._path().open("xb", buffering=0)

    def _path(self) -> Path:
        return self._folder / str(len(self.uploads))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        assert self._sink is not None
        self._size_bytes += end - start
        _check_size(self._size_bytes, self._upload_bytes)
        piece = memoryview(data)[start:end]
        self._hash.update(piece)
        while piece:
            piece = piece[self._sink.write(piece) :]

    def _on_part_end(self) -> None:
        assert self._sink is not None
        self._sink.close()
        if not self._name and not self._size_bytes:
            raise _invalid("no file was chosen")  # what a browser sends then
        name = shown_name(self._name)
        self.uploads.append(Upload(name, self._path(), self._hash.hexdigest(), self._size_bytes))

    def _on_end(self) -> None:
        self._is_whole = True


def _boundary(content_type: str | None) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise _invalid("the body is no form" if kind else "the request has no body")
    if not 0 < len(options.get(b"boundary", b"")) <= 70:  # RFC 2046
        raise _invalid("the form's content type states no boundary, or too long a one")
    return options[b"boundary"]


def _check_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        message = f"the file is larger than the {limit_bytes:,} bytes that are taken here"
        raise RefusedError(Problem.TOO_LARGE, message)


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _invalid(found: str) -> RefusedError:
    return RefusedError(Problem.INVALID_REQUEST, f"{found}; {_REMEDY}")

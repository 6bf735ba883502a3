"""Files out of forms that another library wrote, whole or not, and nothing left behind."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from pipeline.serving import uploads
from pipeline.serving.answers import Limits, Problem, RefusedError, Upload
from pipeline.serving.uploads import local_upload, received_files, shown_name

LIMITS = Limits(upload_bytes=3 << 20, batch_files=3)
KIND = "multipart/form-data; boundary=edge"


def form(*files: tuple[str, bytes], field: str = "file") -> bytes:
    """A form as httpx writes it."""
    parts = [(field, (name, content, "audio/wav")) for name, content in files]
    sent = httpx.Request("POST", "http://here", files=parts, headers={"content-type": KIND})
    return sent.read()


def request(chunks: Sequence[bytes], kind: str | None = KIND, cut: bool = False) -> Request:
    """A request whose body comes in these chunks; when ``cut``, the client leaves behind them."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.disconnect"} if cut else {"type": "http.request"})
    waiting = iter(messages)

    async def receive():
        return next(waiting)

    headers = [] if kind is None else [(b"content-type", kind.encode("latin-1"))]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def received(
    sent: Request,
    folder: Path,
    limits: Limits = LIMITS,
    look: Callable[[list[Upload]], object] = lambda found: [
        (one.uri, one.path.read_bytes()) for one in found
    ],
) -> object:
    async def receive():
        async with received_files(sent, folder, limits) as found:
            for one in found:
                content = one.path.read_bytes()
                assert one.path.is_relative_to(folder)
                assert one.sha256 == hashlib.sha256(content).hexdigest()
                assert one.size_bytes == len(content)
            return look(found)

    try:
        return asyncio.run(receive())
    finally:
        assert list(folder.iterdir()) == []


def refused(sent: Request, folder: Path, limits: Limits = LIMITS) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        received(sent, folder, limits)
    return caught.value


def cut_up(body: bytes, sizes: Sequence[int]) -> list[bytes]:
    chunks, start = [], 0
    for size in sizes:
        chunks.append(body[start : start + size])
        start += size
    return [*chunks, body[start:]]


_content = st.lists(
    st.sampled_from([b"\r\n--edge", b"\r\n--edge-", b"\r\n", b"\r", b"-", b"--edge--", b"\0\xff"])
    | st.binary(max_size=20),
    max_size=8,
).map(b"x".join)


@settings(deadline=None, max_examples=60)
@given(contents=st.lists(_content, min_size=1, max_size=3), sizes=st.lists(st.integers(0, 90)))
def test_whatever_the_bytes_and_however_they_come(tmp_path_factory, contents, sizes):
    # The one thing that a form cannot carry is its own boundary: see RFC 2046, 5.1.1.
    contents = [content.replace(b"\r\n--edge", b"\r\n--egde") for content in contents]
    files = [(f"{i}.wav", content) for i, content in enumerate(contents)]
    folder = tmp_path_factory.mktemp("uploads")
    with ExitStack() as restored:
        restored.callback(setattr, uploads, "_WRITE_BYTES", uploads._WRITE_BYTES)
        uploads._WRITE_BYTES = 50
        assert received(request(cut_up(form(*files), sizes)), folder) == files


def test_a_large_file(tmp_path):
    content = os.urandom((3 << 20) - 5)
    sent = request(cut_up(form(("a.wav", content)), [65_536] * 48))
    assert received(sent, tmp_path) == [("a.wav", content)]


def test_an_empty_file_is_the_decoders_to_judge(tmp_path):
    assert received(request([form(("a.wav", b""))]), tmp_path) == [("a.wav", b"")]


@pytest.mark.parametrize(
    ("files", "problem", "word"),
    [
        ([("a", b"x" * 100)], None, ""),
        ([("a", b"x" * 101)], Problem.TOO_LARGE, "100 bytes"),
        ([("a", b"x" * 60), ("b", b"x" * 60), ("c", b"x" * 60)], None, ""),
        ([("a", b"x"), ("b", b"x" * 101)], Problem.TOO_LARGE, "100 bytes"),
        ([("a", b"x")] * 4, Problem.INVALID_REQUEST, "more files than the 3"),
    ],
)
def test_limits_hold_to_the_byte_and_the_file(tmp_path, files, problem, word):
    limits = Limits(upload_bytes=100, batch_files=3)
    sent = request(cut_up(form(*files), [7] * 30))
    if problem is None:
        assert received(sent, tmp_path, limits) == files
        return
    error = refused(sent, tmp_path, limits)
    assert error.problem is problem
    assert word in error.message


WHOLE = form(("a.wav", b"abc"))
TEXT = b'--edge\r\nContent-Disposition: form-data; name="%b"\r\n\r\nabc\r\n--edge--\r\n'


@pytest.mark.parametrize(
    ("body", "kind", "word"),
    [
        (b"", None, "no body"),
        (b"{}", "application/json", "no form"),
        (b"a=b", "application/x-www-form-urlencoded", "no form"),
        (WHOLE, "multipart/form-data", "boundary"),
        (WHOLE, "multipart/form-data; boundary=", "boundary"),
        (WHOLE, "multipart/form-data; boundary=" + "x" * 71, "boundary"),
        (WHOLE, "multipart/form-data; boundary=other", "no well-formed form"),
        (b"", KIND, "empty"),
        (b"\0\1\2 secret bytes", KIND, "no well-formed form"),
        (b"--edge--\r\n", KIND, "form"),
        (WHOLE[:-6], KIND, "ends before"),
        (WHOLE[: WHOLE.index(b"abc") + 1], KIND, "ends before"),
        (form(("a", b"abc"), field="sound"), KIND, "unknown field 'sound'"),
        (TEXT % b"comment", KIND, "unknown field 'comment'"),
        (TEXT % b"file", KIND, "curl: -F file=@song.mp3"),
        (b"--edge\r\nX-A: b\r\n\r\nabc\r\n--edge--\r\n", KIND, "unknown field"),
        (TEXT.replace(b'"%b"', b'"file"; filename=""').replace(b"abc", b""), KIND, "was chosen"),
    ],
)
def test_any_other_body_is_refused_with_the_remedy(tmp_path, body, kind, word):
    error = refused(request([body], kind), tmp_path)
    assert error.problem is Problem.INVALID_REQUEST
    assert word in error.message
    assert "multipart/form-data with the sound in the field 'file'" in error.message
    assert "secret" not in error.message


def test_a_client_that_leaves_leaves_nothing_behind(tmp_path):
    sent = request(cut_up(form(("a.wav", b"x" * (2 << 20))), [65_536] * 20)[:-1], cut=True)
    with pytest.raises(ClientDisconnect):
        received(sent, tmp_path)


def test_what_fails_while_the_files_are_used_leaves_nothing_behind(tmp_path):
    def fail(found):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        received(request([WHOLE]), tmp_path, look=fail)


def test_a_task_that_is_cancelled_while_a_thread_writes(tmp_path, monkeypatch):
    feed, ends = uploads._Form.feed, []

    def slow(self, data):
        time.sleep(0.3)
        feed(self, data)
        ends.append(list(tmp_path.iterdir()))

    monkeypatch.setattr(uploads._Form, "feed", slow)

    async def cancel():
        async def receive():
            async with received_files(request([WHOLE]), tmp_path, LIMITS):
                raise AssertionError("it was to be cancelled")

        task = asyncio.create_task(receive())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list(tmp_path.iterdir()) == []

    asyncio.run(cancel())  # waits for the thread
    assert ends == [[]]


def test_a_full_disk_is_told_as_such(tmp_path, monkeypatch):
    def full(self, data, start, end):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(uploads._Form, "_on_part_data", full)
    error = refused(request([WHOLE]), tmp_path)
    assert error.problem is Problem.OVERLOADED
    assert error.retry_after_seconds


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("song.mp3", "song.mp3"),
        ("../../etc/passwd", "../../etc/passwd"),
        ("夜曲 – Café.flac", "夜曲 – Café.flac"),
        ("a\x00b\x1b[31m\r\nc.wav", "ab[31m c.wav"),
        ("exe.\u202e3pm", "exe.3pm"),
        ("夜\u3000曲", "夜 曲"),
        ("x" * 999, "x" * 255),
        ("\n", "unnamed"),
        ("", "unnamed"),
    ],
)
def test_names_are_only_shown(tmp_path, name, shown):
    assert shown_name(name) == shown
    sent = request([form((name or "\n", b"abc"))])
    assert received(sent, tmp_path, look=lambda got: [one.path.name for one in got]) == ["0"]


def test_a_name_that_is_no_utf_8(tmp_path):
    body = WHOLE.replace(b"a.wav", b"caf\xe9.wav")
    assert received(request([body]), tmp_path) == [("café.wav", b"abc")]


def test_a_local_file_is_hashed_where_it_lies(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"x" * 100)
    limits = Limits(upload_bytes=100)
    expected = Upload("file:///a.wav", path, hashlib.sha256(b"x" * 100).hexdigest(), 100)
    assert local_upload("file:///a.wav", path, limits) == expected
    path.write_bytes(b"x" * 101)
    with pytest.raises(RefusedError, match="100 bytes") as caught:
        local_upload("a", path, limits)
    assert caught.value.problem is Problem.TOO_LARGE


def test_a_local_pipe_or_folder_is_never_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="no regular file"):
            local_upload("a", path, LIMITS)
    with pytest.raises(FileNotFoundError):
        local_upload("a", tmp_path / "none", LIMITS)

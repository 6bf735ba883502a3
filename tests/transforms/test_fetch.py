"""Bytes as local files, from anywhere, and what cannot be had."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import pathlib
import tempfile
from pathlib import Path

import pytest
from apache_beam.io.filesystem import BeamIOError

from tests.memory_files import CodedError, MemoryFileSystem
from transforms.errors import Reason, StageError, StorageError
from transforms.fetch import fetched, local_path, probe

CONTENT = bytes(range(256)) * 10_000  # some chunks


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/a/b c.wav", "/a/b c.wav"),
        ("a%20b.wav", "a%20b.wav"),
        ("file:///a/b%20c.wav", "/a/b c.wav"),
        ("file://localhost/a.wav", "/a.wav"),
        ("file:///a/100%.wav", "/a/100%.wav"),
        ("gs://bucket/a.wav", None),
    ],
)
def test_local_path(uri, path):
    assert local_path(uri) == (None if path is None else Path(path))


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary copies go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(params=["local", "file uri", "remote"])
def stored(request, tmp_path, memory_files):
    """Store some bytes, give their uri."""

    def store(content: bytes, name: str = "a b.wav") -> str:
        if request.param == "remote":
            memory_files[f"memtest://bucket/{name}"] = content
            return f"memtest://bucket/{name}"
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name) if request.param == "local" else (tmp_path / name).as_uri()

    return store


@pytest.mark.parametrize("content", [CONTENT, b"", b"x"], ids=len)
def test_bytes_hash_and_size(stored, temporary, content):
    with fetched(stored(content)) as source:
        assert source.path.read_bytes() == content
        assert source.sha256 == hashlib.sha256(content).hexdigest()
        assert source.size_bytes == len(content)
    assert list(temporary.iterdir()) == []


def test_compressed_files_are_taken_as_they_are(stored, temporary):
    packed = gzip.compress(CONTENT)
    with fetched(stored(packed, "a.wav.gz")) as source:
        assert source.path.read_bytes() == packed


def test_a_local_file_is_not_copied(tmp_path, temporary):
    (tmp_path / "a").write_bytes(b"x")
    with fetched(str(tmp_path / "a")) as source:
        assert source.path == tmp_path / "a"
        assert list(temporary.iterdir()) == []


def test_temporary_copies_are_removed_when_their_use_fails(memory_files, temporary):
    memory_files["memtest://a"] = b"x"
    with pytest.raises(ZeroDivisionError), fetched("memtest://a"):
        raise ZeroDivisionError
    assert list(temporary.iterdir()) == []


# What cannot be had


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("a"), Reason.NOT_FOUND),
        (CodedError(404), Reason.NOT_FOUND),
        (BeamIOError("no", {"a": CodedError(404)}), Reason.NOT_FOUND),
        (PermissionError("a"), Reason.PERMISSION_DENIED),
        (CodedError(401), Reason.PERMISSION_DENIED),
        (CodedError(403), Reason.PERMISSION_DENIED),
        (BeamIOError("no", {"a": CodedError(403)}), Reason.PERMISSION_DENIED),
        (RuntimeError("odd"), Reason.UNREADABLE),
        (OSError(errno.EISDIR, "odd"), Reason.UNREADABLE),
    ],
    ids=repr,
)
def test_reasons(memory_files, no_waiting, temporary, error, reason):
    memory_files["memtest://a"] = b"x"
    for use in (fetched("memtest://a").__enter__, lambda: probe("memtest://a", 1)):
        MemoryFileSystem.stops.append(error)
        with pytest.raises(StageError, match="memtest://a") as caught:
            use()
        assert caught.value.reason is reason
        assert type(error).__name__ in caught.value.message
    assert no_waiting.slept == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("uri", ["/no/such/file", "memtest://no/such", "file:///no/such"])
def test_what_is_not_there(memory_files, uri):
    for use in (fetched(uri).__enter__, lambda: probe(uri, 5)):
        with pytest.raises(StageError) as caught:
            use()
        assert caught.value.reason is Reason.NOT_FOUND


def test_a_scheme_that_nobody_knows():
    with pytest.raises(StageError, match="nosuchscheme") as caught, fetched("nosuchscheme://a"):
        pass
    assert caught.value.reason is Reason.UNREADABLE


def test_what_is_no_regular_file_is_not_even_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for ever
    for path in (tmp_path / "pipe", tmp_path):
        for use in (fetched(str(path)).__enter__, lambda path=path: probe(str(path), 5)):
            with pytest.raises(StageError, match="no regular file") as caught:
                use()
            assert caught.value.reason is Reason.UNREADABLE


def test_what_fails_for_a_while_is_tried_again(memory_files, no_waiting):
    memory_files["memtest://a"] = b"x"
    MemoryFileSystem.stops += [CodedError(503), ConnectionError("reset")]
    with fetched("memtest://a") as source:
        assert source.path.read_bytes() == b"x"
    assert len(no_waiting.slept) == 2


def test_what_keeps_failing_is_unreadable(memory_files, no_waiting):
    memory_files["memtest://a"] = b"x"
    MemoryFileSystem.stops += [CodedError(503)] * 20
    with pytest.raises(StageError, match="503") as caught, fetched("memtest://a"):
        pass
    assert caught.value.reason is Reason.UNREADABLE


def test_a_second_try_does_not_hash_the_first_ones_bytes(tmp_path, monkeypatch, no_waiting):
    """A local read that fails halfway begins anew."""
    (tmp_path / "a").write_bytes(CONTENT)
    real, tries = pathlib.Path.open, []

    def half(self, mode="r", *args, **options):
        stream = real(self, mode, *args, **options)
        tries.append(self)
        return Half(stream) if len(tries) == 1 else stream

    monkeypatch.setattr(pathlib.Path, "open", half)
    with fetched(str(tmp_path / "a")) as source:
        assert source.sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert source.size_bytes == len(CONTENT)
    assert len(tries) == 2


class Half:
    """A stream that gives some bytes and fails."""

    def __init__(self, stream) -> None:
        self.stream, self.reads = stream, 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        if self.reads > 1:
            raise OSError(errno.EIO, "Input/output error")
        return self.stream.read(size)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()


@pytest.mark.parametrize(("owner", "name"), [(pathlib.Path, "open"), (tempfile, "mkdtemp")])
def test_no_room_for_a_copy_stops_the_run(
    memory_files, temporary, monkeypatch, no_waiting, owner, name
):
    memory_files["memtest://a"] = b"x"

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(owner, name, full)
    with pytest.raises(StorageError, match="no room for a temporary copy"), fetched("memtest://a"):
        pass


# Probes


def test_probes_of_equal_bytes_are_equal_wherever_they_lie(tmp_path, memory_files):
    (tmp_path / "a").write_bytes(CONTENT)
    memory_files["memtest://b"] = CONTENT
    uris = (str(tmp_path / "a"), (tmp_path / "a").as_uri(), "memtest://b")
    assert len({probe(uri, len(CONTENT)) for uri in uris}) == 1


@pytest.mark.parametrize("size", [1, 2, 4_095, 4_096, 4_097, 8_192, 12_288, 1 << 20])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_byte_at_the_beginning_middle_or_end_tells_apart(tmp_path, size, place):
    content = bytearray(size)
    (tmp_path / "a").write_bytes(content)
    content[round(place * (size - 1))] = 1
    (tmp_path / "b").write_bytes(content)
    a, b = (probe(str(tmp_path / name), size) for name in "ab")
    assert a != b


def test_little_of_a_large_file_is_read(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        file.truncate(1 << 36)  # sparse: reading it all would never end
    assert len(probe(str(tmp_path / "a"), 1 << 36)) == 16

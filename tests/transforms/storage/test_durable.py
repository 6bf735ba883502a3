"""Files that are there whole or not at all, whatever fails while they are written."""

from __future__ import annotations

import errno
import os
import pathlib
import tempfile

import pytest
from apache_beam.io.filesystem import BeamIOError

from tests.memory_files import CodedError, MemoryFileSystem
from transforms.errors import StorageError
from transforms.storage import durable
from transforms.storage.durable import (
    commit,
    committed,
    delete_files,
    delete_tree,
    list_folder,
    mark,
    read_file,
)

FULL = OSError(errno.ENOSPC, "No space left on device")


def left_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path, memory_files):
    return str(tmp_path / "out") if request.param == "local" else "memtest://bucket/out"


def failing(error, times=10**9):
    """Stands for a function that refuses so many times, and then is ``real``."""
    calls = []

    def around(real):
        def call(*args, **options):
            calls.append(args)
            if len(calls) <= times:
                raise error
            return real(*args, **options)

        return call

    return around, calls


# Both kinds of storage


def test_what_is_committed_can_be_read(folder):
    commit(f"{folder}/deep/a.bin", b"\x00\x01" * 1_000)
    assert read_file(f"{folder}/deep/a.bin") == b"\x00\x01" * 1_000
    commit(f"{folder}/deep/a.bin", b"")  # in its place
    assert read_file(f"{folder}/deep/a.bin") == b""
    assert list_folder(f"{folder}/deep") == [f"{folder}/deep/a.bin"]


def test_a_mark_is_new_once(folder):
    commit(f"{folder}/slice", b"1")
    assert [mark(f"{folder}/slice.begun") for _ in range(3)] == [True, False, False]
    assert mark(f"{folder}/other.begun")


def test_a_mark_that_cannot_be_left(tmp_path, memory_files, no_waiting):
    with pytest.raises(StorageError, match="cannot be written"):
        mark(f"{tmp_path}/nowhere/slice.begun")
    MemoryFileSystem.stops.append(CodedError(403))
    with pytest.raises(StorageError, match="status 403"):
        mark("memtest://bucket/slice.begun")


def test_a_file_that_is_not_there(folder):
    with pytest.raises(FileNotFoundError):
        read_file(f"{folder}/a")
    assert list_folder(folder) == []
    delete_files([f"{folder}/a"])
    delete_tree(folder)


@pytest.mark.parametrize("name", ["a.json.gz", "[live] *?.bz2", "ünï 日本"])
def test_names_change_nothing(folder, name):
    commit(f"{folder}/{name}", b"plain")
    assert read_file(f"{folder}/{name}") == b"plain"
    assert list_folder(folder) == [f"{folder}/{name}"]


def test_a_folder_lists_its_own_files_by_name(folder):
    for name in ("b", "a", "deep/c", "deep/er/d"):
        commit(f"{folder}/{name}", b"x")
    assert list_folder(folder) == [f"{folder}/a", f"{folder}/b"]
    delete_files([f"{folder}/a"])
    assert list_folder(folder) == [f"{folder}/b"]
    delete_tree(f"{folder}/deep")
    assert list_folder(f"{folder}/deep") == list_folder(f"{folder}/deep/er") == []
    assert list_folder(folder) == [f"{folder}/b"]


@pytest.mark.parametrize("name", ["[live]", "a*b", "what?", "a[b", "a b"])
def test_local_folders_whose_names_look_like_globs(tmp_path, name):
    commit(f"{tmp_path}/{name}/a", b"x")
    for decoy in ("l", "aXb", "whatX", "a"):
        commit(f"{tmp_path}/{decoy}/decoy", b"x")
    assert list_folder(f"{tmp_path}/{name}") == [f"{tmp_path}/{name}/a"]


def test_an_exception_while_it_is_written_leaves_nothing(folder, memory_files, tmp_path):
    commit(f"{folder}/a", b"the old one")
    with pytest.raises(ZeroDivisionError), committed(f"{folder}/a") as draft:
        draft.write_bytes(b"half")
        raise ZeroDivisionError
    assert read_file(f"{folder}/a") == b"the old one"
    assert list_folder(folder) == [f"{folder}/a"]
    assert left_in(tmp_path) in ([], ["out/a"])


def test_a_full_disk_under_the_draft_is_a_clean_stop(folder):
    with pytest.raises(StorageError, match="No space left") as caught, committed(f"{folder}/a"):
        raise FULL
    assert f"{folder}/a cannot be written" in str(caught.value)
    assert "start the run again" in str(caught.value)
    assert list_folder(folder) == []


# This machine


def patched(monkeypatch, what, around):
    """Replace one step of a local commit."""
    owner, name = {
        "write": (pathlib.Path, "write_bytes"),
        "fsync": (os, "fsync"),
        "rename": (pathlib.Path, "replace"),
    }[what]
    monkeypatch.setattr(owner, name, around(getattr(owner, name)))


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
@pytest.mark.parametrize("before", [None, b"the old one"])
def test_a_failed_commit_leaves_what_was_there(tmp_path, monkeypatch, no_waiting, step, before):
    path = tmp_path / "out" / "a"
    if before is not None:
        commit(str(path), before)
    around, calls = failing(FULL)
    patched(monkeypatch, step, around)
    with pytest.raises(StorageError, match="No space left"):
        commit(str(path), b"new")
    assert len(calls) == 9  # tried again as long as it may pass
    monkeypatch.undo()
    assert left_in(tmp_path) == ([] if before is None else ["out/a"])
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_a_passing_error_is_tried_again(tmp_path, monkeypatch, no_waiting, step):
    around, calls = failing(OSError(errno.EIO, "Input/output error"), times=3)
    patched(monkeypatch, step, around)
    commit(f"{tmp_path}/a", b"new")
    assert len(calls) >= 4
    assert len(no_waiting.slept) == 3
    assert (tmp_path / "a").read_bytes() == b"new"
    assert left_in(tmp_path) == ["a"]


def test_what_stays_wrong_is_not_tried_again(tmp_path, monkeypatch, no_waiting):
    around, calls = failing(OSError(errno.EROFS, "Read-only file system"))
    patched(monkeypatch, "rename", around)
    with pytest.raises(StorageError, match="Read-only file system"):
        commit(f"{tmp_path}/a", b"new")
    assert (len(calls), no_waiting.slept, left_in(tmp_path)) == (1, [], [])


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        commit(f"{tmp_path}/file/a", b"new")


def test_half_a_file_never_has_the_name(tmp_path, monkeypatch):
    seen = []
    real = os.fsync

    def spy(descriptor):
        seen.append((tmp_path / "a").exists())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    commit(f"{tmp_path}/a", b"new")
    assert seen == [False, True]  # the content before the rename, the folder after it


# Object stores


def test_an_upload_is_tried_again(memory_files, no_waiting):
    MemoryFileSystem.stops += [CodedError(503), CodedError(429), ConnectionError("reset")]
    commit("memtest://b/a", b"new")
    assert memory_files == {"memtest://b/a": b"new"}
    assert len(no_waiting.slept) == 3


def test_an_upload_that_is_forbidden(memory_files, no_waiting, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    MemoryFileSystem.stops.append(CodedError(403))
    with pytest.raises(StorageError, match="status 403"):
        commit("memtest://b/a", b"new")
    assert (memory_files, no_waiting.slept, left_in(tmp_path)) == ({}, [], [])


def test_an_error_without_words_is_told_by_its_kind(memory_files, no_waiting):
    MemoryFileSystem.stops += [ConnectionError()] * 20
    with pytest.raises(StorageError, match="cannot be written: ConnectionError;"):
        commit("memtest://b/a", b"new")


@pytest.mark.parametrize(
    "missing",
    [
        FileNotFoundError,
        lambda path: BeamIOError("no", {path: "?"}),
        lambda _path: CodedError(404),
        None,
    ],
    ids=["plain", "wrapped", "coded", "when it is read"],
)
def test_each_way_to_say_that_there_is_none(memory_files, monkeypatch, no_waiting, missing):
    monkeypatch.setattr(MemoryFileSystem, "missing", staticmethod(missing) if missing else None)
    with pytest.raises(FileNotFoundError):
        read_file("memtest://b/a")
    assert no_waiting.slept == []


def test_a_file_that_cannot_be_read_is_not_a_missing_one(memory_files, no_waiting):
    memory_files["memtest://b/a"] = b"x"
    MemoryFileSystem.stops.append(CodedError(403))
    with pytest.raises(CodedError, match="403"):
        read_file("memtest://b/a")
    MemoryFileSystem.stops.append(BeamIOError("broken", {"a": CodedError(403)}))
    with pytest.raises(BeamIOError):
        read_file("memtest://b/a")
    MemoryFileSystem.stops.append(CodedError(503))
    assert read_file("memtest://b/a") == b"x"
    assert len(no_waiting.slept) == 1


def test_the_message_of_one_storage_error_is_not_wrapped_in_another(tmp_path):
    with (
        pytest.raises(StorageError, match=r"^inner$"),
        durable.committed(f"{tmp_path}/a"),
    ):
        raise StorageError("inner")

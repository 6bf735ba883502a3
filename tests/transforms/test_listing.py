"""Links, loops and what cannot be listed: nothing is left out in silence."""

import os

import pytest

from tests.memory_files import MemoryFileSystem
from transforms.errors import InputError
from transforms.listing import Listed, glob_regex, look_up, match


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345")


def found(pattern, base):
    return sorted(os.path.relpath(item.path, base) for item in match(str(pattern)))


@pytest.fixture
def music(tmp_path):
    """A folder with a link to a folder elsewhere."""
    touch(tmp_path / "music" / "sub" / "a.mp3")
    touch(tmp_path / "elsewhere" / "deep" / "b.mp3")
    (tmp_path / "music" / "link").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "music"


@pytest.mark.parametrize("pattern", ["", "**/*.mp3", "**", "*/**/*.mp3"])
def test_links_to_folders_are_followed(music, pattern):
    assert found(music / pattern, music) == ["link/deep/b.mp3", "sub/a.mp3"]


def test_loops_of_links_end(music):
    (music / "sub" / "up").symlink_to(music)
    assert found(music, music) == ["link/deep/b.mp3", "sub/a.mp3"]


def test_a_dangling_link_is_named(music):
    (music / "gone.mp3").symlink_to(music / "nowhere.mp3")
    items = {os.path.basename(item.path): item.size_bytes for item in match(str(music))}
    assert items == {"gone.mp3": None, "a.mp3": 5, "b.mp3": 5}


def test_a_folder_that_cannot_be_listed_is_named(music, monkeypatch):
    """As root may list everything, the refusal is the system call's stand-in."""
    real = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert found(music, music) == ["link/deep", "sub/a.mp3"]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/a/**/*.mp3", ["/a/x.mp3", "/a/b/c/x.mp3"], ["/a/x.wav", "/b/x.mp3", "/a/x.mp3/y"]),
        ("/a/*/x?.mp3", ["/a/b/x1.mp3"], ["/a/x1.mp3", "/a/b/c/x1.mp3", "/a/b/x/.mp3"]),
        ("/a/[0-9][!x].mp3", ["/a/1y.mp3"], ["/a/1x.mp3", "/a/ay.mp3"]),
        ("/a/**", ["/a/b", "/a/b/c"], ["/b"]),
        ("/a.b/(c)+", ["/a.b/(c)+"], ["/aXb/c"]),
        ("/a/[open", ["/a/[open"], ["/a/o"]),
    ],
)
def test_globs(pattern, yes, no):
    regex = glob_regex(pattern)
    assert all(regex.fullmatch(path) for path in yes)
    assert not any(regex.fullmatch(path) for path in no)


def test_sizes_and_times_are_stated(music):
    os.utime(music / "sub" / "a.mp3", ns=(0, 1_709_251_199_123_456_789))
    by_name = {os.path.basename(item.path): item for item in match(str(music))}
    assert by_name["a.mp3"] == Listed(str(music / "sub/a.mp3"), 5, 1_709_251_199_123_456)
    for pattern in (music / "sub/a.mp3", music / "sub/*.mp3"):
        assert list(match(str(pattern))) == [by_name["a.mp3"]]
    assert look_up(str(music / "sub/a.mp3")) == by_name["a.mp3"]


def test_what_cannot_be_looked_up_is_named_all_the_same(tmp_path, memory_files):
    for path in (f"{tmp_path}/missing", "memtest://missing", "nosuchscheme://a", "a\0b"):
        assert look_up(path) == Listed(path)


def test_an_object_store_is_listed_as_a_disk_is(memory_files):
    for name in ("a/x.mp3", "a/b/c/y.mp3", "a/cover.jpg", "a/.hidden.mp3", "ab/z.mp3", "[a]/w.mp3"):
        memory_files[f"memtest://bucket/{name}"] = b"12345"

    def names(pattern):
        return sorted(item.path.removeprefix("memtest://bucket/") for item in match(pattern))

    assert names("memtest://bucket/a/") == ["a/b/c/y.mp3", "a/x.mp3"]
    assert names("memtest://bucket/a/**/*.mp3") == ["a/.hidden.mp3", "a/b/c/y.mp3", "a/x.mp3"]
    assert names("memtest://bucket/*/*.mp3") == [
        "[a]/w.mp3",
        "a/.hidden.mp3",
        "a/x.mp3",
        "ab/z.mp3",
    ]
    assert names("memtest://bucket/a/x.mp3") == ["a/x.mp3"]
    assert names("memtest://bucket/nothing/") == []
    assert names("memtest://bucket/[a]/") == ["[a]/w.mp3"]
    listed = Listed("memtest://bucket/a/x.mp3", 5, 1_700_000_000_250_000)
    assert list(match("memtest://bucket/a/x.mp3")) == [listed]
    assert look_up("memtest://bucket/a/x.mp3") == listed


def test_a_store_that_cannot_be_listed_is_a_wrong_call(memory_files, monkeypatch):
    def refuse(_self, _prefix):
        raise OSError("the network is down")

    monkeypatch.setattr(MemoryFileSystem, "_list", refuse)
    with pytest.raises(InputError, match="memtest://bucket/a/: cannot be listed: .*network"):
        list(match("memtest://bucket/a/"))

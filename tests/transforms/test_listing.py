"""Links, loops and what cannot be listed: nothing is left out in silence."""

import os

import pytest

from transforms.listing import glob_regex, match


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
    items = {os.path.basename(item.path): item.size_in_bytes for item in match(str(music))}
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

"""What an input means: globs, folders and names of all kinds."""

from __future__ import annotations

import os

import pytest

from tests.files import touch
from transforms.errors import InputError
from transforms.listing import match
from transforms.read import check_inputs

NAMES = [
    "with space.mp3",
    "ünïcödé 日本語 🎵.mp3",
    "e\u0301 decomposed.mp3",
    "[live] take (1) {x}.mp3",
    "what? all*.mp3",
    "back\\slash.mp3",
    "percent%20 #hash;semi'quote\"double.mp3",
    "x" * 200 + ".mp3",
    "日" * 80 + ".mp3",  # 240 bytes and more
    "no extension",
]


def found(pattern, base):
    return sorted(os.path.relpath(item.path, base) for item in match(str(pattern)))


TREE = ("x.mp3", "b/y.mp3", "b/c/z.mp3", "b/c/d/w.mp3", "b/c/d/w.flac", "xmp3")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.mp3", ["x.mp3"]),
        ("**/*.mp3", ["b/c/d/w.mp3", "b/c/z.mp3", "b/y.mp3", "x.mp3"]),
        ("b/**/*.mp3", ["b/c/d/w.mp3", "b/c/z.mp3", "b/y.mp3"]),
        ("b/**/d/*.mp3", ["b/c/d/w.mp3"]),
        ("**/c/**/w.*", ["b/c/d/w.flac", "b/c/d/w.mp3"]),
        ("b/*/*.mp3", ["b/c/z.mp3"]),
        ("b/?.mp3", ["b/y.mp3"]),
        ("[xy].mp3", ["x.mp3"]),
        ("b/**", ["b/c/d/w.flac", "b/c/d/w.mp3", "b/c/z.mp3", "b/y.mp3"]),
        ("*.ogg", []),
    ],
)
def test_globs(tmp_path, pattern, expected):
    touch(tmp_path, *TREE)
    assert found(tmp_path / pattern, tmp_path) == expected


def test_globs_state_each_file_once(tmp_path):
    touch(tmp_path, "a/b/c/x.mp3")
    assert len(list(match(f"{tmp_path}/**/b/**/*.mp3"))) == 1


def test_relative_inputs_give_absolute_uris(tmp_path, monkeypatch):
    touch(tmp_path, "a/x.mp3")
    monkeypatch.chdir(tmp_path)
    expected = [str(tmp_path / "a/x.mp3")]
    for pattern in ("a", "a/", "./a/*.mp3", "**/*.mp3", "a/x.mp3", "a/../a"):
        assert [item.path for item in match(pattern)] == expected, pattern


def test_a_folder_means_what_may_be_audio(tmp_path):
    audio = ["x.mp3", "b/y.weird", "b/no extension", "b/UPPER.WAV", "b/c.d/take.1"]
    others = [".DS_Store", "._x.mp3", "b/.hidden/y.mp3", "cover.JPG", "b/list.m3u", "a.csv",
              "b/rip.log", "b/rip.cue", "notes.txt", "b/folder.jpeg"]  # fmt: skip
    touch(tmp_path, *audio, *others)
    assert found(tmp_path, tmp_path) == sorted(audio)
    assert found(f"{tmp_path}/", tmp_path) == sorted(audio)


def test_a_hidden_parent_hides_nothing(tmp_path):
    touch(tmp_path, ".music/a.mp3")
    assert found(tmp_path / ".music", tmp_path) == [".music/a.mp3"]


def test_a_glob_leaves_nothing_out(tmp_path):
    touch(tmp_path, ".hidden.mp3", "cover.jpg")
    assert found(tmp_path / "*", tmp_path) == [".hidden.mp3", "cover.jpg"]


@pytest.mark.parametrize("folder", ["[live]", "a*b", "what?", "[!x]", "a[b", "{a,b}", "a b"])
def test_folders_whose_names_look_like_globs(tmp_path, folder):
    touch(tmp_path, f"{folder}/x.mp3", "l/decoy.mp3", "aXb/decoy.mp3", "whatX/decoy.mp3")
    assert found(tmp_path / folder, tmp_path) == [f"{folder}/x.mp3"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_found_as_it_is(tmp_path, name):
    touch(tmp_path, name, "decoy.mp3")
    path = str(tmp_path / name)
    assert [item.path for item in match(path)] == [path]
    assert path in [item.path for item in match(str(tmp_path))]


def test_sizes_are_stated(tmp_path):
    touch(tmp_path, "x.mp3")
    (metadata,) = match(str(tmp_path))
    assert metadata.size_bytes == 5


def test_symbolic_links_to_files_are_files(tmp_path):
    touch(tmp_path, "real/x.mp3")
    (tmp_path / "music").mkdir()
    (tmp_path / "music/link.mp3").symlink_to(tmp_path / "real/x.mp3")
    assert found(tmp_path / "music", tmp_path) == ["music/link.mp3"]


@pytest.mark.parametrize("missing", ["nothing/*.mp3", "no/such/file.mp3", "no such folder/"])
def test_what_matches_nothing_is_a_wrong_call(tmp_path, missing):
    touch(tmp_path, "x.mp3")
    with pytest.raises(InputError) as caught:
        check_inputs([str(tmp_path / "x.mp3"), f"{tmp_path}/{missing}"])
    message = str(caught.value)
    assert f"{tmp_path}/{missing}" in message
    assert "\n" not in message
    assert "give a glob" in message


def test_a_folder_of_sidecars_alone_is_a_wrong_call(tmp_path):
    touch(tmp_path, "cover.jpg", ".hidden.mp3")
    with pytest.raises(InputError, match="holds no audio files"):
        check_inputs([str(tmp_path)])


def test_manifests_are_not_checked_as_globs(tmp_path):
    check_inputs([str(tmp_path / "later.csv")])  # transforms.manifest does it
    with pytest.raises(InputError):
        check_inputs([str(tmp_path / "later.mp3")])

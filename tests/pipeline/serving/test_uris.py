"""No uri leads out of the allowed folders: by the file that is opened, not by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.serving.answers import Problem, RefusedError
from pipeline.serving.uris import checked_roots, resolve_uri
from transforms.errors import UsageError

BUCKET = "s3://bucket/music/"


@dataclass(frozen=True)
class Place:
    base: Path
    roots: tuple[str, ...]
    inside: frozenset[int]  # inodes of the files and folders that really are within the root


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    """A root with links out of it and in circles, beside what nobody may have."""
    base = tmp_path_factory.mktemp("place")
    root = base / "music"
    for folder in (root / "jazz", base / "music-private", base / "secret"):
        folder.mkdir(parents=True)
        (folder / "a.wav").write_text("sound")
    (root / "a.wav").write_text("sound")
    (root / "100%25 %2e%2e.wav").write_text("sound")
    (root / "back\\slash.wav").write_text("sound")
    (root / "out").symlink_to(base / "secret")
    (root / "up").symlink_to("..")
    (root / "file").symlink_to(base / "secret" / "a.wav")
    (root / "in").symlink_to(root / "jazz")
    (root / "loop").symlink_to("loop")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    (base / "link").symlink_to(root)
    inside = {root.stat().st_ino}
    for folder, folders, files in os.walk(root):
        names = [Path(folder, name) for name in (*folders, *files)]
        inside |= {name.lstat().st_ino for name in names if not name.is_symlink()}
    return Place(base, checked_roots([str(root), BUCKET]), frozenset(inside))


def forbidden(uri: str, roots: tuple[str, ...]) -> str:
    with pytest.raises(RefusedError) as caught:
        resolve_uri(uri, roots)
    assert caught.value.problem is Problem.FORBIDDEN
    return caught.value.message


_NAMES = [
    ".", "..", "", "music", "music-private", "secret", "jazz", "a.wav", "out", "up", "file", "in",
    "loop", "one", "two", "link", "none", "%2e%2e", "%2E.", "%252e%252e", "..%2f..", "..\\..",
    "%00", "\0", "~", "*", "..;", "back\\slash.wav", "100%25 %2e%2e.wav", "．．", "...",
]  # fmt: skip
_spellings: st.SearchStrategy[Callable[[str], str]] = st.sampled_from(
    [
        lambda path: path,
        lambda path: "file://" + path,
        lambda path: "file://localhost" + path,
        lambda path: "file://" + quote(path, safe=""),
        lambda path: "file://" + quote(path),
        lambda path: "file:/" + path,
        lambda path: "FILE://" + path,
        lambda path: "file://evil" + path,
        lambda path: "/" + path,
        lambda path: path.lstrip("/"),
        lambda path: " " + path,
        lambda path: path + "/",
    ]
)


@settings(
    deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=st.lists(st.sampled_from(_NAMES), max_size=7), spelt=_spellings, in_root=st.booleans())
@example(names=["loop", "..", "file"], spelt=str, in_root=True)
@example(names=["one", "..", "out", "a.wav"], spelt=str, in_root=True)
@example(names=["up", "secret", "a.wav"], spelt=str, in_root=True)
def test_what_may_be_opened_is_inside(place, names, spelt, in_root):
    start = place.base / "music" if in_root else place.base
    try:
        found = resolve_uri(spelt("/".join([str(start), *names])), place.roots)
    except RefusedError as error:
        assert error.problem is Problem.FORBIDDEN
        return
    assert "://" not in found
    try:
        opened = os.stat(found)  # follows links, as open() does
    except OSError:
        assert Path(found).is_relative_to(place.base / "music")
    else:
        assert opened.st_ino in place.inside


@settings(deadline=None)
@given(
    text=st.text(st.characters(codec=None)) | st.text("./\\%2eEfF:s3htp@bucketmusic\0~"),
    prefix=st.booleans(),
)
@example(text="/\ud800", prefix=False)
def test_any_text_at_all(place, text, prefix):
    uri = f"{BUCKET}{text}" if prefix else text
    try:
        found = resolve_uri(uri, place.roots)
    except RefusedError as error:
        assert error.problem is Problem.FORBIDDEN
        return
    if found.startswith("/"):
        assert os.stat(found).st_ino in place.inside
    else:
        assert found == uri
        assert found.startswith(BUCKET)


@pytest.mark.parametrize("encode", [str, quote])
def test_every_file_inside_can_be_asked_for(place, encode):
    root = place.base / "music"
    asked = 0
    for folder, _, files in os.walk(root):
        for path in (Path(folder, name) for name in files):
            if not path.is_symlink():
                uri = str(path) if encode is str else f"file://{quote(str(path))}"
                assert resolve_uri(uri, place.roots) == str(path)
                asked += 1
    assert asked == 4
    assert resolve_uri(f"{root}/in/a.wav", place.roots) == str(root / "jazz" / "a.wav")
    assert resolve_uri(f"{place.base}/link/a.wav", place.roots) == str(root / "a.wav")
    assert resolve_uri(f"{root}/not/there", place.roots) == str(root / "not" / "there")


@pytest.mark.parametrize(
    "key", ["a.wav", "jazz/a b#1.wav", "100%.wav", "what?.wav", "..a/b..", "夜曲.flac", "%41.wav"]
)
def test_what_a_prefix_allows(key):
    assert resolve_uri(BUCKET + key, checked_roots([BUCKET])) == BUCKET + key
    assert resolve_uri(BUCKET + key, checked_roots(["s3://bucket/music"])) == BUCKET + key


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/music",
        "s3://bucket/music-private/a.wav",
        "s3://bucket/a.wav",
        "s3://bucket2/music/a.wav",
        "S3://bucket/music/a.wav",
        "s3://Bucket/music/a.wav",
        "s3://user@bucket/music/a.wav",
        "s3://bucket/music/../a.wav",
        "s3://bucket/music/./a.wav",
        "s3://bucket/music/a/..",
        "s3://bucket/music/%2e%2e/a.wav",
        "s3://bucket/music/%252E./a.wav",
        "s3://bucket/music/a%2f..%2f..%2fb",
        "s3://bucket/music/..\\..\\a.wav",
        "s3://bucket/music/a\0.wav",
        "s3://bucket/music/a%00.wav",
        "s3://bucket/music/a\r\nHost: b",
        " s3://bucket/music/a.wav",
        "gs://bucket/music/a.wav",
        "http://169.254.169.254/latest/meta-data",
        "https://bucket/music/a.wav",
        "http://s3://bucket/music/a.wav",
        "data://text/plain,abc",
        "ftp://bucket/music/a.wav",
        "//evil/share/a.wav",
        "file://evil/etc/passwd",
        "a.wav",
        "",
    ],
)
def test_what_a_prefix_does_not_allow(uri):
    assert "--root=FOLDER" in forbidden(uri, checked_roots([BUCKET]))


def test_without_roots_nothing_may_be_asked_for(place):
    for uri in ("/", "a", str(place.base / "music" / "a.wav"), BUCKET + "a.wav", "http://a"):
        message = forbidden(uri, ())
        assert "no file may be asked for by its uri here" in message
        assert "--root=FOLDER" in message


def test_what_is_forbidden_is_told_alike_whether_or_not_it_exists(place):
    there = place.base / "secret" / "a.wav"
    assert forbidden(str(there), place.roots) == forbidden(f"{there}.none", place.roots)


def test_the_whole_machine_if_its_owner_says_so(place):
    anywhere = place.base / "secret" / "a.wav"
    assert resolve_uri(str(anywhere), checked_roots(["/"])) == os.path.realpath(anywhere)


@pytest.mark.parametrize(
    "root",
    ["/not/there", "s3://", "s3:///", "http://a/b", "HTTPS://a/b", "file:///tmp", "s3://b/../c",
     "s3://b/%2e%2e/c", ""],
)  # fmt: skip
def test_a_root_that_cannot_be_one_is_told_at_the_start(root):
    with pytest.raises(UsageError, match="--root="):
        checked_roots([root])


def test_roots_are_spelt_in_one_way(place):
    link = str(place.base / "link")
    assert checked_roots([link, "s3://b/c//"]) == (str(place.base / "music"), "s3://b/c/")

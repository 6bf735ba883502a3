"""What the inputs mean: globs, folders, names of all kinds, and the merging of mentions."""

from __future__ import annotations

import itertools
import os
from functools import partial

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.util import assert_that, equal_to

from transforms import read
from transforms.errors import InputError, Reason
from transforms.listing import match
from transforms.read import ReadFiles, check_inputs
from transforms.records import Failure, Listing, Track

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


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")


def found(pattern, base):
    return sorted(os.path.relpath(item.path, base) for item in match(str(pattern)))


COLLECTED: dict[str, list] = {}  # FnApiRunner runs in this process


def collect(name, item):
    COLLECTED[name].append(item)


def read_all(inputs, *, root=None):
    """Tracks, failures and the duplicates' counter of ReadFiles."""
    COLLECTED.update(tracks=[], failures=[])
    pipeline = beam.Pipeline(runner="FnApiRunner")
    outputs = pipeline | beam.Create(inputs) | ReadFiles(root=root)
    for name in COLLECTED:
        outputs[name] | name >> beam.Map(partial(collect, name))
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_name(read.DUPLICATES_METRIC))["counters"]
    return COLLECTED["tracks"], COLLECTED["failures"], sum(c.result for c in counters)


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
    assert metadata.size_in_bytes == 5


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


def test_readfiles_as_a_transform(tmp_path):
    touch(tmp_path, "x.mp3", "b/y.mp3")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        outputs = pipeline | beam.Create([str(tmp_path)]) | ReadFiles()
        expected = [Track(f"{tmp_path}/x.mp3", 5), Track(f"{tmp_path}/b/y.mp3", 5)]
        assert_that(outputs.tracks, equal_to(expected), "tracks")
        assert_that(outputs.failures, equal_to([]), "failures")


def test_a_name_that_is_not_utf8_becomes_a_failure(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.mp3"
    try:
        with open(raw, "wb") as file:
            file.write(b"x")
    except OSError:
        pytest.skip("this file system refuses such names")
    touch(tmp_path, "good.mp3")
    tracks, failures, _ = read_all([str(tmp_path)])
    assert [track.uri for track in tracks] == [f"{tmp_path}/good.mp3"]
    (failure,) = failures
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.reason) == ("ReadFiles", Reason.UNREADABLE)
    assert failure.uri == f"{tmp_path}/caf\\udce9.mp3"
    assert "UTF-8" in failure.message
    failure.uri.encode("utf-8")


@pytest.fixture
def overlapping(tmp_path):
    """Inputs that name x.mp3 seven times, and what must come of it."""
    touch(tmp_path, "x.mp3", "y.mp3")
    rows = ["x.mp3,1,rock", "x.mp3,2,rock", "x.mp3,1,rock", "x.mp3,1,pop"]
    (tmp_path / "one.csv").write_text("\n".join(["uri,track_id,mood", *rows]) + "\n")
    (tmp_path / "two.csv").write_text(f"uri,track_id,mood\n{tmp_path}/x.mp3,1,rock\n")
    inputs = [
        f"{tmp_path}/*.mp3",
        f"{tmp_path}/x.mp3",
        f"{tmp_path}/one.csv",
        f"{tmp_path}/two.csv",
    ]
    listings = (
        Listing("1", {"mood": "pop"}),
        Listing("1", {"mood": "rock"}),
        Listing("2", {"mood": "rock"}),
    )
    return inputs, {
        f"{tmp_path}/x.mp3": Track(f"{tmp_path}/x.mp3", 5, listings),
        f"{tmp_path}/y.mp3": Track(f"{tmp_path}/y.mp3", 5),
    }


def test_a_file_named_by_several_inputs_is_one_track(overlapping):
    inputs, expected = overlapping
    tracks, failures, duplicates = read_all(inputs)
    assert {track.uri: track for track in tracks} == expected
    assert (len(tracks), failures) == (2, [])
    assert duplicates == 4  # seven mentions of x.mp3, three listings


def test_the_order_of_inputs_does_not_matter(overlapping):
    inputs, expected = overlapping
    orders = list(itertools.permutations(inputs))
    for order in (orders[7], orders[-1]):
        assert {track.uri: track for track in read_all(list(order))[0]} == expected


def test_plain_duplicates_collapse(tmp_path):
    touch(tmp_path, "x.mp3")
    tracks, _, duplicates = read_all([str(tmp_path), str(tmp_path), f"{tmp_path}/*.mp3"])
    assert tracks == [Track(f"{tmp_path}/x.mp3", 5)]
    assert duplicates == 2


def test_a_row_without_a_uri_keeps_its_listing_under_its_row_number(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("uri,track_id\na.mp3,1\n,2\n,3\n")
    tracks, failures, _ = read_all([str(path)])
    assert failures == []
    assert {t.uri: t.listings for t in tracks} == {
        f"{tmp_path}/a.mp3": (Listing("1"),),
        f"{path}#row=2": (Listing("2"),),
        f"{path}#row=3": (Listing("3"),),
    }


def test_root_is_for_relative_uris_of_manifests_alone(tmp_path):
    (tmp_path / "m.csv").write_text("uri\na.mp3\n/abs/b.mp3\ns3://bucket/c.mp3\n")
    tracks, _, _ = read_all([f"{tmp_path}/m.csv"], root="/music")
    uris = sorted(track.uri for track in tracks)
    assert uris == ["/abs/b.mp3", "/music/a.mp3", "s3://bucket/c.mp3"]

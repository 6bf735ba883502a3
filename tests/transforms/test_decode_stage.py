"""Decode as a stage: failures alone, equal bytes once, known bytes not at all."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from apache_beam import pvalue
from apache_beam.transforms.window import GlobalWindow

from tests.audio_files import noise, sine, write_pyav, write_soundfile
from tests.rows import MODIFIED, PROVENANCE, labelled_rows, published
from transforms import decode
from transforms.audio.sandbox import DecoderLimits, RemoteAudio, Sandbox
from transforms.decode import COUNTS, KNOWN, Decode, _DecodeFn
from transforms.errors import Reason, StageError, StorageError
from transforms.features import track_features
from transforms.models.front_end import PRESETS
from transforms.records import AudioWindow, Listing, Track
from transforms.stage_metrics import FAILURES
from transforms.storage.extras import EXTRAS
from transforms.storage.known import KnownRows

FRONT_END = dataclasses.replace(PRESETS["ccmusic"], window_seconds=1.0, hop_seconds=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("audio")


@pytest.fixture(scope="module")
def wav(folder) -> Path:
    return write_soundfile(folder / "a.wav", noise(3.5, 22_050, 1), 22_050, "WAV", "PCM_16")


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as made:
        yield made


@pytest.fixture
def stage(sandbox, monkeypatch):
    """Run the stage's DoFn over tracks: windows, failures, known contents and counts."""
    monkeypatch.setattr(decode, "Sandbox", lambda _limits: sandbox)
    monkeypatch.setattr(sandbox, "close", lambda: None)  # kept for the next test

    def run(*tracks, known=None, front_end=FRONT_END, features=False):
        do_fn = _DecodeFn(front_end, 0.1, DecoderLimits(), known, features=features)
        do_fn.setup()
        do_fn.start_bundle()
        items = [item for track in tracks for item in do_fn.process(track)]
        last = list(do_fn.finish_bundle())
        do_fn.teardown()
        assert {item.tag for item in last} <= {COUNTS}
        assert all(item.value.windows == (GlobalWindow(),) for item in last)
        return Outputs(
            [item for item in items if isinstance(item, AudioWindow)],
            tagged(items, FAILURES),
            tagged(items, KNOWN),
            [item.value.value for item in last],
        )

    return run


class Outputs(NamedTuple):
    windows: list
    failures: list
    known: list
    counts: list


def tagged(items, tag):
    return [i.value for i in items if isinstance(i, pvalue.TaggedOutput) and i.tag == tag]


def members_of(windows) -> list[tuple[Track, ...]]:
    """The distinct tracks behind windows, each with its copies, by uri."""
    found = {window.uri: window.track for window in windows}
    assert all(window.track == found[window.uri] for window in windows)
    first = {uri: dataclasses.replace(track, copies=()) for uri, track in found.items()}
    return [(first[uri], *found[uri].copies) for uri in sorted(found)]


def uris(windows) -> Counter[str]:
    return Counter(window.uri for window in windows)


# As a transform


def test_windows_facts_and_failures(folder, wav):
    m4a = write_pyav(folder / "b", sine(1.5), 44_100, "ipod", "aac")
    tracks = [Track(str(path)) for path in (wav, m4a, folder / "missing")]
    result = tracks | Decode(FRONT_END)
    facts = {w.uri: w.facts for w in result["windows"] if w.facts is not None}
    assert set(facts) == {str(wav), str(m4a)}
    for uri, fact in facts.items():
        mine = sorted(w.window_index for w in result["windows"] if w.uri == uri)
        assert mine == list(range(fact.window_count))
        assert fact.content_sha256 == hashlib.sha256(Path(uri).read_bytes()).hexdigest()
        assert fact.size_bytes == Path(uri).stat().st_size
    assert [(f.track.uri, f.reason, f.stage) for f in result["failures"]] == [
        (str(folder / "missing"), Reason.NOT_FOUND, "Decode")
    ]
    assert result["counts"] == result["known"] == []


# Failures


def test_a_failure_knows_the_size_as_read(tmp_path, stage):
    (tmp_path / "a.mp3").write_text("no music")
    windows, failures, *_ = stage(Track(str(tmp_path / "a.mp3"), 999))
    assert windows == []
    assert [(f.reason, f.size_bytes) for f in failures] == [(Reason.NOT_AUDIO, 8)]


def test_a_directory_and_an_empty_file(tmp_path, stage):
    (tmp_path / "empty.wav").touch()
    _, failures, *_ = stage(Track(str(tmp_path)), Track(str(tmp_path / "empty.wav")))
    assert [f.reason for f in failures] == [Reason.UNREADABLE, Reason.EMPTY_FILE]


def test_a_failure_is_followed_by_the_next_track(tmp_path, wav, stage):
    (tmp_path / "a.mp3").write_text("no music")
    windows, failures, *_ = stage(Track(str(tmp_path / "a.mp3")), Track(str(wav)))
    assert (uris(windows), len(failures)) == ({str(wav): 4}, 1)


def test_a_track_that_fails_after_some_windows_has_no_facts(tmp_path, stage, monkeypatch):
    path = write_soundfile(tmp_path / "a", noise(3.5, 22_050, 1), 22_050, "WAV")
    real = decode.cut_windows

    def breaks(*args, **options):
        for number, window in enumerate(real(*args, **options)):
            if number == 2:
                raise ZeroDivisionError("by 0")
            yield window

    monkeypatch.setattr(decode, "cut_windows", breaks)
    windows, (failure,), *_ = stage(Track(str(path)))
    assert [window.facts for window in windows] == [None]
    assert (failure.reason, failure.message) == (
        Reason.INTERNAL_ERROR,
        "ZeroDivisionError: by 0",
    )


def test_no_room_for_temporary_copies_stops_the_run(wav, stage, monkeypatch):
    def refuse(*_args, **_options):
        raise StorageError("no room")
        yield

    monkeypatch.setattr(decode, "decode_track", refuse)
    with pytest.raises(StorageError, match="no room"):
        stage(Track(str(wav)))


# Features


@pytest.mark.parametrize("windows", ["all", "middle", "2", "whole"])
def test_features_are_of_all_channels_of_the_whole_track(folder, stage, windows):
    sound = np.hstack([noise(3.5, 22_050, 1, seed) * level for seed, level in ((1, 1), (2, 0.1))])
    path = write_soundfile(folder / f"f {windows}.wav", sound, 22_050, "WAV", "FLOAT")
    front_end = dataclasses.replace(FRONT_END, windows=windows, channel_rule="first")
    found, failures, *_ = stage(Track(str(path)), front_end=front_end, features=True)
    assert failures == []
    assert [window.facts is None for window in found[:-1]] == [True] * (len(found) - 1)
    assert found[-1].facts.features == track_features([sound], sample_rate_hz=22_050)
    without = stage(Track(str(path)), front_end=front_end)[0]
    assert without[-1].facts == dataclasses.replace(found[-1].facts, features=None)
    assert [w.samples.tobytes() for w in found] == [w.samples.tobytes() for w in without]


def test_features_end_where_decoding_ends(wav, stage):
    front_end = dataclasses.replace(FRONT_END, max_seconds=2.0)
    found = stage(Track(str(wav)), front_end=front_end, features=True)[0]
    assert found[-1].facts.features.features_seconds == 2.0


@pytest.mark.parametrize("at", [0, -1])
def test_damage_outside_the_windows_costs_the_features_not_the_track(wav, stage, monkeypatch, at):
    def damaged(audio):  # a decoder that does not replace what is no sound
        whole = np.concatenate(list(audio._stream("blocks")))
        whole[at] = np.nan
        yield whole

    monkeypatch.setattr(RemoteAudio, "blocks", damaged)
    front_end = dataclasses.replace(FRONT_END, windows="middle")  # by seeking
    (window,), failures, *_ = stage(Track(str(wav)), front_end=front_end, features=True)
    assert failures == []
    assert np.isfinite(window.samples).all()
    assert window.facts.features is None


def test_features_that_cannot_be_made_fail_the_track(wav, stage, monkeypatch):
    def breaks(*_args, **_options):
        raise ZeroDivisionError("by 0")

    monkeypatch.setattr("transforms.features.track_features", breaks)
    windows, (failure,), *_ = stage(Track(str(wav)), features=True)
    assert [window.facts for window in windows] == [None] * 3
    assert (failure.stage, failure.reason) == ("Decode", Reason.INTERNAL_ERROR)
    assert failure.message == "ZeroDivisionError: by 0"


# Elsewhere


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_another_filesystem_gives_the_same(wav, stage, memory_files, temporary):
    memory_files["memtest://a.wav"] = wav.read_bytes()
    here, there = stage(Track(str(wav)))[0], stage(Track("memtest://a.wav"))[0]
    assert [w.samples.tobytes() for w in here] == [w.samples.tobytes() for w in there]
    assert [w.facts for w in here] == [w.facts for w in there]
    assert list(temporary.iterdir()) == []


def test_temporary_copies_are_removed_after_a_failure(stage, memory_files, temporary):
    memory_files["memtest://a"] = b"no music"
    copies = (Track("memtest://b"),)
    memory_files["memtest://b"] = b"nor this"
    _, failures, *_ = stage(Track("memtest://a", copies=copies))
    assert [(f.reason, f.size_bytes) for f in failures] == [(Reason.NOT_AUDIO, 8)] * 2
    assert list(temporary.iterdir()) == []


def test_a_compressed_file_is_not_undone(tmp_path, wav, stage, memory_files):
    packed = gzip.compress(wav.read_bytes())
    (tmp_path / "a.wav.gz").write_bytes(packed)
    memory_files["memtest://a.wav.gz"] = packed
    tracks = Track(str(tmp_path / "a.wav.gz")), Track("memtest://a.wav.gz")
    _, failures, *_ = stage(*tracks)
    assert [(f.reason, f.size_bytes) for f in failures] == [(Reason.NOT_AUDIO, len(packed))] * 2


# Copies


@pytest.fixture
def other(folder, wav) -> Path:
    """A file of the same size and other bytes."""
    path = write_soundfile(folder / "o.wav", noise(3.5, 22_050, 1, 7), 22_050, "WAV", "PCM_16")
    assert path.stat().st_size == wav.stat().st_size
    return path


def copy_of(path: Path, name: str) -> Track:
    copy = path.with_name(name)
    copy.write_bytes(path.read_bytes())
    return Track(str(copy), path.stat().st_size, MODIFIED, (Listing(name),))


def test_equal_bytes_are_decoded_once_under_all_their_names(wav, stage, monkeypatch):
    decodings = []
    real = decode.decode_track
    monkeypatch.setattr(
        decode, "decode_track", lambda *a, **o: decodings.append(a[0]) or real(*a, **o)
    )
    copies = copy_of(wav, "b.wav"), copy_of(wav, "c.wav")
    windows, failures, *_ = stage(Track(str(wav), copies=copies))
    assert (uris(windows), failures, len(decodings)) == ({str(wav): 4}, [], 1)
    assert members_of(windows) == [(Track(str(wav)), *copies)]


def test_what_only_looked_like_a_copy_is_decoded_by_itself(wav, other, stage):
    same, different = copy_of(wav, "b.wav"), Track(str(other))
    again = copy_of(other, "o2.wav")
    windows, failures, *_ = stage(Track(str(wav), copies=(different, same, again)))
    assert failures == []
    assert members_of(windows) == [(Track(str(wav)), same), (different, again)]
    assert uris(windows) == {str(wav): 4, str(other): 4}
    hashes = {w.uri: w.facts.content_sha256 for w in windows if w.facts is not None}
    for uri, digest in hashes.items():
        assert digest == hashlib.sha256(Path(uri).read_bytes()).hexdigest()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_member_that_cannot_be_read_fails_alone(wav, stage, place):
    members = [Track(str(wav)), copy_of(wav, "b.wav")]
    members.insert(place, Track("/no/such/file", 5, None, (Listing("gone"),)))
    first, *copies = members
    windows, (failure,), *_ = stage(dataclasses.replace(first, copies=tuple(copies)))
    good = [member for member in members if member.uri != "/no/such/file"]
    assert members_of(windows) == [tuple(good)]
    assert len(windows) == 4
    assert failure.track == Track("/no/such/file", 5, None, (Listing("gone"),))
    assert failure.reason is Reason.NOT_FOUND


def test_copies_fail_together(tmp_path, stage):
    (tmp_path / "a").write_text("no music")
    copy = copy_of(tmp_path / "a", "b")
    windows, (failure,), *_ = stage(Track(str(tmp_path / "a"), copies=(copy,)))
    assert windows == []
    assert failure.track == Track(str(tmp_path / "a"), copies=(copy,))
    assert (failure.reason, failure.size_bytes) == (Reason.NOT_AUDIO, 8)


# Known bytes


def known_of(output: Path, wav: Path, *listings: Listing) -> KnownRows:
    """An output in which some listings of a file are labelled."""
    digest = hashlib.sha256(wav.read_bytes()).hexdigest()
    labelled = Track(str(wav), wav.stat().st_size, None, listings)
    published(output, labelled_rows(labelled, sha256=digest))
    fingerprints = PROVENANCE.model_fingerprint, PROVENANCE.front_end_fingerprint
    return KnownRows(str(output), "run-2", *fingerprints)


def test_known_bytes_are_skipped(tmp_path, wav, stage):
    known = known_of(tmp_path, wav, Listing())
    found = stage(Track(str(wav)), Track(str(wav)), known=known)
    assert found == ([], [], [], [(("skipped", "labelled"), 2)])


def test_listings_without_a_row_are_handed_on_as_known(tmp_path, wav, stage):
    known = known_of(tmp_path, wav, Listing("1"), Listing("2"))
    track = Track(str(wav), listings=tuple(map(Listing, "123")))
    windows, failures, (content,), counts = stage(track, known=known)
    assert (windows, failures, counts) == ([], [], [(("skipped", "labelled"), 2)])
    assert content.track == Track(str(wav), listings=(Listing("3"),))
    assert content.size_bytes == wav.stat().st_size


def test_the_same_bytes_under_other_names_are_handed_on_as_known(tmp_path, wav, stage):
    known = known_of(tmp_path, wav, Listing())
    moved, added = copy_of(wav, "moved.wav"), copy_of(wav, "added.wav")
    track = dataclasses.replace(moved, copies=(Track(str(wav)), added))
    windows, failures, (content,), counts = stage(track, known=known)
    assert (windows, failures, counts) == ([], [], [(("skipped", "labelled"), 1)])
    assert content.track == dataclasses.replace(moved, copies=(added,))
    assert content.content_sha256 == hashlib.sha256(wav.read_bytes()).hexdigest()


def test_bytes_that_have_changed_are_decoded(tmp_path, wav, other, stage):
    known = known_of(tmp_path, wav, Listing())
    track = dataclasses.replace(copy_of(wav, "moved.wav"), copies=(Track(str(other)),))
    windows, _, (content,), counts = stage(track, known=known)
    assert (uris(windows), counts) == ({str(other): 4}, [])
    assert content.track.members == (dataclasses.replace(track, copies=()),)


@pytest.mark.parametrize(
    "changes",
    [{"model_fingerprint": "x"}, *({"extras": frozenset({name})} for name in EXTRAS)],
)
def test_rows_of_another_kind_are_no_reason_to_skip(tmp_path, wav, stage, changes):
    known = dataclasses.replace(known_of(tmp_path, wav, Listing()), **changes)
    windows, _, contents, counts = stage(Track(str(wav)), known=known)
    assert (len(windows), contents, counts) == (4, [], [])


def test_a_known_file_that_cannot_be_read_fails(tmp_path, stage):
    gone = write_soundfile(tmp_path / "gone.wav", noise(1.0), 44_100, "WAV")
    known = known_of(tmp_path, gone, Listing())
    gone.unlink()
    windows, failures, contents, counts = stage(Track(str(gone)), known=known)
    assert (windows, contents, counts) == ([], [], [])
    assert [failure.reason for failure in failures] == [Reason.NOT_FOUND]


def test_a_teardown_in_the_middle_of_a_track_is_no_failure_of_it(wav):
    """Beam tears down in another thread where its runner is gone, without waiting for bundles."""
    do_fn = _DecodeFn(FRONT_END, 0.1, DecoderLimits(), None)
    do_fn.setup()
    do_fn.start_bundle()
    windows = do_fn.process(Track(str(wav)))
    next(windows)
    do_fn.teardown()
    with pytest.raises((RuntimeError, StageError)):
        list(windows)

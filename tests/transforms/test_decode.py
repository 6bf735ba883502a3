from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from apache_beam.io.filesystem import CompressionTypes, FileSystem

from tests.audio_files import noise, sine, write_pyav, write_soundfile
from transforms.decode import Decode, fetched, local_path
from transforms.errors import Reason, StageError
from transforms.models.front_end import PRESETS
from transforms.records import Track

FRONT_END = dataclasses.replace(PRESETS["ccmusic"], window_seconds=1.0, hop_seconds=1.0)


class ElsewhereFileSystem(FileSystem):
    """Files that are nowhere on this machine: ``decodetest://name``."""

    content: dict[str, bytes] = {}  # noqa: RUF012 (filled by the tests)

    @classmethod
    def scheme(cls):
        return "decodetest"

    def open(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        assert compression_type == CompressionTypes.UNCOMPRESSED
        if path.endswith("secret"):
            raise PermissionError(path)
        if path.endswith("broken"):
            raise RuntimeError("the network is down")
        if path not in self.content:
            raise FileNotFoundError(path)
        return io.BytesIO(self.content[path])

    def join(self, basepath, *paths):
        return "/".join((basepath, *paths))

    def _unused(self, *args, **kwargs):
        raise NotImplementedError

    split = mkdirs = has_dirs = _list = create = copy = rename = _unused
    exists = size = last_updated = checksum = metadata = delete = _unused


@pytest.fixture
def elsewhere(monkeypatch):
    content: dict[str, bytes] = {}
    monkeypatch.setattr(ElsewhereFileSystem, "content", content)
    return content


@pytest.fixture
def wav(tmp_path) -> Path:
    return write_soundfile(tmp_path / "a.wav", noise(3.5), 44_100, "WAV", "FLOAT")


def decoded(*uris, **options):
    options.setdefault("front_end", FRONT_END)
    result = [Track(str(uri)) for uri in uris] | Decode(**options)
    return result["windows"], result["facts"], result["failures"]


def test_windows_facts_and_failures(tmp_path, wav):
    m4a = write_pyav(tmp_path / "b", sine(1.5), 44_100, "ipod", "aac")
    windows, facts, failures = decoded(wav, m4a, tmp_path / "missing")
    by_uri = {f.uri: f for f in facts}
    assert set(by_uri) == {str(wav), str(m4a)}
    for uri, fact in by_uri.items():
        mine = sorted(w.window_index for w in windows if w.uri == uri)
        assert mine == list(range(fact.window_count))
        assert fact.content_sha256 == hashlib.sha256(Path(uri).read_bytes()).hexdigest()
        assert fact.size_bytes == Path(uri).stat().st_size
    fact = by_uri[str(wav)]
    assert (fact.window_count, fact.duration_s, fact.channels) == (4, 3.5, 2)
    assert (fact.container, fact.codec, fact.decoder) == ("wav", "pcm_f32", "soundfile")
    assert fact.decode_warnings == ()
    assert [(f.uri, f.reason, f.stage) for f in failures] == [
        (str(tmp_path / "missing"), Reason.NOT_FOUND, "Decode")
    ]


def test_samples_and_times(wav):
    windows, _, _ = decoded(wav)
    windows = sorted(windows, key=lambda w: w.window_index)
    assert [(w.start_s, w.end_s) for w in windows] == [(0, 1), (1, 2), (2, 3), (3, 3.5)]
    track = noise(3.5)
    for window in windows:
        part = track[window.first_frame :][: len(window.samples)]
        np.testing.assert_array_equal(window.samples, part)


@pytest.mark.parametrize(
    ("windows", "starts"), [("middle", [1.25]), ("2", [0.375, 2.125]), ("whole", [0.0])]
)
def test_placed_windows(wav, windows, starts):
    cut, facts, _ = decoded(wav, front_end=dataclasses.replace(FRONT_END, windows=windows))
    found = sorted(w.start_s for w in cut)
    assert found == pytest.approx(starts, abs=1 / 22_050)
    assert facts[0].window_count == len(starts)


def test_a_failure_knows_the_size(tmp_path):
    (tmp_path / "a.mp3").write_text("no music")
    windows, facts, failures = decoded(tmp_path / "a.mp3")
    assert not windows and not facts
    assert [(f.reason, f.size_bytes) for f in failures] == [(Reason.NOT_AUDIO, 8)]


@pytest.mark.parametrize("windows", ["all", "middle", "whole"])
def test_too_short(tmp_path, windows):
    path = write_soundfile(tmp_path / "a", sine(0.05), 44_100, "WAV")
    settings = dataclasses.replace(FRONT_END, windows=windows)
    cut, facts, failures = decoded(path, front_end=settings)
    assert not cut and not facts
    assert [f.reason for f in failures] == [Reason.TOO_SHORT]
    assert "0.050 s" in failures[0].message
    assert len(decoded(path, front_end=settings, min_seconds=0.05)[1]) == 1


def test_max_seconds(wav):
    windows, facts, _ = decoded(wav, front_end=dataclasses.replace(FRONT_END, max_seconds=1.5))
    assert len(windows) == 2
    assert facts[0].duration_s == 1.5
    assert facts[0].decode_warnings == ("too_long",)


def test_a_directory_and_an_empty_file(tmp_path):
    (tmp_path / "empty.wav").touch()
    _, _, failures = decoded(tmp_path, tmp_path / "empty.wav")
    assert {f.reason for f in failures} == {Reason.UNREADABLE, Reason.EMPTY_FILE}


def test_another_filesystem_gives_the_same(tmp_path, wav, elsewhere, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    elsewhere["decodetest://a.wav"] = wav.read_bytes()
    here, there = decoded(wav), decoded("decodetest://a.wav")
    facts = dataclasses.replace(there[1][0], uri=str(wav))
    assert facts == here[1][0]
    assert len(there[0]) == len(here[0])
    assert list((tmp_path / "tmp").iterdir()) == []


def test_temporary_copies_are_removed_after_a_failure(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    elsewhere["decodetest://a"] = b"no music"
    _, _, failures = decoded("decodetest://a")
    assert [(f.reason, f.size_bytes) for f in failures] == [(Reason.NOT_AUDIO, 8)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("decodetest://missing", Reason.NOT_FOUND),
        ("decodetest://secret", Reason.PERMISSION_DENIED),
        ("decodetest://broken", Reason.UNREADABLE),
        ("nosuchscheme://a", Reason.UNREADABLE),
        ("/no/such/file", Reason.NOT_FOUND),
    ],
)
def test_what_cannot_be_fetched(uri, reason):
    with pytest.raises(StageError) as caught, fetched(uri):
        pass
    assert caught.value.reason is reason
    assert uri in caught.value.message


def test_a_compressed_file_is_not_undone(tmp_path, wav, elsewhere):
    packed = gzip.compress(wav.read_bytes())
    (tmp_path / "a.wav.gz").write_bytes(packed)
    elsewhere["decodetest://a.wav.gz"] = packed
    for uri in (tmp_path / "a.wav.gz", "decodetest://a.wav.gz"):
        _, _, failures = decoded(uri)
        assert [(f.reason, f.size_bytes) for f in failures] == [(Reason.NOT_AUDIO, len(packed))]


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

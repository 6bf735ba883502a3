"""Tracks to windows: what a window holds, what the last one says, and where decoding stops."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.audio_files import noise, sine, write_pyav, write_soundfile
from transforms.audio.channels import to_mono
from transforms.audio.decoders import open_audio
from transforms.audio.sandbox import Sandbox
from transforms.decode import check_length, decode_track
from transforms.errors import Reason, StageError
from transforms.fetch import fetched
from transforms.models.front_end import PRESETS
from transforms.records import Track
from transforms.windows import cut_windows

FRONT_END = dataclasses.replace(PRESETS["ccmusic"], window_seconds=1.0, hop_seconds=1.0)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("audio")


@pytest.fixture(scope="module")
def wav(folder) -> Path:
    return write_soundfile(folder / "a.wav", noise(3.5), 44_100, "WAV", "FLOAT")


@pytest.fixture
def decoded(sandbox):
    """Decode one file to its windows."""

    def decode(path, front_end=FRONT_END, min_seconds=0.1):
        track = Track(str(path))
        with fetched(track.uri) as source:
            return list(
                decode_track(track, source, front_end, min_seconds=min_seconds, sandbox=sandbox)
            )

    return decode


def settings(**changes):
    return dataclasses.replace(FRONT_END, **changes)


# What windows hold


def test_samples_and_times(wav, decoded):
    windows = decoded(wav)
    assert [(w.start_s, w.end_s) for w in windows] == [(0, 1), (1, 2), (2, 3), (3, 3.5)]
    assert [w.window_index for w in windows] == [0, 1, 2, 3]
    mono = noise(3.5).mean(axis=1, keepdims=True)
    for window in windows:
        assert window.track == Track(str(wav))
        assert window.sample_rate_hz == 44_100
        part = mono[window.first_frame :][: len(window.samples)]
        np.testing.assert_allclose(window.samples, part, atol=1e-7)


def test_the_channel_rule_of_the_front_end_holds(wav, decoded):
    for rule, expected in (
        ("first", noise(3.5)[:, :1]),
        ("mean", noise(3.5).mean(axis=1)[:, None]),
    ):
        (window,) = decoded(wav, settings(windows="whole", channel_rule=rule))
        assert window.samples.shape == (round(3.5 * 44_100), 1)
        np.testing.assert_allclose(window.samples, expected, atol=1e-7)


def test_the_last_window_carries_the_facts(wav, decoded):
    windows = decoded(wav)
    assert [w.facts is None for w in windows] == [True, True, True, False]
    facts = windows[-1].facts
    assert facts.content_sha256 == hashlib.sha256(wav.read_bytes()).hexdigest()
    assert facts.size_bytes == wav.stat().st_size
    assert (facts.window_count, facts.duration_s, facts.channels) == (4, 3.5, 2)
    assert (facts.container, facts.codec, facts.decoder) == ("wav", "pcm_f32", "soundfile")
    assert (facts.sample_rate_hz, facts.decode_warnings) == (44_100, ())


FORMATS = {
    "flac": lambda path: write_soundfile(path, noise(3.3), 44_100, "FLAC", "PCM_16"),
    "mp3": lambda path: write_soundfile(path, noise(3.3), 44_100, "MP3", "MPEG_LAYER_III"),
    "ogg": lambda path: write_soundfile(path, noise(3.3), 44_100, "OGG", "VORBIS"),
    "m4a": lambda path: write_pyav(path, sine(3.3), 44_100, "ipod", "aac"),
}


@pytest.mark.parametrize("windows", ["all", "middle", "3", "whole"])
@pytest.mark.parametrize("kind", FORMATS)
def test_windows_are_those_of_the_whole_track(folder, decoded, kind, windows):
    """By seeking where that is exact, by counting first where it is not: no difference shows."""
    path = folder / f"whole.{kind}"
    if not path.exists():
        FORMATS[kind](path)
    with open_audio(path) as audio:
        track = np.concatenate(list(audio.blocks()))
    front_end = settings(windows=windows)
    expected = list(
        cut_windows(
            [to_mono(track, front_end.channel_rule)[:, None]], track=Track(str(path)),
            sample_rate_hz=44_100, front_end=front_end, total_frames=len(track),
        )
    )  # fmt: skip
    found = decoded(path, front_end)
    assert len(found) == len(expected) >= 1
    for window, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(window.samples, other.samples)
        assert (window.window_index, window.start_s, window.end_s, window.first_frame) == (
            other.window_index, other.start_s, other.end_s, other.first_frame,
        )  # fmt: skip
    facts = found[-1].facts
    assert facts.window_count == len(expected)
    assert facts.duration_s == len(track) / 44_100
    assert facts.channels == 2


@pytest.mark.parametrize(
    ("windows", "starts"), [("middle", [1.25]), ("2", [0.375, 2.125]), ("whole", [0.0])]
)
def test_placed_windows(wav, decoded, windows, starts):
    cut = decoded(wav, settings(windows=windows))
    assert [w.start_s for w in cut] == pytest.approx(starts, abs=1 / 22_050)
    assert cut[-1].facts.window_count == len(starts)
    assert cut[-1].facts.duration_s == 3.5


# Where decoding stops


@pytest.mark.parametrize(("seconds", "fits"), [(0.0999, False), (0.1, True), (5.0, True)])
def test_check_length(seconds, fits):
    if fits:
        check_length(seconds, 0.1)
        return
    with pytest.raises(StageError, match=r"0\.100 s") as caught:
        check_length(seconds, 0.1)
    assert caught.value.reason is Reason.TOO_SHORT


@pytest.mark.parametrize("windows", ["all", "middle", "whole"])
@pytest.mark.parametrize("kind", ["wav", "m4a"])
def test_too_short(folder, decoded, windows, kind):
    path = folder / f"short.{kind}"
    if kind == "wav":
        write_soundfile(path, sine(0.05), 44_100, "WAV")
    else:
        write_pyav(path, sine(0.05), 44_100, "ipod", "aac")
    with pytest.raises(StageError, match="s of sound") as caught:
        decoded(path, settings(windows=windows), min_seconds=0.2)
    assert caught.value.reason is Reason.TOO_SHORT
    assert len(decoded(path, settings(windows=windows), min_seconds=0.05)) == 1


@pytest.mark.parametrize("windows", ["all", "middle", "2"])
def test_max_seconds(wav, decoded, windows):
    found = decoded(wav, settings(windows=windows, max_seconds=1.5))
    assert found[-1].end_s <= 1.5
    assert found[-1].facts.duration_s == 1.5
    assert found[-1].facts.decode_warnings == ("too_long",)


def test_a_file_that_is_no_music(folder, decoded):
    (folder / "text.mp3").write_text("no music")
    with pytest.raises(StageError) as caught:
        decoded(folder / "text.mp3")
    assert caught.value.reason is Reason.NOT_AUDIO

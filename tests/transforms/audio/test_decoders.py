from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile as sf

from tests.audio_files import noise, sine, write_pyav, write_soundfile
from tests.decoding import damaged, decode, reason_of
from transforms.audio.decoders import open_audio, sanitised
from transforms.audio.readers import DecodeWarning
from transforms.errors import Reason


def test_truncated_flac_keeps_what_is_there(tmp_path):
    original = noise(10.0)
    path = write_soundfile(tmp_path / "a", original, 44_100, "FLAC", "PCM_16")
    damaged(path, lambda b: b[: len(b) // 2])
    decoded, _, warnings = decode(path)
    assert 4.5 < len(decoded) / 44_100 < 5.1
    np.testing.assert_allclose(decoded[:180_000], original[:180_000], atol=1e-4)
    assert DecodeWarning.TRUNCATED.value in warnings


def test_a_hole_in_a_flac_costs_little_more_than_the_hole(tmp_path):
    path = write_soundfile(tmp_path / "a", noise(10.0), 44_100, "FLAC", "PCM_16")

    def hole(content):
        middle = len(content) // 2
        content[middle : middle + 4_000] = bytes(4_000)
        return content

    decoded, info, warnings = decode(damaged(path, hole))
    assert len(decoded) > 9.5 * 44_100
    assert info.decoder == "soundfile+pyav"
    assert DecodeWarning.CORRUPT_FRAMES.value in warnings


def test_truncated_mp3(tmp_path):
    path = write_soundfile(tmp_path / "a", noise(6.0), 44_100, "MP3")
    decoded, _, warnings = decode(damaged(path, lambda b: b[: len(b) // 2]))
    assert 2.8 < len(decoded) / 44_100 < 3.2
    assert warnings == (DecodeWarning.TRUNCATED.value,)


def test_truncated_wav(tmp_path):
    path = write_soundfile(tmp_path / "a", sine(2.0), 44_100, "WAV", "PCM_16")
    decoded, _, warnings = decode(damaged(path, lambda b: b[: 44 + 4 * 44_100]))
    np.testing.assert_allclose(decoded, sine(2.0)[:44_100], atol=1e-4)
    assert warnings == (DecodeWarning.TRUNCATED.value,)


def test_truncated_m4a_without_its_index_is_corrupt(tmp_path):
    path = write_pyav(tmp_path / "a", sine(2.0), 44_100, "ipod", "aac")
    assert reason_of(damaged(path, lambda b: b[: len(b) // 2])) is Reason.CORRUPT


def test_a_wrong_total_in_a_flac_is_not_believed(tmp_path):
    original = noise(10.0)
    path = write_soundfile(tmp_path / "a", original, 44_100, "FLAC", "PCM_16")

    def shorter(content):  # the total is the low 36 bits of bytes 21 to 25
        content[22:26] = (44_100).to_bytes(4, "big")
        return content

    decoded, _, warnings = decode(damaged(path, shorter))
    np.testing.assert_allclose(decoded, original, atol=1e-4)
    assert warnings == (DecodeWarning.LENGTH_MISMATCH.value,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -2e4])
def test_no_sound_is_replaced(tmp_path, bad):
    original = sine(1.0)
    original[500:510, 1] = bad
    sf.write(tmp_path / "a", original, 44_100, format="WAV", subtype="FLOAT")
    decoded, _, warnings = decode(tmp_path / "a")
    assert warnings == (DecodeWarning.NAN_REPLACED.value,)
    expected = original.copy()
    expected[500:510, 1] = 0
    np.testing.assert_array_equal(decoded, expected)


def test_loud_sound_is_left_alone():
    block = np.array([[7.85, -1.5]], np.float32)
    clean, peak, repaired = sanitised(block)
    assert clean is block and not repaired
    assert peak == np.float32(7.85)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_silence(tmp_path, kind):
    path = write_soundfile(tmp_path / "a", np.zeros((44_100, 2), np.float32), 44_100, kind)
    decoded, _, warnings = decode(path)
    assert len(decoded) == 44_100 and not decoded.any()
    assert warnings == (DecodeWarning.SILENT.value,)


def test_one_sample(tmp_path):
    path = write_soundfile(tmp_path / "a", sine()[300:301], 44_100, "WAV", "FLOAT")
    np.testing.assert_array_equal(decode(path)[0], sine()[300:301])


@pytest.mark.parametrize("seconds", [0.5, 1.7])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_max_seconds(tmp_path, seconds, kind):
    path = write_soundfile(tmp_path / "a", sine(4.0), 44_100, kind)
    decoded, _, warnings = decode(path, max_seconds=seconds)
    assert len(decoded) == int(seconds * 44_100)
    assert warnings == (DecodeWarning.TOO_LONG.value,)
    assert decode(path, max_seconds=4.0)[2] == ()


def test_blocks_are_bounded(tmp_path):
    path = write_soundfile(tmp_path / "a", noise(10.0, channels=16), 44_100, "WAV")
    with open_audio(path) as audio:
        assert max(block.size for block in audio.blocks()) <= 4 * 65_536


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b"x", Reason.NOT_AUDIO),
        (b"no music, only words\n" * 500, Reason.NOT_AUDIO),
        (bytes(100_000), Reason.NOT_AUDIO),
        (np.random.default_rng(0).bytes(100_000), Reason.NOT_AUDIO),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", Reason.NOT_AUDIO),
        (b"ffconcat version 1.0\nfile '/etc/hostname'\n", Reason.NOT_AUDIO),
        (b"fLaC" + bytes(50), Reason.CORRUPT),
        (b"OggS\0\2" + bytes(50), Reason.CORRUPT),
        (b"\0\0\0\x20ftypM4A " + bytes(50), Reason.CORRUPT),
    ],
)
def test_what_is_no_audio(tmp_path, content, reason):
    (tmp_path / "a.mp3").write_bytes(content)
    assert reason_of(tmp_path / "a.mp3") is reason


def test_a_header_without_sound_is_corrupt(tmp_path):
    path = write_soundfile(tmp_path / "a", sine()[:0], 44_100, "WAV")
    assert reason_of(path) is Reason.CORRUPT


def test_absurd_headers(tmp_path):
    sf.write(tmp_path / "channels", np.ones((9, 65)), 44_100, format="WAV")
    assert reason_of(tmp_path / "channels") is Reason.UNSUPPORTED_CODEC
    sf.write(tmp_path / "rate", np.ones((9, 1)), 1, format="WAV")
    assert reason_of(tmp_path / "rate") is Reason.CORRUPT


def test_what_is_no_file(tmp_path):
    assert reason_of(tmp_path / "missing.wav") is Reason.NOT_FOUND
    assert reason_of(tmp_path) is Reason.UNREADABLE
    os.mkfifo(tmp_path / "pipe")
    assert reason_of(tmp_path / "pipe") is Reason.UNREADABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path):
    path = write_soundfile(tmp_path / "a", sine(), 44_100, "WAV")
    path.chmod(0)
    assert reason_of(path) is Reason.PERMISSION_DENIED


def test_a_hole_in_an_mp3_costs_little_more_than_the_hole(tmp_path):
    """Where PyAV goes on does not lie at a bound of its own blocks."""
    path = write_soundfile(tmp_path / "a", noise(8.0), 44_100, "MP3")

    def hole(content):
        middle = len(content) // 2
        content[middle : middle + 4_000] = bytes(4_000)
        return content

    decoded, info, warnings = decode(damaged(path, hole))
    assert len(decoded) > 7.5 * 44_100
    assert info.decoder == "soundfile+pyav"
    assert DecodeWarning.CORRUPT_FRAMES.value in warnings


@pytest.mark.parametrize(("full_scale", "clipped"), [(0, False), (87, False), (89, True)])
@pytest.mark.parametrize("level", [1.0, -1.0, 0.99995, 7.0])
def test_clipped(tmp_path, full_scale, clipped, level):
    sound = sine(1.0)  # 88,200 samples
    sound.reshape(-1)[1_000 : 1_000 + full_scale] = level
    path = write_soundfile(tmp_path / "a", sound, 44_100, "WAV", "FLOAT")
    warnings = (DecodeWarning.CLIPPED.value,) if clipped else ()
    assert decode(path)[2] == warnings
    with open_audio(path, channel_rule="mean") as audio:  # of the file's channels, not of the mix
        assert sum(len(block) for block in audio.blocks()) == 44_100
        assert audio.warnings == warnings


def test_almost_full_scale_is_not_clipped(tmp_path):
    sound = np.full((44_100, 2), 0.9998, np.float32)
    path = write_soundfile(tmp_path / "a", sound, 44_100, "WAV", "FLOAT")
    assert decode(path)[2] == ()


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channel_rule(tmp_path, channels):
    sound = sine(2.0, channels=channels)
    path = write_soundfile(tmp_path / "a", sound, 44_100, "WAV", "FLOAT")
    for rule, expected in (("mean", sound.mean(axis=1)), ("first", sound[:, 0])):
        with open_audio(path, channel_rule=rule) as audio:
            blocks = list(audio.blocks())
            assert all(block.shape[1] == 1 and block.dtype == np.float32 for block in blocks)
            assert audio.info.channels == channels
            assert audio.frames == len(sound)
            np.testing.assert_allclose(np.concatenate(blocks)[:, 0], expected, atol=1e-6)

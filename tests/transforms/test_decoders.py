from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr

from tests.audio_files import (
    lag_and_likeness,
    noise,
    sine,
    write_pyav,
    write_soundfile,
    write_streamed_wav,
)
from transforms.decoders import AudioInfo, DecodeWarning, open_audio, sanitised
from transforms.errors import Reason, StageError

HARD = Path(__file__).parents[2].parent / "shared" / "data" / "hard"


def decode(path, **options) -> tuple[np.ndarray, AudioInfo, tuple[str, ...]]:
    with open_audio(path, **options) as audio:
        blocks = list(audio.blocks())
        samples = np.concatenate(blocks)
        assert all(b.dtype == np.float32 and b.ndim == 2 and len(b) for b in blocks)
        assert audio.frames == len(samples)
        assert samples.shape[1] == audio.info.channels
        return samples, audio.info, audio.warnings


def reason_of(path) -> Reason:
    with pytest.raises(StageError) as caught:
        decode(path)
    assert caught.value.message
    return caught.value.reason


# What a file holds more than was put in, in frames: a codec's delay and padding.
SOUNDFILE = [
    # format, subtype, rate, container, codec, excess, tolerance of a sample
    ("WAV", "PCM_16", 44_100, "wav", "pcm_s16", 0, 1e-4),
    ("WAV", "PCM_U8", 8_000, "wav", "pcm_u8", 0, 1e-2),
    ("WAV", "FLOAT", 44_100, "wav", "pcm_f32", 0, 0),
    ("WAV", "DOUBLE", 192_000, "wav", "pcm_f64", 0, 0),
    ("WAVEX", "PCM_24", 48_000, "wav", "pcm_s24", 0, 1e-6),
    ("RF64", "PCM_16", 44_100, "rf64", "pcm_s16", 0, 1e-4),
    ("W64", "PCM_16", 44_100, "w64", "pcm_s16", 0, 1e-4),
    ("AIFF", "PCM_16", 44_100, "aiff", "pcm_s16", 0, 1e-4),
    ("AU", "PCM_16", 44_100, "au", "pcm_s16", 0, 1e-4),
    ("CAF", "PCM_16", 44_100, "caf", "pcm_s16", 0, 1e-4),
    ("CAF", "ALAC_16", 44_100, "caf", "alac", 0, 1e-4),
    ("FLAC", "PCM_16", 44_100, "flac", "flac", 0, 1e-4),
    ("FLAC", "PCM_24", 96_000, "flac", "flac", 0, 1e-6),
    ("OGG", "VORBIS", 44_100, "ogg", "vorbis", 0, None),
    ("OGG", "OPUS", 48_000, "ogg", "opus", 0, None),
    ("MP3", "MPEG_LAYER_III", 44_100, "mp3", "mp3", 0, None),  # LAME tag: trimmed
]
PYAV = [
    # container, codec, rate, container found, codec found, least and most excess, tolerance
    ("ipod", "aac", 44_100, "mp4", "aac", 0, 2_048, None),
    ("adts", "aac", 44_100, "aac", "aac", 0, 2_048, None),
    ("mpegts", "aac", 44_100, "mpegts", "aac", 0, 2_048, None),
    ("ipod", "alac", 44_100, "mp4", "alac", 0, 0, 1e-4),
    ("asf", "wmav2", 44_100, "asf", "wmav2", -2_048, 2_048, None),
    ("wv", "wavpack", 44_100, "wv", "wavpack", 0, 0, 1e-4),
    ("tta", "tta", 44_100, "tta", "tta", 0, 0, 1e-4),
    ("matroska", "pcm_s16le", 44_100, "matroska", "pcm_s16", 0, 0, 1e-4),
    ("webm", "libopus", 48_000, "matroska", "opus", 0, 960, None),
]


def check_content(decoded, original, tolerance) -> None:
    if tolerance is None:
        lag, likeness = lag_and_likeness(decoded, original, 2_400)
        assert likeness > 0.95, (lag, likeness)
    else:
        np.testing.assert_allclose(decoded, original, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("kind", "subtype", "rate", "container", "codec", "excess", "tolerance"), SOUNDFILE
)
def test_what_soundfile_reads(tmp_path, kind, subtype, rate, container, codec, excess, tolerance):
    original = sine(1.5, rate)
    path = write_soundfile(tmp_path / "a.bin", original, rate, kind, subtype)
    decoded, info, warnings = decode(path)
    assert info == AudioInfo(container, codec, "soundfile", rate, 2)
    assert warnings == ()
    assert len(decoded) - len(original) == excess
    check_content(decoded, original, tolerance)


@pytest.mark.parametrize(
    ("muxer", "encoder", "rate", "container", "codec", "least", "most", "tolerance"), PYAV
)
def test_what_pyav_reads(tmp_path, muxer, encoder, rate, container, codec, least, most, tolerance):
    original = sine(1.5, rate)
    path = write_pyav(tmp_path / "a.bin", original, rate, muxer, encoder)
    decoded, info, warnings = decode(path)
    assert info == AudioInfo(container, codec, "pyav", rate, 2)
    assert warnings == ()
    assert least <= len(decoded) - len(original) <= most
    check_content(decoded, original, tolerance)


@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a", "100% é : ?.flac", "-i.m3u8"])
@pytest.mark.parametrize("muxer", ["adts", "ipod"])
def test_the_name_does_not_matter(tmp_path, name, muxer):
    original = sine(1.0)
    path = write_pyav(tmp_path / "x", original, 44_100, muxer, "aac").rename(tmp_path / name)
    decoded, info, _ = decode(path)
    assert info.codec == "aac"
    assert 0 <= len(decoded) - len(original) <= 2_048


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF, 0x7FFF_FFFF])
@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_streamed_wav(tmp_path, size, channels):
    original = sine(1.0, channels=channels)
    path = write_streamed_wav(tmp_path / "a", original, 44_100, size)
    decoded, _, warnings = decode(path)
    np.testing.assert_allclose(decoded, original, atol=1e-4)
    assert warnings == ()


@pytest.mark.parametrize("channels", [1, 6, 8, 16])
def test_channels(tmp_path, channels):
    original = sine(0.5, channels=channels)
    path = write_soundfile(tmp_path / "a", original, 44_100, "WAV", "PCM_16")
    np.testing.assert_allclose(decode(path)[0], original, atol=1e-4)


def test_eight_planes_of_pyav(tmp_path):
    original = sine(0.5, channels=8)
    path = write_pyav(tmp_path / "a", original, 44_100, "wv", "wavpack")
    np.testing.assert_allclose(decode(path)[0], original, atol=1e-4)


@pytest.mark.parametrize(("subtype", "rate"), [("VORBIS", 44_100), ("OPUS", 48_000)])
def test_chained_ogg_is_read_to_its_end(tmp_path, subtype, rate):
    first, second = sine(1.0, rate), noise(1.5, rate)
    links = [
        write_soundfile(tmp_path / str(i), x, rate, "OGG", subtype).read_bytes()
        for i, x in enumerate((first, second))
    ]
    path = tmp_path / "chain"
    path.write_bytes(b"".join(links))
    decoded, info, warnings = decode(path)
    assert info.decoder == "pyav"
    assert abs(len(decoded) - 2.5 * rate) < 0.02 * rate
    assert warnings == ()
    check_content(decoded[: rate + 2_400], first, None)


def test_a_new_rate_and_layout_in_the_middle(tmp_path):
    first, second = sine(1.0, 44_100, 2), sine(1.0, 32_000, 1)
    chain = write_soundfile(tmp_path / "1", first, 44_100, "OGG", "VORBIS").read_bytes()
    chain += write_soundfile(tmp_path / "2", second, 32_000, "OGG", "VORBIS").read_bytes()
    path = tmp_path / "chain"
    path.write_bytes(chain)
    decoded, info, warnings = decode(path)
    assert (info.sample_rate_hz, info.channels) == (44_100, 2)
    assert abs(len(decoded) - 2 * 44_100) < 1_000
    assert warnings == (DecodeWarning.STREAM_CHANGE.value,)
    later = soxr.resample(second, 32_000, 44_100)
    check_content(decoded[-len(later) :], later, None)


def damaged(path, change) -> Path:
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))
    return path


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


@pytest.mark.parametrize(
    "prefix", [b"ID3\x04\0\0\0\0\x08\0" + bytes(1_024), bytes(3_000), b"x" * 2_000]
)
def test_what_stands_in_front_of_an_mp3(tmp_path, prefix):
    path = write_soundfile(tmp_path / "a", sine(2.0), 44_100, "MP3")
    decoded, info, warnings = decode(damaged(path, lambda b: prefix + b))
    assert info.codec == "mp3" and warnings == ()
    assert abs(len(decoded) - 2 * 44_100) < 3_000


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


def test_ffmpeg_says_nothing_on_stderr(tmp_path, capfd):
    path = write_pyav(tmp_path / "a", sine(2.0), 44_100, "ipod", "aac")
    damaged(path, lambda b: b[:3_000] + bytes(2_000) + b[5_000:])
    decode(path)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not HARD.is_dir(), reason=f"no {HARD.name}/ beside the repository")
def test_every_hard_file_is_decoded_or_refused_with_a_reason():
    paths = [p for p in sorted(HARD.rglob("*")) if p.is_file()]
    refused = 0
    for path in paths:
        try:
            samples, _, _ = decode(path)
        except StageError as error:
            assert error.reason is not Reason.INTERNAL_ERROR
            refused += 1
        else:
            assert np.isfinite(samples).all(), path
    assert 0 < refused < len(paths)

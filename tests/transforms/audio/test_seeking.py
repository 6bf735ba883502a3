from __future__ import annotations

import numpy as np
import pytest

from tests.audio_files import noise, sine, write_pyav, write_soundfile, write_streamed_wav
from tests.decoding import damaged, decode
from transforms.audio.decoders import open_audio
from transforms.audio.readers import DecodeWarning

EXACT = [
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_U8"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
    ("WAV", "ULAW"), ("WAV", "ALAW"), ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"),
    ("WAVEX", "PCM_16"), ("AIFF", "PCM_16"), ("AIFF", "PCM_S8"), ("AU", "PCM_16"), ("AU", "FLOAT"),
    ("CAF", "PCM_24"), ("W64", "PCM_16"), ("W64", "MS_ADPCM"), ("RF64", "FLOAT"),
    ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("FLAC", "PCM_S8"),
]  # fmt: skip


def parts_of(path, first, last, **options):
    with open_audio(path, **options) as audio:
        blocks = list(audio.part(first, last))
        assert audio.frames == sum(len(block) for block in blocks)
        return np.concatenate([np.empty((0, blocks[0].shape[1]), np.float32), *blocks]), audio


@pytest.mark.parametrize(("kind", "subtype"), EXACT)
@pytest.mark.parametrize("channels", [1, 2])
def test_parts_equal_the_full_decode(tmp_path, kind, subtype, channels):
    sound = noise(4.0, channels=channels) + sine(4.0, channels=channels)
    path = write_soundfile(tmp_path / "a", sound, 44_100, kind, subtype)
    whole = decode(path)[0]
    rng = np.random.default_rng(0)
    with open_audio(path) as audio:
        assert audio.exact_frames == len(whole)
        ends = [(0, 1), (len(whole) - 1, len(whole)), (0, len(whole))]
        for first, last in ends + [sorted(rng.integers(0, len(whole) + 1, 2)) for _ in range(30)]:
            blocks = list(audio.part(int(first), int(last)))
            part = np.concatenate([whole[:0], *blocks])
            np.testing.assert_array_equal(part, whole[first:last])
        assert audio.warnings == ()


def test_blocks_are_the_same_after_seeking(tmp_path):
    path = write_soundfile(tmp_path / "a", noise(4.0), 44_100, "FLAC", "PCM_16")
    whole = decode(path)[0]
    with open_audio(path) as audio:
        blocks = audio.blocks()
        taken = [next(blocks)]
        assert audio.exact_frames == len(whole)
        list(audio.part(100, 200))
        taken += blocks
        np.testing.assert_array_equal(np.concatenate(taken), whole)


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [("OGG", "VORBIS", 44_100), ("OGG", "OPUS", 48_000)],
)
def test_no_parts_where_the_decoder_has_a_memory(tmp_path, kind, subtype, rate):
    path = write_soundfile(tmp_path / "a", noise(2.0, rate), rate, kind, subtype)
    with open_audio(path) as audio:
        assert audio.exact_frames is None
        with pytest.raises(ValueError, match="seeking"):
            list(audio.part(0, 1))


def test_no_parts_through_pyav(tmp_path):
    path = write_pyav(tmp_path / "a", sine(1.0), 44_100, "ipod", "alac")
    with open_audio(path) as audio:
        assert audio.exact_frames is None


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF])
def test_no_parts_of_a_streamed_wav(tmp_path, size):
    path = write_streamed_wav(tmp_path / "a", sine(1.0), 44_100, size)
    with open_audio(path) as audio:
        assert audio.exact_frames is None


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16")])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_no_parts_of_a_cut_off_file(tmp_path, kind, subtype, share):
    path = write_soundfile(tmp_path / "a", noise(4.0), 44_100, kind, subtype)
    damaged(path, lambda b: b[: int(len(b) * share)])
    with open_audio(path) as audio:
        assert audio.exact_frames is None


@pytest.mark.parametrize("stated", [44_100, 430_000, 441_001, 11 * 44_100, 2**32 - 1])
def test_no_parts_where_the_total_is_wrong(tmp_path, stated):
    path = write_soundfile(tmp_path / "a", noise(10.0), 44_100, "FLAC", "PCM_16")

    def restated(content):  # the total is the low 36 bits of bytes 21 to 25
        content[22:26] = stated.to_bytes(4, "big")
        return content

    with open_audio(damaged(path, restated)) as audio:
        assert audio.exact_frames is None


@pytest.mark.parametrize("bounds", [(-1, 5), (5, 4), (0, 44_101)])
def test_bounds(tmp_path, bounds):
    path = write_soundfile(tmp_path / "a", sine(1.0), 44_100, "WAV")
    with open_audio(path) as audio, pytest.raises(ValueError, match="frames"):
        list(audio.part(*bounds))


def test_a_hole_in_a_part_is_decoded_around(tmp_path):
    path = write_soundfile(tmp_path / "a", noise(10.0), 44_100, "FLAC", "PCM_16")

    def hole(content):
        middle = len(content) // 2
        content[middle : middle + 4_000] = bytes(4_000)
        return content

    whole = decode(damaged(path, hole))[0]
    part, audio = parts_of(path, 3 * 44_100, 7 * 44_100)
    np.testing.assert_array_equal(part, whole[3 * 44_100 : 7 * 44_100])
    assert DecodeWarning.CORRUPT_FRAMES.value in audio.warnings


def test_max_seconds(tmp_path):
    path = write_soundfile(tmp_path / "a", sine(4.0), 44_100, "WAV", "FLOAT")
    part, audio = parts_of(path, 10, 44_100, max_seconds=1.0)
    np.testing.assert_array_equal(part, sine(4.0)[10:44_100])
    assert audio.exact_frames == 44_100
    assert audio.warnings == (DecodeWarning.TOO_LONG.value,)
    with open_audio(path, max_seconds=1.0) as audio:
        assert audio.exact_frames == 44_100
        assert sum(len(block) for block in audio.blocks()) == 44_100
        assert audio.warnings == (DecodeWarning.TOO_LONG.value,)


def test_parts_are_sanitised_and_judged(tmp_path):
    sound = sine(2.0)
    sound[500:510] = np.nan
    sound[1_000:1_100] = 1.0
    sound[50_000:] = 0.0
    path = write_soundfile(tmp_path / "a", sound, 44_100, "WAV", "FLOAT")
    expected = np.nan_to_num(sound)
    for first, last, warnings in [
        (0, 10_000, {"nan_replaced", "clipped"}),
        (600, 900, set()),
        (60_000, 70_000, {"silent"}),
    ]:
        part, audio = parts_of(path, first, last)
        np.testing.assert_array_equal(part, expected[first:last])
        assert set(audio.warnings) == warnings


def test_parts_in_one_channel(tmp_path):
    sound = sine(2.0)
    path = write_soundfile(tmp_path / "a", sound, 44_100, "WAV", "FLOAT")
    np.testing.assert_array_equal(parts_of(path, 5, 900, channel_rule="first")[0], sound[5:900, :1])


def test_a_replaced_file_is_not_mixed_up(tmp_path):
    path = write_soundfile(tmp_path / "a", sine(2.0), 44_100, "WAV", "FLOAT")
    with open_audio(path) as audio:
        path.unlink()
        assert audio.exact_frames is None
    write_soundfile(path, sine(2.0), 44_100, "WAV", "FLOAT")
    with open_audio(path) as audio:
        path.rename(tmp_path / "other")
        write_soundfile(path, sine(1.0), 44_100, "WAV", "FLOAT")
        assert audio.exact_frames is None
        np.testing.assert_array_equal(np.concatenate(list(audio.blocks())), sine(2.0))

from __future__ import annotations

import numpy as np
import pytest

from tests.audio_files import noise, sine, write_pyav, write_soundfile, write_streamed_wav
from tests.decoding import check_content, damaged, decode
from transforms.audio.readers import DecodeWarning


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


@pytest.mark.parametrize(
    "prefix", [b"ID3\x04\0\0\0\0\x08\0" + bytes(1_024), bytes(3_000), b"x" * 2_000]
)
def test_what_stands_in_front_of_an_mp3(tmp_path, prefix):
    path = write_soundfile(tmp_path / "a", sine(2.0), 44_100, "MP3")
    decoded, info, warnings = decode(damaged(path, lambda b: prefix + b))
    assert info.codec == "mp3" and warnings == ()
    assert abs(len(decoded) - 2 * 44_100) < 3_000


CUT_OFF = [
    ("WAV", "PCM_16"), ("WAV", "IMA_ADPCM"), ("RF64", "PCM_16"), ("W64", "PCM_16"),
    ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"),
    ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "subtype"), CUT_OFF)
def test_every_cut_off_file_is_told(tmp_path, kind, subtype):
    path = write_soundfile(tmp_path / "a", noise(9.0, 48_000), 48_000, kind, subtype)
    assert DecodeWarning.TRUNCATED.value not in decode(path)[2]
    decoded, _, warnings = decode(damaged(path, lambda b: b[: len(b) * 2 // 3]))
    assert 5.0 < len(decoded) / 48_000 < 6.1
    assert DecodeWarning.TRUNCATED.value in warnings


# libsndfile takes what stands behind the sound of a W64 for sound.
@pytest.mark.parametrize(("kind", "subtype"), [pair for pair in CUT_OFF if pair[0] != "W64"])
def test_what_stands_behind_the_sound_does_not_matter(tmp_path, kind, subtype):
    path = write_soundfile(tmp_path / "a", noise(2.0, 48_000), 48_000, kind, subtype)
    whole = decode(path)[0]
    decoded, _, warnings = decode(damaged(path, lambda b: b + b"TAG" + bytes(125)))
    np.testing.assert_array_equal(decoded, whole)
    assert warnings == ()


def test_an_au_of_unknown_length(tmp_path):
    path = write_soundfile(tmp_path / "a", sine(1.0), 44_100, "AU", "PCM_16")

    def unknown(content):
        content[8:12] = b"\xff" * 4
        return content

    decoded, _, warnings = decode(damaged(path, unknown))
    np.testing.assert_allclose(decoded, sine(1.0), atol=1e-4)
    assert warnings == ()

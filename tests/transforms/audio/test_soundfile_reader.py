from __future__ import annotations

import numpy as np
import pytest

from tests.audio_files import sine, write_soundfile
from tests.decoding import check_content, decode
from transforms.audio.readers import AudioInfo

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


@pytest.mark.parametrize("channels", [1, 6, 8, 16])
def test_channels(tmp_path, channels):
    original = sine(0.5, channels=channels)
    path = write_soundfile(tmp_path / "a", original, 44_100, "WAV", "PCM_16")
    np.testing.assert_allclose(decode(path)[0], original, atol=1e-4)

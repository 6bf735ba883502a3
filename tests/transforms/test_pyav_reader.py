from __future__ import annotations

import numpy as np
import pytest
import soxr

from tests.audio_files import sine, write_pyav, write_soundfile
from tests.decoding import check_content, damaged, decode
from transforms.readers import AudioInfo, DecodeWarning

# What a file holds more than was put in, in frames: a codec's delay and padding.
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


def test_eight_planes_of_pyav(tmp_path):
    original = sine(0.5, channels=8)
    path = write_pyav(tmp_path / "a", original, 44_100, "wv", "wavpack")
    np.testing.assert_allclose(decode(path)[0], original, atol=1e-4)


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


def test_ffmpeg_says_nothing_on_stderr(tmp_path, capfd):
    path = write_pyav(tmp_path / "a", sine(2.0), 44_100, "ipod", "aac")
    damaged(path, lambda b: b[:3_000] + bytes(2_000) + b[5_000:])
    decode(path)
    assert capfd.readouterr().err == ""

from __future__ import annotations

import numpy as np
import pytest
import soundfile as sf

from tests.audio_files import noise
from transforms import sound_file
from transforms.errors import Reason, StageError
from transforms.sound_file import SoundWriter, check_fits, quantised


def write(path, samples, kind="flac", bits=24, rate=44_100, frames=None):
    with SoundWriter(
        path, kind, bits, sample_rate_hz=rate, channels=samples.shape[1],
        frames=len(samples) if frames is None else frames,
    ) as writer:  # fmt: skip
        for start in range(0, len(samples), 5_000):
            writer.write(samples[start : start + 5_000])
    return writer


@pytest.mark.parametrize("bits", [16, 24])
def test_integers_come_out_as_they_were_read(bits):
    step = 1 << (32 - bits)
    limit = 1 << (bits - 1)
    integers = np.array([0, 1, -1, limit - 1, -limit, 12_345], np.int64)
    floats = (integers / limit).astype(np.float32)
    found, beyond = quantised(floats, bits)
    assert (found // step).tolist() == integers.tolist()
    assert beyond == 0


@pytest.mark.parametrize("bits", [16, 24])
def test_what_is_over_full_scale_is_limited_and_counted(bits):
    found, beyond = quantised(np.array([1.0, 1.5, -1.0, -1.5, 1e9, -1e9], np.float32), bits)
    largest, smallest = (2**31 - 1) >> (32 - bits) << (32 - bits), -(2**31)
    assert found.tolist() == [largest, largest, smallest, smallest, largest, smallest]
    assert beyond == 5


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_a_file_holds_what_was_written(tmp_path, kind, bits, channels):
    samples = noise(0.5, 44_100, channels)
    writer = write(tmp_path / f"a.{kind}", samples, kind, bits)
    found, rate = sf.read(tmp_path / f"a.{kind}", dtype="float32", always_2d=True)
    assert rate == 44_100
    assert np.abs(found - samples).max() <= 0.5001 / (1 << (bits - 1))
    assert writer.clipped == 0
    info = sf.info(tmp_path / f"a.{kind}")
    assert info.subtype == f"PCM_{bits}"
    assert info.format == ("FLAC" if kind == "flac" else "WAVEX" if channels > 2 else "WAV")


@pytest.mark.parametrize("rate", [1_000, 8_000, 44_099, 65_535, 192_000, 352_800, 655_350])
def test_flac_takes_every_rate_up_to_its_limit(tmp_path, rate):
    write(tmp_path / "a.flac", noise(0.1, 8_000, 2), rate=rate)
    assert sf.info(tmp_path / "a.flac").samplerate == rate


@pytest.mark.parametrize(("rate", "channels"), [(655_360, 1), (100_001, 2), (44_100, 9)])
def test_what_flac_cannot_hold_is_said_with_the_remedy(tmp_path, rate, channels):
    with pytest.raises(StageError, match=r"use --format=wav") as caught:
        check_fits("flac", rate, channels)
    assert caught.value.reason is Reason.UNSUPPORTED_OUTPUT
    write(tmp_path / "a.wav", noise(0.1, 8_000, channels), "wav", rate=rate)


def test_a_wav_too_large_for_its_header_is_an_rf64(tmp_path, monkeypatch):
    samples = noise(0.5, 44_100, 2)
    monkeypatch.setattr(sound_file, "_WAV_BYTES", 1_000)
    write(tmp_path / "a.wav", samples, "wav")
    assert sf.info(tmp_path / "a.wav").format == "RF64"
    assert len(sf.read(tmp_path / "a.wav")[0]) == len(samples)


def test_an_empty_file(tmp_path):
    write(tmp_path / "a.wav", noise(0.0, 8_000, 1), "wav")
    assert sf.info(tmp_path / "a.wav").frames == 0


@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_a_file_that_is_not_whole_is_no_file(tmp_path, kind):
    with pytest.raises(OSError, match=r"No space left|too large"):
        write(tmp_path / "a", noise(0.5, 8_000, 1), kind, frames=4_001)


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_a_full_disk_is_told(kind):
    with pytest.raises(OSError, match="No space left"):
        write(sound_file.Path("/dev/full"), noise(20.0, 44_100, 2), kind)


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "no" / "a.flac", noise(0.1, 8_000, 1))

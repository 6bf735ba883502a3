from __future__ import annotations

import librosa
import numpy as np
import pytest

from tests.audio_files import noise, sine
from transforms.griffin_lim import from_log_mel, heard_through_log_mel, to_log_mel

RATE_HZ = 8_000  # the least squares take their time


def test_the_log_mel_is_librosa_s():
    sound = sine(1.0, RATE_HZ, 1)[:, 0]
    mel = librosa.feature.melspectrogram(y=sound, sr=RATE_HZ, n_fft=2048, hop_length=512)
    expected = librosa.power_to_db(mel, ref=1.0, top_db=80.0)
    np.testing.assert_allclose(to_log_mel(sound, RATE_HZ), expected, atol=1e-4)


def test_what_is_heard_has_the_log_mel_it_was_made_of():
    sound = (sine(1.0, RATE_HZ, 1) + noise(1.0, RATE_HZ, 1))[:, 0]
    log_mel = to_log_mel(sound, RATE_HZ)
    heard = from_log_mel(log_mel, RATE_HZ, len(sound))
    assert heard.shape == sound.shape
    assert heard.dtype == np.float32
    assert np.median(np.abs(to_log_mel(heard, RATE_HZ) - log_mel)) < 3  # decibels


def test_the_same_input_gives_the_same_sound():
    sound = noise(0.5, RATE_HZ, 2)
    first, second = (heard_through_log_mel(sound, RATE_HZ) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_silent_channel_stays_silent():
    sound = noise(0.3, RATE_HZ, 2)
    sound[:, 1] = 0
    heard = heard_through_log_mel(sound, RATE_HZ)
    assert heard[:, 0].any()
    assert not heard[:, 1].any()


@pytest.mark.parametrize("frames", [1, 2, 700, 2_047])
def test_sound_shorter_than_a_frame(frames):
    heard = heard_through_log_mel(noise(1.0, RATE_HZ, 1)[:frames], RATE_HZ)
    assert heard.shape == (frames, 1)
    assert np.isfinite(heard).all()

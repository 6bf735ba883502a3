"""The channel rule, against librosa."""

from __future__ import annotations

import librosa
import numpy as np
import pytest

from tests.audio_files import noise
from transforms.audio.channels import to_mono


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 6, 8])
def test_mean_equals_librosa(channels):
    samples = noise(0.5, channels=channels)
    mono = to_mono(samples, "mean")
    assert (mono.shape, mono.dtype) == ((len(samples),), np.float32)
    np.testing.assert_allclose(mono, librosa.to_mono(samples.T), atol=1e-7)


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_first_channel(channels):
    samples = noise(0.5, channels=channels)
    mono = to_mono(samples, "first")
    np.testing.assert_array_equal(mono, samples[:, 0])
    assert mono.flags.c_contiguous


def test_opposite_channels_cancel_out():
    left = noise(0.1, channels=1)
    assert not to_mono(np.hstack([left, -left]), "mean").any()


def test_channels_are_left_alone():
    samples = noise(0.1, channels=8)
    to_mono(samples, "mean")
    np.testing.assert_array_equal(samples, noise(0.1, channels=8))


@pytest.mark.parametrize("rule", ["mean", "first"])
def test_one_channel_stays_bit_for_bit(rule):
    samples = noise(0.1, channels=1)
    np.testing.assert_array_equal(to_mono(samples, rule), samples[:, 0])


@pytest.mark.parametrize("rule", ["mean", "first"])
def test_no_frames(rule):
    assert to_mono(np.zeros((0, 2), np.float32), rule).shape == (0,)

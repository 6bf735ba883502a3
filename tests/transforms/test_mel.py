from __future__ import annotations

import dataclasses
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rows import FACTS
from transforms.mel import (
    MelSpectrogram,
    log_mel,
    mel_filters,
    mel_power,
    power_to_db,
    resize,
    to_image,
)
from transforms.models.front_end import PRESETS
from transforms.records import PreparedWindow, Track

# librosa says this of every signal shorter than a frame, and pads it with zeros as it should.
pytestmark = pytest.mark.filterwarnings("ignore:n_fft=.* is too large for input signal")

CCMUSIC = PRESETS["ccmusic"]
RATE = CCMUSIC.sample_rate_hz
ORIGINALS = Path(__file__).parents[2].parent / "shared" / "data" / "originals"

OTHERS = {
    "speech": dataclasses.replace(
        CCMUSIC, sample_rate_hz=8_000, n_fft=256, hop_length=80, n_mels=40, fmin_hz=50.0,
        fmax_hz=4_000.0,
    ),
    "wide": dataclasses.replace(
        CCMUSIC, sample_rate_hz=44_100, n_fft=4_096, hop_length=1_000, fmax_hz=22_050.0,
        top_db=60.0,
    ),
    "odd": dataclasses.replace(
        CCMUSIC, n_fft=1_000, hop_length=333, n_mels=37, fmin_hz=30.0, fmax_hz=9_999.0, top_db=100.0
    ),
}  # fmt: skip


def librosa_mel(samples, front_end):
    return librosa.feature.melspectrogram(
        y=samples,
        sr=front_end.sample_rate_hz,
        n_fft=front_end.n_fft,
        hop_length=front_end.hop_length,
        n_mels=front_end.n_mels,
        fmin=front_end.fmin_hz,
        fmax=front_end.fmax_hz,
    )


@pytest.mark.parametrize("name", ["ccmusic", *OTHERS])
def test_filters_equal_librosas(name):
    front_end = OTHERS.get(name, CCMUSIC)
    expected = librosa.filters.mel(
        sr=front_end.sample_rate_hz,
        n_fft=front_end.n_fft,
        n_mels=front_end.n_mels,
        fmin=front_end.fmin_hz,
        fmax=front_end.fmax_hz,
    )
    np.testing.assert_allclose(mel_filters(front_end), expected, rtol=1e-4, atol=1e-8)


def librosa_db(samples, front_end):
    mel = librosa_mel(samples, front_end)
    return librosa.power_to_db(mel, ref=np.max, top_db=front_end.top_db)


def torch_resize(image, height, width):
    # In float32 torch places its triangles to 1e-5 of a pixel only: 80 dB over a pixel show that.
    batch = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float64))[None, None]
    resized = torch.nn.functional.interpolate(
        batch, size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0, 0].numpy()


def torch_image(samples, front_end):
    """The published recipe: librosa's decibels, resized, [-top_db, 0] stretched to [-1, 1]."""
    size = front_end.image_height, front_end.image_width
    resized = torch_resize(librosa_db(samples, front_end), *size)
    return resized / (front_end.top_db / 2) + 1


def noise(length, seed=0):
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32) * np.float32(0.1)


def impulse(length):
    samples = np.zeros(length, np.float32)
    samples[length // 2] = 1.0
    return samples


SIGNALS = {
    "noise": noise(3 * RATE),
    "chirp": librosa.chirp(fmin=30, fmax=11_000, sr=RATE, duration=3.0).astype(np.float32),
    "tone": librosa.tone(440.0, sr=RATE, duration=2.0).astype(np.float32),
    "impulse": impulse(RATE),
    "faint": noise(RATE, 1) * np.float32(1e-4),
    "loud": noise(RATE, 2) * np.float32(100.0),
    "long": noise(30 * RATE + 17, 3),  # several blocks of frames
    "silence": np.zeros(RATE, np.float32),
    "a sound and silence": np.concatenate([noise(5_000, 4), np.zeros(40_000, np.float32)]),
    "one sample": np.array([0.5], np.float32),
    "two samples": np.array([0.5, -0.25], np.float32),
    "shorter than a frame": noise(1_023, 5),
    "one frame": noise(2_048, 6),
    "a hop less one": noise(512 * 7 - 1, 7),
    "a hop": noise(512 * 7, 8),
    "a prime": noise(30_011, 9),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_decibels_equal_librosa(name):
    ours, theirs = log_mel(SIGNALS[name], CCMUSIC), librosa_db(SIGNALS[name], CCMUSIC)
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("name", ["noise", "chirp", "one sample", "a prime"])
@pytest.mark.parametrize("front_end", OTHERS.values(), ids=OTHERS)
def test_other_front_ends_equal_librosa(name, front_end):
    ours, theirs = log_mel(SIGNALS[name], front_end), librosa_db(SIGNALS[name], front_end)
    assert ours.shape == theirs.shape
    # Further down float32 itself, librosa's and ours, holds no thousandth of a decibel.
    tolerance = np.where(theirs > -70, 1e-3, 1e-2)
    assert (np.abs(ours - theirs) <= tolerance).all()


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 6_000), seed=st.integers(0, 9), gain=st.sampled_from([1e-5, 0.1, 30]))
def test_any_length_equals_librosa(length, seed, gain):
    samples = noise(length, seed) * np.float32(gain)
    ours, theirs = log_mel(samples, CCMUSIC), librosa_db(samples, CCMUSIC)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("genre", ["classical", "electronic", "pop", "rock"])
def test_real_tracks_equal_librosa(genre):
    tracks = sorted(ORIGINALS.glob(f"{genre}/*.mp3"))
    if not tracks:
        pytest.skip("no real tracks beside this checkout (shared/data/originals)")
    samples, rate = sf.read(tracks[0], start=44_100 * 20, frames=44_100 * 30, dtype="float32")
    mono = librosa.resample(librosa.to_mono(samples.T), orig_sr=rate, target_sr=RATE)
    assert len(mono) == 30 * RATE
    np.testing.assert_allclose(log_mel(mono, CCMUSIC), librosa_db(mono, CCMUSIC), atol=1e-3)
    # A thousandth of a decibel is this much of the image.
    image = to_image(mono, CCMUSIC)
    np.testing.assert_allclose(image, torch_image(mono, CCMUSIC), atol=1e-3 / 40)


def librosa_full_scale(samples, front_end):
    decibels = librosa.power_to_db(librosa_mel(samples, front_end), ref=1.0, top_db=None)
    return np.maximum(decibels, -front_end.top_db)


FULL_SCALE = {
    "ccmusic": CCMUSIC.changed(reference="full_scale"),
    **{name: front_end.changed(reference="full_scale") for name, front_end in OTHERS.items()},
}


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("front_end", FULL_SCALE.values(), ids=FULL_SCALE)
def test_decibels_over_full_scale_equal_librosa(name, front_end):
    ours = log_mel(SIGNALS[name], front_end)
    theirs = librosa_full_scale(SIGNALS[name], front_end)
    assert (ours.dtype, ours.shape) == (np.float32, theirs.shape)
    # What lies further under its loudest band is float32's rounding, librosa's and ours.
    sound = theirs > theirs.max() - 70
    np.testing.assert_allclose(ours[sound], theirs[sound], atol=1e-3)
    powers = [10 ** (decibels.astype(np.float64) / 10) for decibels in (ours, theirs)]
    np.testing.assert_allclose(*powers, rtol=1e-3, atol=1e-10 * powers[1].max())


def test_image_over_full_scale():
    # Without a resize: the floor is -1, a power of 1 is 1, and more than that is not clipped.
    front_end = FULL_SCALE["ccmusic"].changed(image_height=128, image_width=44)
    image = to_image(SIGNALS["loud"], front_end)
    decibels = librosa_full_scale(SIGNALS["loud"], front_end)
    np.testing.assert_allclose(image, decibels * 2 / 80 + 1, atol=1e-3 / 40)
    assert image.max() > 1
    np.testing.assert_array_equal(to_image(SIGNALS["silence"], front_end), -np.ones((128, 44)))


def test_a_frame_over_full_scale_does_not_know_what_comes_later():
    front_end = FULL_SCALE["ccmusic"]
    quiet = noise(RATE) * np.float32(0.01)
    loud = np.concatenate([quiet[: RATE // 2], noise(RATE // 2, 1)])
    before = (RATE // 2 - 1_024) // 512  # frames are centred: half of one looks ahead
    pair = [log_mel(samples, front_end)[:, :before] for samples in (quiet, loud)]
    np.testing.assert_array_equal(*pair)


def test_power_equals_librosa_before_the_logarithm():
    ours, theirs = mel_power(SIGNALS["noise"], CCMUSIC), librosa_mel(SIGNALS["noise"], CCMUSIC)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_a_view_with_strides_is_read_like_a_copy():
    samples = noise(2 * RATE)[::2]
    np.testing.assert_array_equal(
        log_mel(samples, CCMUSIC), log_mel(np.ascontiguousarray(samples), CCMUSIC)
    )


def test_input_is_left_alone():
    samples = noise(RATE)
    to_image(samples, CCMUSIC)
    np.testing.assert_array_equal(samples, noise(RATE))


@pytest.mark.parametrize(
    ("power", "decibels"),
    [
        ([1.0, 0.1, 0.01], [0, -10, -20]),
        ([1e-3, 1.0], [-30, 0]),
        ([1.0, 1e-9], [0, -80]),  # 90 under the peak is raised to top_db
        ([1.0, 0.0], [0, -80]),
        ([0.0, 0.0], [0, 0]),
        ([1e-12, 1e-11], [0, 0]),  # both under librosa's floor of 1e-10
        ([1e-10, 1e-8], [-20, 0]),
        ([5.0], [0]),
    ],
)
def test_decibels_by_hand(power, decibels):
    found = power_to_db(np.array(power, np.float32), 80.0)
    np.testing.assert_allclose(found, decibels, atol=1e-4)
    theirs = librosa.power_to_db(np.array(power, np.float32), ref=np.max, top_db=80.0)
    np.testing.assert_allclose(found, theirs, atol=1e-4)


# Resizing

SIZES = [
    (128, 1_292, 224, 224),  # thirty seconds of the published recipe
    (128, 87, 224, 224),
    (128, 1, 224, 224),
    (1, 1, 224, 224),
    (1, 5, 3, 2),
    (128, 224, 224, 224),
    (224, 100, 224, 224),
    (224, 224, 224, 224),
    (448, 448, 224, 224),
    (128, 10_337, 224, 224),  # a whole track
    (37, 53, 41, 29),
    (7, 9, 1, 1),
    (2, 2, 3, 3),
    (3, 3, 2, 2),
    (5, 1_000, 6, 999),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resize_equals_torch(size):
    rows, columns, height, width = size
    image = np.random.default_rng(0).uniform(-80, 0, (rows, columns)).astype(np.float32)
    ours = resize(image, height, width)
    assert ours.shape == (height, width)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    np.testing.assert_allclose(ours, torch_resize(image, height, width), atol=2e-4)


side = st.integers(1, 300)


@settings(max_examples=60, deadline=None)
# Not to one column: torch (2.13) fills that with its first value, whatever is below.
@given(rows=side, columns=side, height=side, width=st.integers(2, 300))
def test_any_resize_equals_torch(rows, columns, height, width):
    image = np.random.default_rng(0).uniform(-80, 0, (rows, columns)).astype(np.float32)
    expected = torch_resize(image, height, width)
    np.testing.assert_allclose(resize(image, height, width), expected, atol=2e-4)


# The image


@pytest.mark.parametrize("name", SIGNALS)
def test_image_equals_the_recipe(name):
    image = to_image(SIGNALS[name], CCMUSIC)
    assert (image.shape, image.dtype) == ((224, 224), np.float32)
    np.testing.assert_allclose(image, torch_image(SIGNALS[name], CCMUSIC), atol=1e-3 / 40)
    assert image.min() >= -1 - 1e-6
    assert image.max() <= 1 + 1e-6


@pytest.mark.parametrize(("height", "width"), [(64, 300), (300, 64), (128, 87)])
def test_image_is_of_the_front_ends_size(height, width):
    front_end = dataclasses.replace(CCMUSIC, image_height=height, image_width=width)
    image = to_image(SIGNALS["tone"], front_end)
    assert image.shape == (height, width)
    np.testing.assert_allclose(image, torch_image(SIGNALS["tone"], front_end), atol=1e-3 / 40)


def test_low_frequencies_come_first():
    low, high = (librosa.tone(hz, sr=RATE, duration=1.0).astype(np.float32) for hz in (100, 6_000))
    rows = [to_image(tone, CCMUSIC).mean(axis=1).argmax() for tone in (low, high)]
    assert rows[0] < 20
    assert rows[1] > 180


# The stage


def prepared(samples, index=0):
    return PreparedWindow(Track("a.mp3"), index, 2.0 * index, 2.0 * index + 2, 1.5, samples)


def test_stage():
    last = dataclasses.replace(prepared(SIGNALS["tone"], 3), facts=FACTS)
    windows = [last, prepared(SIGNALS["silence"], 0)]
    result = windows | MelSpectrogram(CCMUSIC)
    by_index = {window.window_index: window for window in result["windows"]}
    assert result["failures"] == []
    assert sorted(by_index) == [0, 3]
    window = by_index[3]
    assert (window.facts, by_index[0].facts) == (FACTS, None)
    assert (window.uri, window.start_s, window.end_s, window.content_s) == ("a.mp3", 6.0, 8.0, 1.5)
    np.testing.assert_allclose(window.image, torch_image(SIGNALS["tone"], CCMUSIC), atol=1e-3 / 40)
    assert np.all(by_index[0].image == 1.0)  # silence is all at its own peak


def test_what_cannot_be_converted_fails_alone():
    windows = [prepared(np.zeros((3, 2), np.float32), 1), prepared(SIGNALS["tone"], 2)]
    result = windows | MelSpectrogram(CCMUSIC)
    assert [window.window_index for window in result["windows"]] == [2]
    (failure,) = result["failures"]
    assert (failure.track.uri, failure.stage) == ("a.mp3", "MelSpectrogram")
    assert failure.reason == "internal_error"


def test_nothing_in_nothing_out():
    result = [] | MelSpectrogram(CCMUSIC)
    assert result["windows"] == result["failures"] == []

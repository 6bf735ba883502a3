"""Enhancing a recording: exact where the mask is one, however it comes cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.audio_files import noise, sine
from tests.enhanced import make_16khz_enhancer
from transforms import track_enhancer
from transforms.models.enhancer import Enhancer, SpectrumFrontEnd, load_enhancer
from transforms.preprocess import spectral_gate
from transforms.segments import Segments
from transforms.track_enhancer import (
    InTurn,
    ModelEnhancer,
    Unchanged,
    gate,
    in_segments,
    make_enhancer,
)

RATES_HZ = [8_000, 16_000, 22_050, 44_100, 48_000]


class Constant:
    """A mask of one value; of another for the bins from ``split`` on."""

    def __init__(self, value: float, above: float | None = None, split: int = 0) -> None:
        self._values = value, value if above is None else above
        self._split = split

    def initial_state(self, batch: int = 1) -> dict[str, np.ndarray]:
        return {}

    def step(self, frames, state):
        mask = np.full(frames.shape, self._values[0], np.float32)
        mask[:, :, self._split :] = self._values[1]
        return mask, {}


def constant(value: float, *more: float) -> Enhancer:
    return Enhancer(Constant(value, *more), SpectrumFrontEnd())


def enhanced_blocks(enhancer, blocks):
    """Pass blocks of (frames, channels) through an enhancer, to its end."""
    for block in blocks:
        yield enhancer.step(block)
    yield enhancer.finish()


def enhanced(model: Enhancer, samples: np.ndarray, rate: int, cuts=()) -> np.ndarray:
    enhancer = ModelEnhancer(model, rate, samples.shape[1])
    return np.concatenate(list(enhanced_blocks(enhancer, iter(np.split(samples, sorted(cuts))))))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_16khz_enhancer(tmp_path_factory.mktemp("enhancer") / "small")


@pytest.fixture(scope="module")
def model(checkpoint) -> Enhancer:
    return load_enhancer(str(checkpoint))


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [1_000, *RATES_HZ, 192_000])
def test_a_mask_of_one_gives_the_recording(rate, channels):
    samples = noise(1.3, rate, channels) + sine(1.3, rate, channels)
    found = enhanced(constant(1.0), samples, rate, cuts=[7, 1_000])
    assert found.shape == samples.shape
    assert found.dtype == np.float32
    assert np.abs(found - samples).max() < 1e-6


@pytest.mark.parametrize("frames", [0, 1, 2, 100, 513])
@pytest.mark.parametrize("rate", [1_000, *RATES_HZ, 6_144_000])
def test_very_short_recordings_keep_their_length(rate, frames):
    samples = noise(1.0, 8_000, 2)[:frames]
    found = enhanced(constant(1.0), samples, rate)
    assert found.shape == samples.shape
    assert np.abs(found - samples).max(initial=0) < 1e-6


@pytest.mark.parametrize("hz", [300, 5_000, 15_000, 21_000])
def test_one_gain_for_all_is_one_for_what_the_model_cannot_hear_too(hz):
    samples = sine(1.0, 44_100, 1, hz)
    found = enhanced(constant(0.25), samples, 44_100)
    inner = slice(4_410, -4_410)
    assert np.abs(found - samples / 4)[inner].max() < 1e-4


@pytest.mark.parametrize(("hz", "gain"), [(1_000, 1.0), (15_000, 0.1)])
def test_treble_has_the_gain_of_the_highest_bins(hz, gain):
    model = constant(1.0, 0.1, 192)
    samples = sine(1.0, 44_100, 1, hz)
    found = enhanced(model, samples, 44_100)
    inner = slice(4_410, -4_410)
    assert np.abs(found - gain * samples)[inner].max() < 1e-3


def test_at_its_own_rate_it_is_the_model_alone(model):
    samples = noise(1.0, 16_000, 2)
    expected, _ = model.enhance(samples.T)
    np.testing.assert_allclose(enhanced(model, samples, 16_000), expected.T, atol=1e-6)


def test_channels_do_not_touch_each_other(model):
    samples = noise(0.5, 44_100, 3)
    alone = [enhanced(model, samples[:, [channel]], 44_100) for channel in range(3)]
    found = enhanced(model, samples, 44_100)
    np.testing.assert_allclose(found, np.concatenate(alone, axis=1), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    rate=st.sampled_from(RATES_HZ),
    channels=st.sampled_from([1, 2]),
    frames=st.integers(0, 12_000),
    cuts=st.lists(st.integers(0, 12_000), max_size=6),
)
def test_any_cut_gives_the_same(model, rate, channels, frames, cuts):
    samples = noise(2.0, 8_000, channels)[:frames]
    whole = enhanced(model, samples, rate)
    found = enhanced(model, samples, rate, [min(cut, frames) for cut in cuts])
    assert found.shape == whole.shape == samples.shape
    assert np.abs(found - whole).max(initial=0) < 1e-6


def test_silence_stays_silence(model):
    samples = np.zeros((44_100, 2), np.float32)
    assert not enhanced(model, samples, 44_100).any()


@pytest.mark.parametrize("rate", [1_000, 8_000, 44_100, 192_000])
def test_what_waits_is_bounded(model, rate):
    """Less than half a second of the recording, or 2,000 frames, whatever its length."""
    enhancer = ModelEnhancer(model, rate, 1)
    waited = 0
    for _ in range(40):
        enhancer.step(noise(0.25, rate, 1))
        waited = max(waited, len(enhancer._waiting))
        assert len(enhancer._low) <= 512
    assert waited < max(0.5 * rate, 2_000)


def test_long_blocks_of_a_low_rate_are_taken_in_pieces(model, monkeypatch):
    samples = noise(10.0, 1_000, 1)
    longest = []
    step = Enhancer.step

    def seen(self, low, state):
        longest.append(low.shape[1])
        return step(self, low, state)

    monkeypatch.setattr(Enhancer, "step", seen)
    enhanced(model, samples, 1_000)
    assert max(longest) <= 4.5 * 16_000


def test_the_caller_may_write_over_what_it_gave():
    samples = noise(0.5, 44_100, 1)
    enhancer, block = ModelEnhancer(constant(1.0), 44_100, 1), samples.copy()
    first = enhancer.step(block)
    block[:] = 9
    found = np.concatenate([first, enhancer.finish()])
    assert np.abs(found - samples).max() < 1e-6


def test_the_spectral_gate_is_that_of_preprocessing():
    samples = noise(1.0, 22_050, 2) + sine(1.0, 22_050, 2)
    found = np.concatenate(list(enhanced_blocks(gate(22_050, 2), iter(np.array_split(samples, 4)))))
    for channel in range(2):
        expected = spectral_gate(np.ascontiguousarray(samples[:, channel]), 22_050)
        np.testing.assert_array_equal(found[:, channel], expected)


def test_segments_are_bounded_by_samples_too():
    assert in_segments(lambda s: s, 44_100, 2)._segment == 30 * 44_100
    assert in_segments(lambda s: s, 6_144_000, 64)._segment == 1 << 18
    assert in_segments(lambda s: s, 1_000, 1)._segment == 30_000


@pytest.mark.parametrize(
    ("method", "reconstruct", "kind"),
    [
        ("model", "phase", ModelEnhancer),
        ("spectral_gate", "phase", Segments),
        ("none", "phase", Unchanged),
        ("none", "griffin_lim", InTurn),
        ("model", "griffin_lim", InTurn),
    ],
)
def test_every_method(model, method, reconstruct, kind):
    samples = noise(0.4, 8_000, 2)
    enhancer = make_enhancer(method, reconstruct, 8_000, 2, lambda: model)
    assert type(enhancer) is kind
    found = np.concatenate(list(enhanced_blocks(enhancer, iter(np.array_split(samples, 3)))))
    assert found.shape == samples.shape
    assert np.isfinite(found).all()
    if (method, reconstruct) == ("none", "phase"):
        np.testing.assert_array_equal(found, samples)


def test_griffin_lim_comes_behind_the_method(monkeypatch):
    """Of what the model left, not of the recording."""
    monkeypatch.setattr(track_enhancer, "heard_through_log_mel", lambda s, sample_rate_hz: -s)
    samples = noise(0.4, 8_000, 1)
    enhancer = make_enhancer("model", "griffin_lim", 8_000, 1, lambda: constant(1.0))
    found = np.concatenate(list(enhanced_blocks(enhancer, iter([samples]))))
    assert np.abs(found + samples).max() < 1e-6


def test_a_model_is_asked_for_by_the_method_of_that_name_alone():
    def none() -> Enhancer:
        raise AssertionError

    for method in ("none", "spectral_gate"):
        make_enhancer(method, "phase", 8_000, 1, none)

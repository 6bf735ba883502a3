from __future__ import annotations

import dataclasses
import pickle
import shutil
import tracemalloc

import numpy as np
import pytest

from tests.audio_files import noise, sine
from tests.checkpoints import make_enhancer, make_recogniser, tiny_front_end
from tests.placeholder_mask import ConstantMask
from transforms import denoise
from transforms.denoise import Denoiser, enhanced_window, find_denoiser
from transforms.errors import CheckpointError, FrontEndError, WorkerError
from transforms.models.checkpoint import fingerprint_of
from transforms.models.enhancer import Enhancer, SpectrumFrontEnd
from transforms.preprocess import Preprocess, prepare
from transforms.records import AudioWindow, Track

FRONT_END = SpectrumFrontEnd(sample_rate_hz=8_000, n_fft=128, hop_length=64)
RATES = [4_000, 8_000, 11_025, 22_050, 44_100]


def with_mask(value) -> Enhancer:
    return Enhancer(ConstantMask(value, FRONT_END.bins), FRONT_END)


def sound(rate, seconds=0.7):
    return noise(seconds, rate, 1, 3)[:, 0]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("gain", [1.0, 0.5, 0.0])
def test_one_gain_for_all_frequencies_is_a_gain(rate, gain):
    samples = sound(rate)
    denoised = enhanced_window(samples, rate, with_mask(gain))
    assert (denoised.shape, denoised.dtype) == (samples.shape, np.float32)
    # The very ends ring where a gain begins and ends at once.
    inside = slice(None) if gain == 1.0 or rate == 8_000 else slice(rate // 20, -rate // 20)
    np.testing.assert_allclose(denoised[inside], gain * samples[inside], atol=2e-6)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 63, 64, 127, 128, 1_000])
def test_any_length_comes_back_through_a_mask_of_one(rate, length):
    samples = sound(rate)[:length]
    denoised = enhanced_window(samples, rate, with_mask(1.0))
    assert denoised.shape == (length,)
    np.testing.assert_allclose(denoised, samples, atol=2e-6)


def test_what_the_model_does_not_hear_gets_the_gain_of_its_highest_frequencies():
    low, high = (sine(1.0, 44_100, 1, hz)[:, 0] for hz in (440.0, 9_000.0))
    mask = np.ones(FRONT_END.bins)
    mask[48:] = 0.0  # over 3 kHz
    denoised = enhanced_window(low + high, 44_100, with_mask(mask))
    inside = slice(4_410, -4_410)
    np.testing.assert_allclose(denoised[inside], low[inside], atol=1e-3)


def test_silence_stays():
    silence = np.zeros(10_000, np.float32)
    np.testing.assert_array_equal(enhanced_window(silence, 22_050, with_mask(0.3)), silence)


def test_a_window_is_enhanced_from_the_zero_state(tmp_path):
    denoiser = find_denoiser(str(make_enhancer(tmp_path)))
    first = enhanced_window(sound(22_050), 22_050, denoiser.load())
    enhanced_window(sound(22_050)[::-1].copy(), 22_050, denoiser.load())
    again = enhanced_window(sound(22_050), 22_050, denoiser.load())
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - sound(22_050)).max() > 1e-2


def test_a_long_window_in_pieces_equals_the_whole(tmp_path, monkeypatch):
    enhancer = find_denoiser(str(make_enhancer(tmp_path))).load()
    samples = sound(22_050, 9.0)  # pieces of 4, 4 and 1 s
    found = enhanced_window(samples, 22_050, enhancer)
    monkeypatch.setattr(denoise, "_PIECE_SECONDS", 100)
    np.testing.assert_allclose(found, enhanced_window(samples, 22_050, enhancer), atol=2e-6)


def test_memory_is_that_of_some_copies_of_the_samples():
    samples = sound(8_000, 300.0)
    enhancer = with_mask(0.5)
    enhanced_window(samples[:8_000], 8_000, enhancer)  # what is imported on the way
    tracemalloc.start()
    try:
        enhanced_window(samples, 8_000, enhancer)
        assert tracemalloc.get_traced_memory()[1] < 10 * samples.nbytes
    finally:
        tracemalloc.stop()


# Which enhancer


@pytest.mark.parametrize("method", [None, "none", "spectral_gate"])
def test_a_method_is_no_enhancer(method):
    assert find_denoiser(method) is None


def test_an_enhancer_is_known_by_its_content_not_its_path(tmp_path, monkeypatch):
    folder = make_enhancer(tmp_path / "one")
    copy = shutil.copytree(folder, tmp_path / "two")
    found = find_denoiser(str(folder))
    assert found == Denoiser(str(folder), fingerprint_of(folder))
    assert found.setting == f"model:{fingerprint_of(folder)}"
    assert find_denoiser(str(copy)).setting == found.setting
    assert find_denoiser(str(make_enhancer(tmp_path / "three", seed=1))).setting != found.setting
    SpectrumFrontEnd(sample_rate_hz=16_000, n_fft=128, hop_length=64).save(copy)
    assert find_denoiser(str(copy)).setting != found.setting
    monkeypatch.chdir(tmp_path)
    assert find_denoiser("one") == found  # a worker may have another folder


def test_loaded_once(tmp_path):
    denoiser = find_denoiser(str(make_enhancer(tmp_path)))
    assert pickle.loads(pickle.dumps(denoiser)).load() is denoiser.load()


def test_another_one_on_a_worker_s_machine(tmp_path):
    folder = make_enhancer(tmp_path / "model")
    denoiser = find_denoiser(str(folder))
    shutil.rmtree(folder)
    with pytest.raises(WorkerError, match="all machines"):
        denoiser.load()
    make_enhancer(folder, seed=1)
    with pytest.raises(WorkerError, match=f"{denoiser.fingerprint} where"):
        denoiser.load()
    make_enhancer(folder, front_end=SpectrumFrontEnd(n_fft=128, hop_length=32))
    with pytest.raises(WorkerError, match=f"{denoiser.fingerprint} where"):
        denoiser.load()


def test_what_does_not_enhance(tmp_path, tiny_checkpoint):
    with pytest.raises(FrontEndError, match="--denoise=rnnoise: neither none nor spectral_gate"):
        find_denoiser("rnnoise")
    with pytest.raises(CheckpointError, match="model_type is 'vit'"):
        find_denoiser(str(tiny_checkpoint))
    recogniser = make_recogniser(tmp_path / "recogniser")
    with pytest.raises((CheckpointError, FrontEndError), match="recogniser"):
        find_denoiser(str(recogniser))


# In Preprocess


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return find_denoiser(str(make_enhancer(tmp_path_factory.mktemp("enhancer"))))


def window():
    return AudioWindow(Track("a.wav"), 0, 0.0, 1.6, 22_050, 0, noise(1.6, 22_050, 1, 0))


def test_the_stage_enhances(denoiser):
    front_end = tiny_front_end(remove_dc=True, denoise=denoiser.setting)
    plain = prepare(window(), front_end.changed(denoise="none"))
    expected = enhanced_window(plain.samples[:35_280], 22_050, denoiser.load())
    (found,) = ([window()] | Preprocess(front_end, denoiser))["windows"]
    assert (found.content_s, len(found.samples)) == (plain.content_s, 44_100)
    np.testing.assert_array_equal(found.samples[:35_280], expected)
    assert not found.samples[35_280:].any()


def test_digital_silence_is_still_known(denoiser):
    front_end = tiny_front_end(denoise=denoiser.setting)
    silence = dataclasses.replace(window(), samples=np.zeros((35_280, 1), np.float32))
    (found,) = ([silence] | Preprocess(front_end, denoiser))["windows"]
    assert found.content_s == 0.0
    assert not found.samples.any()


def test_the_front_end_and_the_denoiser_are_of_one_mind(denoiser):
    other = Denoiser(denoiser.model, "0123456789abcdef")
    for front_end, given in [
        (tiny_front_end(denoise=denoiser.setting), None),
        (tiny_front_end(denoise=denoiser.setting), other),
        (tiny_front_end(), denoiser),
        (tiny_front_end(denoise="spectral_gate"), denoiser),
    ]:
        with pytest.raises(FrontEndError, match="Preprocess: the front end's denoise is"):
            Preprocess(front_end, given)

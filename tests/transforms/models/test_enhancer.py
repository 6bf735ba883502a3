from __future__ import annotations

import json

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import edit_config, make_enhancer, make_recogniser
from tests.placeholder_mask import ConstantMask, CountingMask
from transforms.errors import CheckpointError, FrontEndError, WorkerError
from transforms.models.checkpoint import fingerprint_of
from transforms.models.enhancer import (
    Enhancer,
    SpectrumFrontEnd,
    analysis_window,
    load_enhancer,
    load_same_enhancer,
    load_spectrum_front_end,
    log_magnitudes,
    overlap_add,
    spectra,
)
from transforms.models.front_end import FRONT_END_FILE
from transforms.models.sequence import CELLS, state_from_bytes, state_to_bytes

FRONT_ENDS = {hop: SpectrumFrontEnd(hop_length=hop) for hop in (256, 128)}
SMALL = SpectrumFrontEnd(sample_rate_hz=8_000, n_fft=64, hop_length=16)


def noise(streams, samples, seed=0):
    rng = np.random.default_rng(seed)
    return (0.3 * rng.standard_normal((streams, samples))).astype(np.float32)


def masked(value, front_end=SMALL):
    return Enhancer(ConstantMask(value, front_end.bins), front_end)


# Windows and frames


@pytest.mark.parametrize(("n_fft", "hop"), [(512, 256), (512, 128), (512, 64), (64, 32), (2, 1)])
def test_squared_windows_overlap_to_one(n_fft, hop):
    window = analysis_window(SpectrumFrontEnd(n_fft=n_fft, hop_length=hop))
    assert (window.shape, window.dtype) == ((n_fft,), np.float32)
    np.testing.assert_allclose((window**2).reshape(-1, hop).sum(axis=0), 1.0, atol=1e-6)


@pytest.mark.parametrize("hop", FRONT_ENDS)
def test_spectra_are_librosas(hop):
    front_end, samples = FRONT_ENDS[hop], noise(2, 3_000)
    window = np.sqrt(librosa.filters.get_window("hann", 512) * 2 * hop / 512)
    for stream, found in zip(samples, spectra(samples, front_end), strict=True):
        expected = librosa.stft(stream, n_fft=512, hop_length=hop, window=window, center=False)
        np.testing.assert_allclose(found, expected.T, atol=1e-4)


def test_log_magnitudes():
    found = log_magnitudes(np.array([1.0, -10.0, 100j, 0.0, 1e-9]))
    np.testing.assert_allclose(found, [0, 1, 2, -5, -5])


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 9), parts=st.integers(1, 4), hop=st.integers(1, 5))
def test_overlap_add_equals_adding_one_by_one(count, parts, hop):
    rng, n_fft = np.random.default_rng(0), parts * hop
    frames, tail = rng.normal(size=(2, count, n_fft)), rng.normal(size=(2, n_fft - hop))
    expected = np.zeros((2, count * hop + n_fft - hop))
    expected[:, : n_fft - hop] = tail
    for index in range(count):
        expected[:, index * hop : index * hop + n_fft] += frames[:, index]
    finished, left = overlap_add(frames, tail, hop)
    assert (finished.shape, left.shape) == ((2, count * hop), (2, n_fft - hop))
    np.testing.assert_allclose(np.concatenate([finished, left], axis=1), expected)


# Enhancement


@pytest.mark.parametrize("hop", FRONT_ENDS)
@pytest.mark.parametrize("length", [0, 1, 255, 256, 511, 512, 513, 5_000])
def test_a_mask_of_one_gives_the_samples_back(hop, length):
    samples = noise(3, length)
    enhanced, gain = masked(1.0, FRONT_ENDS[hop]).enhance(samples)
    assert enhanced.shape == gain.shape == samples.shape
    assert enhanced.dtype == np.float32
    np.testing.assert_allclose(enhanced, samples, atol=1e-6)
    np.testing.assert_allclose(gain, 1.0, atol=1e-6)


@pytest.mark.parametrize("hop", FRONT_ENDS)
@pytest.mark.parametrize("value", [0.0, 0.25, 0.5])
def test_a_constant_mask_is_a_gain(hop, value):
    samples = noise(2, 3_000)
    enhanced, gain = masked(value, FRONT_ENDS[hop]).enhance(samples)
    np.testing.assert_allclose(enhanced, value * samples, atol=1e-6)
    np.testing.assert_allclose(gain, value, atol=1e-6)


def test_the_treble_gain_is_that_of_the_highest_quarter():
    mask = np.zeros(SMALL.bins)
    mask[24:] = np.linspace(0.2, 1.0, 9)
    _, gain = masked(mask).enhance(noise(1, 500))
    np.testing.assert_allclose(gain, 0.6, atol=1e-6)


def test_a_mask_takes_out_its_frequencies_alone():
    time = np.arange(8_000) / 8_000
    low, high = (np.sin(2 * np.pi * hz * time).astype(np.float32)[None] for hz in (500, 3_000))
    mask = (np.arange(SMALL.bins) < 16).astype(np.float32)
    enhanced, _ = masked(mask).enhance(low + high)
    np.testing.assert_allclose(enhanced[:, 100:-100], low[:, 100:-100], atol=1e-2)


def stepped(enhancer, samples, cuts):
    state, parts = enhancer.initial_state(len(samples)), []
    for first, last in zip([0, *cuts], [*cuts, samples.shape[1]], strict=True):
        enhanced, gain, state = enhancer.step(samples[:, first:last], state)
        parts.append(np.stack([enhanced, gain]))
        state = state_from_bytes(state_to_bytes(state))
    parts.append(np.stack(enhancer.finish(state)))
    return np.concatenate(parts, axis=2)


cut_sounds = st.integers(0, 400).flatmap(
    lambda length: st.tuples(
        st.just(length), st.lists(st.integers(0, length), max_size=12).map(sorted)
    )
)


@settings(max_examples=80, deadline=None)
@given(cut=cut_sounds, streams=st.integers(1, 3), hop=st.sampled_from([8, 16, 32]))
def test_any_cut_equals_the_whole(cut, streams, hop):
    (length, cuts), front_end = cut, SpectrumFrontEnd(n_fft=64, hop_length=hop)
    enhancer, samples = Enhancer(CountingMask(), front_end), noise(streams, length)
    whole = np.stack(enhancer.enhance(samples))
    assert whole.shape == (2, streams, length)
    np.testing.assert_allclose(stepped(enhancer, samples, cuts), whole, atol=1e-6)


@pytest.fixture(scope="module", params=CELLS)
def loaded(request, tmp_path_factory):
    return load_enhancer(str(make_enhancer(tmp_path_factory.mktemp(request.param), request.param)))


@settings(max_examples=15, deadline=None)
@given(cut=cut_sounds)
def test_any_cut_of_a_model_equals_the_whole(loaded, cut):
    length, cuts = cut
    samples = noise(2, length)
    whole = np.stack(loaded.enhance(samples))
    np.testing.assert_allclose(stepped(loaded, samples, cuts), whole, atol=2e-6)


def test_streams_do_not_know_of_each_other(loaded):
    samples = noise(3, 1_000)
    together, _ = loaded.enhance(samples)
    for stream, expected in zip(samples, together, strict=True):
        alone, _ = loaded.enhance(stream[None])
        np.testing.assert_allclose(alone[0], expected, atol=2e-6)


def test_what_comes_later_does_not_change_what_is_finished(loaded):
    samples, other = noise(1, 1_000), noise(1, 1_000, 1)
    other[:, :600] = samples[:, :600]
    first, second = (loaded.enhance(sound)[0] for sound in (samples, other))
    np.testing.assert_allclose(first[:, : 600 - 128], second[:, : 600 - 128], atol=1e-6)
    assert np.abs(first[:, 600:] - second[:, 600:]).max() > 0.01


def test_the_delay_is_what_it_is_said_to_be():
    enhancer, state, taken, given = masked(1.0), masked(1.0).initial_state(), 0, 0
    for size in (1, 30, 17, 64, 100, 3):
        enhanced, _, state = enhancer.step(noise(1, size), state)
        taken, given = taken + size, given + enhanced.shape[1]
        assert given == 0 or SMALL.overlap <= taken - given < SMALL.n_fft


def test_a_step_changes_neither_samples_nor_state():
    samples, enhancer = noise(2, 200), masked(0.5)
    state = enhancer.initial_state(2)
    enhancer.step(samples, state)
    np.testing.assert_array_equal(samples, noise(2, 200))
    for name, array in enhancer.initial_state(2).items():
        np.testing.assert_array_equal(state[name], array)


def test_silence_stays(loaded):
    enhanced, _ = loaded.enhance(np.zeros((1, 500), np.float32))
    assert not enhanced.any()


# Loading


def test_loaded_once(tmp_path):
    folder = make_enhancer(tmp_path)
    found = load_same_enhancer(str(folder), fingerprint_of(folder))
    assert load_same_enhancer(str(folder), fingerprint_of(folder)) is found
    with pytest.raises(WorkerError, match="all machines"):
        load_same_enhancer(str(folder), "0123456789abcdef")


def test_the_fingerprint_covers_the_front_end_however_it_is_set_out(tmp_path):
    folder = make_enhancer(tmp_path)
    path, before = folder / FRONT_END_FILE, fingerprint_of(folder)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items()))))
    assert fingerprint_of(folder) == before
    path.write_text(json.dumps(content | {"hop_length": 32}))
    assert fingerprint_of(folder) != before
    with pytest.raises(WorkerError, match=f"{before} where the run was started"):
        load_same_enhancer(str(folder), before)
    for damaged in ("{", None):
        path.unlink() if damaged is None else path.write_text(damaged)
        with pytest.raises(WorkerError, match="cannot be read as JSON"):
            load_same_enhancer(str(folder), before)


def test_front_end_saved_and_loaded_is_the_same(tmp_path):
    SMALL.save(tmp_path)
    assert load_spectrum_front_end(tmp_path) == SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_fft": 513}, "even multiple"),
        ({"n_fft": 512, "hop_length": 512}, "even multiple"),
        ({"hop_length": 0}, "hop_length must not be 0"),
        ({"sample_rate_hz": 8e3}, "sample_rate_hz must not be 8000.0"),
        ({"n_fft": True}, "n_fft must not be True"),
        ({"n_fft": 8_192}, "n_fft must not be 8192"),
        ({"n_fft": 512, "hop_length": 16}, "at most 16 times hop_length 16"),
    ],
)
def test_front_end_out_of_range(change, message):
    with pytest.raises(FrontEndError, match=message):
        SpectrumFrontEnd(**change)


def test_the_largest_front_end_makes_as_many_bins_as_a_model_takes():
    assert SpectrumFrontEnd(n_fft=8_190, hop_length=4_095).bins == 4_096
    assert SpectrumFrontEnd(n_fft=512, hop_length=32).overlap == 480


@pytest.mark.parametrize(
    "content", ["{", "[]", "null", "{}", '{"feature_extractor_type": "LogMelFrontEnd"}',
                '{"feature_extractor_type": "SpectrumFrontEnd", "power": 2}'],
)  # fmt: skip
def test_what_is_no_front_end_of_an_enhancer(tmp_path, content):
    folder = make_enhancer(tmp_path)
    (folder / FRONT_END_FILE).write_text(content)
    with pytest.raises(FrontEndError, match=FRONT_END_FILE):
        load_enhancer(str(folder))


def test_no_front_end(tmp_path):
    folder = make_enhancer(tmp_path)
    (folder / FRONT_END_FILE).unlink()
    with pytest.raises(FrontEndError, match="not the front end of an enhancer"):
        load_enhancer(str(folder))


def test_what_is_no_enhancer(tmp_path, tiny_checkpoint):
    with pytest.raises(CheckpointError, match="model_type is 'vit'"):
        load_enhancer(str(tiny_checkpoint))
    with pytest.raises(CheckpointError, match="labels, it does not enhance"):
        load_enhancer(str(tiny_checkpoint))
    with pytest.raises(CheckpointError, match=r"no config\.json") as caught:
        load_enhancer(str(tmp_path / "none"))
    assert "denoise-lstm" in str(caught.value)
    assert "genre-vit" not in str(caught.value)
    recogniser = make_recogniser(tmp_path / "recogniser")
    SMALL.save(recogniser)
    with pytest.raises(CheckpointError, match="it does not enhance"):
        load_enhancer(str(recogniser))


def test_bins_that_do_not_fit(tmp_path):
    folder = make_enhancer(tmp_path)
    SpectrumFrontEnd().save(folder)
    with pytest.raises(CheckpointError, match="masks 65 bins, its front end makes 257"):
        load_enhancer(str(folder))


def test_damaged_weights(tmp_path):
    folder = make_enhancer(tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="model.safetensors"):
        load_enhancer(str(folder))


def test_config_of_another_cell_than_the_weights(tmp_path):
    folder = make_enhancer(tmp_path, "gru")
    edit_config(folder, cell="lstm")
    assert json.loads((folder / "config.json").read_text())["cell"] == "lstm"
    with pytest.raises(CheckpointError, match="not the weights of lstm"):
        load_enhancer(str(folder))

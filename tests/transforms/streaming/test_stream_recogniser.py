"""A stream in any cut against the whole recording, by other libraries' spectrogram."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import make_recogniser as save_recogniser
from tests.sequence_oracle import hidden_vectors, sigmoid
from tests.streams import front_end, make_model, make_recogniser, pieces, sound
from transforms.models.checkpoint import read_config
from transforms.models.sequence import (
    CELLS,
    SequenceModel,
    load_weights,
    settings_of,
    state_from_bytes,
    state_to_bytes,
)
from transforms.models.sequence_network import running_sums
from transforms.streaming.recogniser import Heard, StreamRecogniser
from transforms.streaming.resampling import StreamResampler, resampler

RATES = (8_000, 11_025, 16_000, 22_050, 44_100, 44_101, 48_000)
MODEL_HZ = 8_000


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def streamed(recogniser: StreamRecogniser, parts, rate: int) -> Heard:
    """All frames of a stream, whose state goes through bytes after every block."""
    state, found = recogniser.initial_state(), []
    for part in parts:
        heard, state = recogniser.step(part, rate, state)
        found.append(heard)
        state = state_from_bytes(state_to_bytes(state))
    found.append(recogniser.finish(rate, state))
    assert [heard.first for heard in found] == np.cumsum([0, *map(len, found[:-1])]).tolist()
    return Heard(
        0,
        np.concatenate([heard.scores for heard in found]),
        np.concatenate([heard.sound for heard in found]),
    )


def resampled(samples, rate: int):
    """By librosa, at the model's rate."""
    if rate == MODEL_HZ or not len(samples):
        return samples
    return librosa.resample(samples, orig_sr=rate, target_sr=MODEL_HZ, res_type="soxr_vhq")


def offline_frames(samples, rate: int):
    """(frames, n_mels), by librosa: -1 is the floor under full scale, 1 full scale."""
    whole = resampled(samples, rate)
    length = math.ceil(len(samples) * MODEL_HZ / rate)
    front = front_end()
    padded = np.zeros(length + front.n_fft, np.float32)
    padded[front.n_fft // 2 :][: min(length, len(whole))] = whole[:length]
    mel = librosa.feature.melspectrogram(
        y=padded, sr=MODEL_HZ, n_fft=front.n_fft, hop_length=front.hop_length, center=False,
        n_mels=front.n_mels, fmin=front.fmin_hz, fmax=front.fmax_hz,
    )  # fmt: skip
    decibels = librosa.power_to_db(mel, ref=1.0, top_db=None)
    return np.maximum(decibels, -front.top_db).T * 2 / front.top_db + 1


def any_cut(length: int):
    """Where a stream is cut: anywhere, often twice in a place, and in places into samples."""
    fine = st.integers(0, length).map(lambda at: list(range(at, min(length, at + 150))))
    coarse = st.lists(st.integers(0, length), max_size=12)
    return st.tuples(coarse, st.one_of(st.just([]), fine)).map(lambda both: both[0] + both[1])


@pytest.mark.parametrize("half_life_frames", [None, 20.0])
@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=20, deadline=None)
@given(data=st.data(), rate=st.sampled_from(RATES), seconds=st.floats(0.0, 1.5))
def test_any_cut_gives_what_the_whole_recording_does(cell, half_life_frames, data, rate, seconds):
    samples = sound(seconds, rate)
    cuts = data.draw(any_cut(len(samples)))
    frames = offline_frames(samples, rate)
    expected = make_model(cell, half_life_frames).forward(frames[None])[0]
    recogniser = make_recogniser(cell, half_life_frames)
    found = streamed(recogniser, pieces(samples, cuts), rate)
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-6)
    assert found.scores.dtype == np.float32
    at_once = streamed(recogniser, [samples], rate)
    np.testing.assert_array_equal(found.scores, at_once.scores)
    np.testing.assert_array_equal(found.sound, at_once.sound)


@pytest.mark.parametrize("rate", RATES)
def test_every_rate_and_single_samples(rate):
    samples = sound(0.4, rate)
    expected = make_model().forward(offline_frames(samples, rate)[None])[0]
    found = streamed(make_recogniser(), [samples], rate)
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-6)
    short = samples[: rate // 8]
    singly = streamed(make_recogniser(), list(short[:, None]), rate)
    np.testing.assert_array_equal(singly.scores, streamed(make_recogniser(), [short], rate).scores)


@pytest.mark.parametrize("cell", CELLS)
def test_the_batch_functions_give_the_same(cell):
    samples, recogniser = sound(1.3, 22_050), make_recogniser(cell)
    whole = recogniser.whole(samples, 22_050)
    found = streamed(recogniser, pieces(samples, [1, 2, 5_000]), 22_050)
    np.testing.assert_allclose(found.scores, whole.scores, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.sound, whole.sound)


@pytest.mark.parametrize("rate", [8_000, 44_100])
@pytest.mark.parametrize("length", [0, 1, 2, 127, 128, 129, 200, 255, 256, 257])
def test_a_stream_that_is_shorter_than_a_spectrum(rate, length):
    samples = sound(1.0, rate)[:length]
    expected = make_model().forward(offline_frames(samples, rate)[None])[0]
    for parts in ([samples], [samples[:0], samples, samples[:0]], list(samples[:, None])):
        found = streamed(make_recogniser(), parts, rate)
        np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-6)


def test_silence_and_where_sound_is():
    samples = np.zeros(8_000, np.float32)
    assert not streamed(make_recogniser(), [samples], 8_000).sound.any()
    samples[4_000] = 0.5
    found = streamed(make_recogniser(), [samples], 8_000)
    reached = np.abs(np.arange(63) * 128 - 4_000) < 128
    np.testing.assert_array_equal(found.sound, reached)


def test_a_state_is_not_changed():
    recogniser = make_recogniser("lstm")
    _, state = recogniser.step(sound(0.3, 44_100), 44_100, recogniser.initial_state())
    before = {name: array.copy() for name, array in state.items()}
    first, _ = recogniser.step(sound(0.2, 44_100), 44_100, state)
    for name, array in before.items():
        np.testing.assert_array_equal(state[name], array)
    again, _ = recogniser.step(sound(0.2, 44_100), 44_100, state)
    np.testing.assert_array_equal(first.scores, again.scores)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("rate", [8_000, 44_100, 44_101])
def test_a_state_does_not_grow(cell, rate):
    recogniser, state, sizes = make_recogniser(cell), None, []
    samples = sound(1.0, rate)
    state = recogniser.initial_state()
    for _ in range(12):
        _, state = recogniser.step(samples, rate, state)
        sizes.append(len(state_to_bytes(state)))
    assert max(sizes) < 1.5 * sizes[2]  # it breathes with what waits for the next piece
    assert max(sizes[6:]) <= 1.1 * max(sizes[:6])


def test_running_scores_by_hand(tmp_path):
    """In float64, frame by frame, from the file's tensors."""
    folder, half_life = save_recogniser(tmp_path / "model"), 7.0
    network = load_weights(folder, settings_of(read_config(folder)))
    recogniser = StreamRecogniser(SequenceModel(network, half_life), front_end())
    samples = sound(0.8, 16_000)
    hidden, weights = hidden_vectors(folder, offline_frames(samples, 16_000))
    sums, expected = np.zeros(34), []
    for vector in hidden:
        gate = sigmoid(vector @ weights["head.gate.weight"][0] + weights["head.gate.bias"]) + 1e-6
        sums = sums * 0.5 ** (1 / half_life) + gate * np.append(vector, 1.0)
        logits = weights["head.classifier.weight"] @ (sums[:-1] / sums[-1])
        logits = logits + weights["head.classifier.bias"]
        expected.append(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())
    found = streamed(recogniser, pieces(samples, range(0, 12_800, 777)), 16_000)
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=2e-5)


@settings(max_examples=20, deadline=None)
@given(
    frames=st.integers(1, 200),
    half_life=st.one_of(st.none(), st.floats(0.05, 1e6)),
    seed=st.integers(0, 9),
)
def test_running_sums_are_those_of_a_loop(frames, half_life, seed):
    rng = np.random.default_rng(seed)
    values, before = rng.normal(size=(2, frames, 3)), rng.normal(size=(2, 3))
    kept = 1.0 if half_life is None else 0.5 ** (1 / half_life)
    expected, sums = np.zeros_like(values), before
    for t in range(frames):
        sums = kept * sums + values[:, t]
        expected[:, t] = sums
    found = running_sums(torch.from_numpy(values), torch.from_numpy(before), kept)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


# Resampling alone


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    from_hz=st.sampled_from([*RATES, 1_000, 96_000, 44_099]),
    to_hz=st.sampled_from([8_000, 16_000, 22_050]),
    quality=st.sampled_from(["HQ", "VHQ"]),
    seconds=st.floats(0, 0.6),
)
def test_resampling_in_any_cut(data, from_hz, to_hz, quality, seconds):
    samples = sound(seconds, from_hz)
    stream = StreamResampler(from_hz, to_hz, quality)
    state, found = stream.initial_state(), []
    for part in pieces(samples, data.draw(any_cut(len(samples)))):
        made, state = stream.step(part, state)
        found += made
    found += stream.finish(state)
    length = -(-len(samples) * to_hz // from_hz)
    whole = samples
    if from_hz != to_hz and len(samples):
        setting = {"res_type": f"soxr_{quality.lower()}"}
        whole = librosa.resample(samples, orig_sr=from_hz, target_sr=to_hz, **setting)
    whole = np.pad(whole, (0, max(0, length - len(whole))))[:length]
    assert all(len(piece) for piece in found)
    joined = np.concatenate([np.zeros(0, np.float32), *found])
    tolerance = 1e-6 if quality == "HQ" else 1e-7
    np.testing.assert_allclose(joined, whole, rtol=0, atol=tolerance)
    at_once, state = stream.step(samples, stream.initial_state())
    np.testing.assert_array_equal(
        joined, np.concatenate([samples[:0], *at_once, *stream.finish(state)])
    )


def test_a_long_block_is_not_kept():
    stream = resampler(48_000, 8_000, "HQ")
    _, state = stream.step(np.zeros(480_000, np.float32), stream.initial_state())
    assert state["frames"].base is None
    assert len(state["frames"]) < 48_000

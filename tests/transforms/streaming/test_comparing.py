"""Streams against the whole recording: the measuring, on streams whose answers are known."""

import itertools
from collections import Counter

import librosa
import numpy as np
import pytest

from tests.audio_files import noise
from tests.checkpoints import make_enhancer, make_recogniser, recogniser_front_end
from tests.sequence_oracle import full_scale_frames, recognised
from transforms.models.checkpoint import read_config
from transforms.models.enhancer import load_enhancer
from transforms.models.sequence import CELLS, SequenceModel, load_weights, settings_of
from transforms.streaming.comparing import (
    TOLERANCE,
    Subject,
    at_rate,
    compare,
    cuts,
    denoising,
    even_blocks,
    random_blocks,
    recognising,
    step_differences,
    streamed,
)
from transforms.streaming.recogniser import StreamRecogniser

SOUND = np.arange(10, dtype=np.float32)
CUTS = [[4, 4, 2], [1, 9], [10]]


class Echo:
    """Gives the samples back, each block with what ``fault`` makes of it; 24 bytes of state."""

    def __init__(self, fault=lambda block, first: block, last=()):
        self._fault, self._last = fault, np.array(last, dtype=np.float32)

    def initial_state(self):
        return {"taken": np.zeros(1, dtype=np.int64), "zeros": np.zeros((2, 2), np.float32)}

    def step(self, samples, rate_hz, state):
        first = int(state["taken"][0])
        found = self._fault(samples.copy(), first)
        return found, {**state, "taken": state["taken"] + len(samples)}

    def finish(self, rate_hz, state):
        return self._last


def compared(stream, samples=SOUND):
    subject = Subject("echo", stream, lambda sound, rate_hz: sound[:, None], 100, 0.01)
    return compare(subject, samples, 100, CUTS)


def test_a_stream_that_is_exact():
    found = compared(Echo())
    assert (found.largest, found.equal_cuts, found.kept) == (0.0, True, True)
    assert found.state_bytes == 24
    assert found.ms_per_second > 0
    np.testing.assert_array_equal(found.whole[:, 0], SOUND)
    np.testing.assert_array_equal(found.streamed[:, 0], SOUND)


def test_the_largest_difference_and_its_place_are_told():
    wrong = np.zeros(10, dtype=np.float32)
    wrong[[3, 6]] = 0.25, -0.5
    found = compared(Echo(lambda block, first: block + wrong[first : first + len(block)]))
    assert (found.largest, found.equal_cuts, found.kept) == (0.5, True, False)
    assert found.largest_at_s == pytest.approx(0.06)
    np.testing.assert_array_equal(found.differences, np.abs(wrong))


def test_a_difference_in_the_second_cut_alone_counts():
    found = compared(Echo(lambda block, first: block + (len(block) == 9)))
    assert (found.largest, found.equal_cuts, found.kept) == (1.0, False, False)
    np.testing.assert_array_equal(found.streamed[:, 0], SOUND)  # the first cut


def test_other_bits_are_told_even_within_the_tolerance():
    found = compared(Echo(lambda block, first: -0.0 * block if len(block) == 10 else 0.0 * block),
                     np.zeros(10, np.float32))  # fmt: skip
    assert (found.largest, found.equal_cuts, found.kept) == (0.0, False, False)


@pytest.mark.parametrize("last", [[0.0], [1.0, 2.0]])
def test_another_number_of_steps_is_no_small_difference(last):
    found = compared(Echo(last=last))
    assert (found.largest, found.kept) == (np.inf, False)


def test_nan_is_not_within_the_tolerance():
    def spoil(block, first):
        block[max(0, 5 - first) : max(0, 6 - first)] = np.nan
        return block

    found = compared(Echo(spoil))
    assert np.isnan(found.largest)
    assert not found.kept


def test_differences_are_the_largest_of_a_step():
    found, whole = np.float32([[0, 1], [2, 3]]), np.float32([[0.5, 1], [2, 7]])
    np.testing.assert_array_equal(step_differences(found, whole), [0.5, 4])


@pytest.mark.parametrize("frames", [0, 1, 7, 1_000, 44_101])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_cut_makes_up_the_recording(frames, seed):
    found = list(cuts(frames, 8_000, seed, [0.25, 1e-9]))
    assert len(found) == 4
    assert all(sum(lengths) == frames for lengths in found)
    assert all(n > 0 for n in itertools.chain(*found[:3]))
    assert found[1] == [1] * frames  # less than a sample is one


def test_even_blocks_end_with_the_rest():
    assert even_blocks(10, 4) == [4, 4, 2]
    assert even_blocks(8, 4) == [4, 4]
    assert even_blocks(3, 4) == [3]


def test_random_blocks_are_of_every_size_and_follow_the_seed():
    drawn = random_blocks(10_000_000, 8_000, seed=3)
    assert drawn == random_blocks(10_000_000, 8_000, seed=3)
    assert drawn != random_blocks(10_000_000, 8_000, seed=4)
    assert (min(drawn), max(drawn) <= 8_000) == (1, True)
    decades = Counter(len(str(n)) for n in drawn)
    assert min(decades[digits] for digits in (1, 2, 3)) > 0.2 * len(drawn)


@pytest.mark.parametrize(("from_hz", "frames"), [(44_100, 44_101), (48_000, 5), (8_000, 99)])
def test_a_recording_at_another_rate_is_what_librosa_makes_of_it(from_hz, frames):
    samples = noise(2, from_hz, 1)[:frames, 0]
    expected = librosa.resample(samples, orig_sr=from_hz, target_sr=8_000, res_type="soxr_vhq")
    np.testing.assert_array_equal(at_rate(samples, from_hz, 8_000), expected)


def recogniser(folder, cell, half_life_frames=None):
    front_end = recogniser_front_end(remove_dc=False)
    make_recogniser(folder, cell, front_end=front_end)
    network = load_weights(folder, settings_of(read_config(folder)))
    return StreamRecogniser(SequenceModel(network, half_life_frames), front_end)


@pytest.mark.parametrize("cell", CELLS)
def test_a_recogniser_is_compared_by_its_running_scores(tmp_path, cell):
    stream, samples = recogniser(tmp_path, cell), noise(1.3, 8_000, 1)[:, 0]
    found = compare(recognising(cell, stream), samples, 8_000, list(cuts(len(samples), 8_000, 0)))
    frames = full_scale_frames(samples, stream.front_end)
    assert found.whole.shape == found.streamed.shape == (len(frames), 4)
    by_hand = np.exp(recognised(tmp_path, frames)[0])
    np.testing.assert_allclose(found.whole[-1], by_hand, atol=2e-4)
    np.testing.assert_allclose(found.streamed[-1], by_hand, atol=2e-4)
    assert found.equal_cuts
    assert found.at_own_rate == found.largest  # nothing is resampled
    assert found.step_seconds == 128 / 8_000


@pytest.mark.parametrize("sound", ["silence", "one sample", "one block", "clipped"])
def test_a_recogniser_with_a_half_life_on_odd_sounds(tmp_path, sound):
    samples = {
        "silence": np.zeros(30_000, np.float32),
        "one sample": np.ones(1, np.float32),
        "one block": noise(0.1, 44_100, 1)[:, 0],
        "clipped": np.clip(40 * noise(1, 44_100, 1)[:, 0], -1, 1),
    }[sound]
    subject = recognising("gru", recogniser(tmp_path, "gru", half_life_frames=20))
    found = compare(subject, samples, 44_100, list(cuts(len(samples), 44_100, 0)))
    assert found.equal_cuts
    assert found.largest < 20 * TOLERANCE  # of rounding: this network makes more of it
    assert found.at_own_rate < 5 * TOLERANCE


def test_bytes_of_state_are_the_most_between_two_blocks(tmp_path):
    stream = recogniser(tmp_path, "lstm")
    samples = noise(1, 44_100, 1)[:, 0]
    found, state, seen = streamed(stream, samples, 44_100, [11_025] * 4), stream.initial_state(), []
    for start in range(0, 44_100, 11_025):
        _, state = stream.step(samples[start : start + 11_025], 44_100, state)
        seen.append(sum(array.size * array.itemsize for array in state.values()))
    assert found.state_bytes == max(seen)


def test_an_enhancer_that_changes_nothing_gives_the_samples_back(tmp_path):
    enhancer = load_enhancer(str(make_enhancer(tmp_path, all_pass=True)))
    samples = noise(1, 8_000, 1)[:, 0]
    found = compare(
        denoising("all pass", enhancer), samples, 8_000, list(cuts(len(samples), 8_000, 0))
    )
    assert found.whole.shape == (8_000, 1)
    np.testing.assert_allclose(found.whole[:, 0], samples, atol=1e-6)
    np.testing.assert_allclose(found.streamed[:, 0], samples, atol=1e-6)
    assert found.kept


def test_an_enhancer_of_another_rate(tmp_path):
    samples = noise(1, 48_000, 1)[:, 0]
    subject = denoising("gru", load_enhancer(str(make_enhancer(tmp_path))))
    found = compare(subject, samples, 48_000, list(cuts(len(samples), 48_000, 0)))
    assert found.whole.shape == (8_000, 1)
    assert found.equal_cuts
    assert found.largest < 5 * TOLERANCE

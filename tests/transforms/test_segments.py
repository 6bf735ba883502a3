from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.segments import Fifo, Segments

SEGMENT, FADE = 100, 10


def ramp(frames: int, channels: int = 2) -> np.ndarray:
    return np.arange(frames * channels, dtype=np.float32).reshape(frames, channels)


def through(segments: Segments, samples: np.ndarray, cuts: list[int] | None = None) -> np.ndarray:
    parts = [segments.step(part) for part in np.split(samples, sorted(cuts or []))]
    return np.concatenate([*parts, segments.finish()])


@pytest.mark.parametrize("frames", [0, 1, 99, 100, 101, 189, 190, 191, 280, 1_003])
def test_work_that_changes_nothing_changes_nothing(frames):
    found = through(Segments(lambda samples: samples, SEGMENT, FADE), ramp(frames))
    np.testing.assert_allclose(found, ramp(frames), rtol=1e-6)


@pytest.mark.parametrize("frames", [1, 99, 100, 101, 190, 1_003])
def test_segments_are_whole_and_end_with_the_sound(frames):
    worked: list[np.ndarray] = []

    def work(samples: np.ndarray) -> np.ndarray:
        worked.append(samples)
        return samples

    through(Segments(work, SEGMENT, FADE), ramp(frames))
    assert {len(samples) for samples in worked} == {min(frames, SEGMENT)}
    assert worked[0][0, 0] == 0
    assert worked[-1][-1, -1] == 2 * frames - 1


@given(frames=st.integers(0, 600), cuts=st.lists(st.integers(0, 600), max_size=8))
def test_any_cut_gives_the_same(frames, cuts):
    def work(samples: np.ndarray) -> np.ndarray:
        return samples - samples.mean(axis=0)

    cuts = [min(cut, frames) for cut in cuts]
    samples = ramp(frames)
    whole = through(Segments(work, SEGMENT, FADE), samples)
    assert whole.shape == samples.shape
    np.testing.assert_array_equal(through(Segments(work, SEGMENT, FADE), samples, cuts), whole)


def test_one_segment_fades_into_the_next():
    levels = iter([0.0, 1.0])
    segments = Segments(lambda samples: np.full_like(samples, next(levels)), SEGMENT, FADE)
    found = through(segments, ramp(190))[:, 0]
    assert found[:90].tolist() == [0.0] * 90
    np.testing.assert_allclose(found[90:100], (np.arange(10) + 0.5) / 10, rtol=1e-6)
    assert found[100:].tolist() == [1.0] * 90


def test_what_waits_is_bounded():
    segments = Segments(lambda samples: samples, SEGMENT, FADE)
    for part in np.split(ramp(10_000), 1_000):
        segments.step(part)
        assert segments._frames < 2 * SEGMENT


def test_the_caller_may_write_over_what_it_gave():
    segments, block = Segments(lambda samples: samples, SEGMENT, FADE), ramp(50)
    first = segments.step(block)
    block[:] = -1
    np.testing.assert_array_equal(np.concatenate([first, segments.finish()]), ramp(50))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=20))
def test_a_fifo_gives_what_it_took_in_its_order(calls):
    fifo, put, taken = Fifo(ramp(0)), 0, []
    for is_put, frames in calls:
        if is_put:
            fifo.put(ramp(put + frames)[put:])
            put += frames
        else:
            left = len(fifo)
            taken.append(fifo.take(frames))
            assert len(taken[-1]) == min(frames, left)
    taken.append(fifo.take(len(fifo)))
    np.testing.assert_array_equal(np.concatenate(taken), ramp(put))

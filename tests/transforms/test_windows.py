from __future__ import annotations

import dataclasses
import math
import weakref

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.audio_files import noise
from transforms.errors import Reason, StageError
from transforms.models.front_end import PRESETS, FrontEnd
from transforms.records import AudioWindow, Track
from transforms.windows import (
    Grid,
    cut_parts,
    cut_windows,
    needs_total,
    target_slice,
    window_spans,
)

CCMUSIC = PRESETS["ccmusic"]
A = Track("a")


def front_end(windows="all", *, window=10, hop=10, rate=100) -> FrontEnd:
    """A front end whose windows are stated in samples, at a rate of 100 Hz."""
    return dataclasses.replace(
        CCMUSIC,
        sample_rate_hz=rate,
        fmax_hz=rate / 2,
        windows=windows,
        window_seconds=window / rate,
        hop_seconds=hop / rate,
    )


def cut(samples, rate, settings_, blocks=3, total=None) -> list[AudioWindow]:
    parts = np.array_split(samples, blocks)
    return list(
        cut_windows(parts, track=A, sample_rate_hz=rate, front_end=settings_, total_frames=total)
    )


@pytest.mark.parametrize(
    ("total", "window", "hop", "spans"),
    [
        (0, 10, 10, []),
        (1, 10, 10, [(0, 1)]),
        (9, 10, 10, [(0, 9)]),
        (10, 10, 10, [(0, 10)]),
        (11, 10, 10, [(0, 10), (10, 11)]),
        (30, 10, 10, [(0, 10), (10, 20), (20, 30)]),
        (10, 10, 5, [(0, 10)]),
        (11, 10, 5, [(0, 10), (5, 11)]),
        (15, 10, 5, [(0, 10), (5, 15)]),
        (16, 10, 5, [(0, 10), (5, 15), (10, 16)]),
        (25, 10, 20, [(0, 10), (20, 25)]),
        (20, 10, 20, [(0, 10)]),
    ],
)
def test_all(total, window, hop, spans):
    assert list(window_spans(front_end(window=window, hop=hop), total)) == spans


@pytest.mark.parametrize(
    ("windows", "total", "spans"),
    [
        ("middle", 100, [(45, 55)]),
        ("1", 100, [(45, 55)]),
        ("middle", 101, [(45, 55)]),
        ("middle", 4, [(0, 4)]),
        ("middle", 0, []),
        ("3", 90, [(10, 20), (40, 50), (70, 80)]),
        ("3", 30, [(0, 10), (10, 20), (20, 30)]),
        ("3", 12, [(0, 10), (1, 11), (2, 12)]),
        ("3", 11, [(0, 10), (1, 11)]),
        ("3", 10, [(0, 10)]),
        ("5", 1, [(0, 1)]),
        ("whole", 12_345, [(0, 12_345)]),
        ("whole", 0, []),
    ],
)
def test_placed(windows, total, spans):
    assert list(window_spans(front_end(windows), total)) == spans


def test_starts_are_rounded_each_for_itself():
    settings_ = front_end(window=10, hop=3.3)
    assert [s for s, _ in window_spans(settings_, 30)][:5] == [0, 3, 7, 10, 13]


@pytest.mark.parametrize(("frames", "rate"), [(1, 44_100), (44_101, 44_100), (7, 8_000)])
def test_total_is_the_length_that_librosa_gives(frames, rate):
    assert Grid(rate, 22_050).total_target(frames) == math.ceil(frames * 22_050 / rate)


def test_a_placed_window_needs_the_length_first():
    assert needs_total(front_end("middle")) and needs_total(front_end("3"))
    assert not needs_total(front_end("all")) and not needs_total(front_end("whole"))
    with pytest.raises(ValueError, match="total_frames"):
        cut(noise(1, 100, 1), 100, front_end("middle"))


@pytest.mark.parametrize("windows", ["all", "middle", "4", "whole"])
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_samples_are_those_of_the_track(windows, rate):
    settings_ = dataclasses.replace(CCMUSIC, windows=windows, window_seconds=0.5, hop_seconds=0.3)
    track = noise(2.1, rate, 2)
    cuts = cut(track, rate, settings_, total=len(track))
    assert [w.window_index for w in cuts] == list(range(len(cuts)))
    for window in cuts:
        last = window.first_frame + len(window.samples)
        np.testing.assert_array_equal(window.samples, track[window.first_frame : last])
        margin = max(0.02, 256 / min(rate, 22_050))
        assert window.first_frame <= max(0, (window.start_s - margin) * rate + 1e-6)
        assert last >= min(len(track), (window.end_s + margin) * rate - 1e-6)
        assert window.first_frame * 22_050 % rate == 0
        assert window.end_s <= len(track) / rate


def same(a: AudioWindow, b: AudioWindow) -> bool:
    plain = [dataclasses.replace(w, samples=np.zeros(0)) for w in (a, b)]
    fields = [{k: v for k, v in vars(w).items() if k != "samples"} for w in plain]
    return fields[0] == fields[1] and np.array_equal(a.samples, b.samples)


@settings(max_examples=60, deadline=None)
@given(
    edges=st.lists(st.integers(0, 9_000), max_size=12),
    windows=st.sampled_from(["all", "middle", "3", "whole"]),
    hop=st.sampled_from([0.05, 0.2, 0.31]),
)
def test_the_cut_into_blocks_does_not_matter(edges, windows, hop):
    settings_ = dataclasses.replace(CCMUSIC, windows=windows, window_seconds=0.2, hop_seconds=hop)
    track = noise(9_000 / 11_025, 11_025, 1)
    blocks = np.split(track, sorted(edges))
    cuts = list(
        cut_windows(blocks, track=A, sample_rate_hz=11_025, front_end=settings_, total_frames=9_000)
    )
    whole = cut(track, 11_025, settings_, blocks=1, total=9_000)
    assert len(cuts) == len(whole) and all(map(same, cuts, whole))


@pytest.mark.parametrize("target", [16_000, 22_050, 44_100])
@pytest.mark.parametrize(
    "rate",
    [8_000, 11_025, 12_000, 22_050, 44_056, 44_100, 48_000, 96_000, 192_000, 352_800, 384_000],
)
def test_a_window_resampled_alone_is_the_same_part_of_the_whole_track(rate, target):
    settings_ = dataclasses.replace(
        CCMUSIC, sample_rate_hz=target, window_seconds=0.5, hop_seconds=0.37
    )
    track = noise(1.63, rate, 1)
    whole = soxr.resample(track, rate, target, quality="HQ")
    for window in cut(track, rate, settings_):
        offset, length = target_slice(window, settings_)
        start = round(window.start_s * target)
        alone = soxr.resample(window.samples, rate, target, quality="HQ")[offset:][:length]
        expected = whole[start : start + length]
        assert length - 1 <= len(alone) <= length
        common = min(len(alone), len(expected))
        np.testing.assert_allclose(alone[:common], expected[:common], atol=1e-5)


@pytest.mark.parametrize("rate", [8_000, 44_056, 44_100, 192_000, 352_801])
def test_target_slice_gives_the_spans_back(rate):
    settings_ = dataclasses.replace(CCMUSIC, window_seconds=0.5, hop_seconds=0.37)
    for frames in range(rate, rate + 9):
        cuts = cut(np.zeros((frames, 1), np.float32), rate, settings_)
        spans = list(window_spans(settings_, math.ceil(frames * 22_050 / rate)))
        assert [target_slice(w, settings_)[1] for w in cuts] == [e - s for s, e in spans]


def test_no_more_is_held_than_a_window_needs():
    settings_ = dataclasses.replace(CCMUSIC, window_seconds=1.0, hop_seconds=1.0)
    given_out = 0
    held: list[weakref.ref] = []

    def blocks():
        nonlocal given_out
        for _ in range(100):
            given_out += 1
            block = np.zeros((22_050, 1), np.float32)
            held.append(weakref.ref(block))
            yield block
            del block

    cuts = cut_windows(blocks(), track=A, sample_rate_hz=22_050, front_end=settings_)
    for window in cuts:
        assert given_out <= window.window_index + 2
        assert len(window.samples) <= 22_050 + 2 * 600
        assert sum(block() is not None for block in held) <= 3
    assert len(held) == 100


# Where the length is known


@settings(max_examples=150, deadline=None)
@given(
    windows=st.sampled_from(["all", "whole", "middle", "1", "2", "5"]),
    window=st.integers(1, 60),
    hop=st.integers(1, 90),
    rates=st.tuples(st.integers(20, 400), st.integers(20, 400)),
    frames=st.integers(0, 700),
    block=st.integers(1, 100),
)
def test_parts_give_the_windows_of_the_whole_track(windows, window, hop, rates, frames, block):
    rate, target = rates
    settings_ = front_end(windows, window=window, hop=hop, rate=target)
    track = np.arange(frames, dtype=np.float32)[:, None]

    def part(first, last):
        assert 0 <= first < last <= frames
        return (track[at : min(at + block, last)] for at in range(first, last, block))

    found = list(
        cut_parts(part, track=A, sample_rate_hz=rate, front_end=settings_, total_frames=frames)
    )
    expected = cut(track, rate, settings_, blocks=1, total=frames)
    assert len(found) == len(expected) and all(map(same, found, expected))


def test_parts_are_read_no_further_than_the_windows_need():
    settings_ = dataclasses.replace(CCMUSIC, windows="2", window_seconds=1.0)
    asked = []

    def part(first, last):
        asked.append((first, last))
        yield np.zeros((last - first, 1), np.float32)

    frames = 100 * 44_100
    for window in cut_parts(
        part, track=A, sample_rate_hz=44_100, front_end=settings_, total_frames=frames
    ):
        assert len(asked) == window.window_index + 1
    assert sum(last - first for first, last in asked) < 2.2 * 44_100


def test_a_part_without_any_sound_is_damage():
    settings_ = dataclasses.replace(CCMUSIC, windows="middle", window_seconds=1.0)
    with pytest.raises(StageError, match="no sound can be decoded from frame") as caught:
        list(
            cut_parts(
                lambda _first, _last: [], track=A, sample_rate_hz=22_050, front_end=settings_,
                total_frames=100_000,
            )
        )  # fmt: skip
    assert caught.value.reason is Reason.CORRUPT


def test_a_part_that_ends_early_ends_the_window():
    settings_ = dataclasses.replace(CCMUSIC, windows="middle", window_seconds=2.0)
    (window,) = cut_parts(
        lambda _first, _last: [np.ones((11_025, 1), np.float32)],
        track=A, sample_rate_hz=22_050, front_end=settings_, total_frames=220_500,
    )  # fmt: skip
    assert len(window.samples) == 11_025
    assert window.end_s == (window.first_frame + 11_025) / 22_050


@pytest.mark.parametrize(("windows", "read"), [("middle", 51), ("1", 51), ("2", 76), ("4", 88)])
def test_nothing_is_read_behind_the_last_placed_window(windows, read):
    """One-second windows of a track of 100 blocks of a second each; a margin of some frames."""
    settings_ = dataclasses.replace(CCMUSIC, windows=windows, window_seconds=1.0)
    given_out = []

    def blocks():
        for number in range(100):
            given_out.append(number)
            yield np.zeros((22_050, 1), np.float32)

    cuts = list(
        cut_windows(
            blocks(), track=A, sample_rate_hz=22_050, front_end=settings_,
            total_frames=100 * 22_050,
        )
    )  # fmt: skip
    assert len(cuts) == (1 if windows in ("middle", "1") else int(windows))
    assert read <= len(given_out) <= read + 1

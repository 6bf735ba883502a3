"""What is said of a stream against a plain reading of the whole sequence of scores."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.models.sequence import state_from_bytes, state_to_bytes
from transforms.scores import LabelRule
from transforms.streaming.recogniser import Heard
from transforms.streaming.running_label import RunningLabel, Silence, Statement

LABELS = ("a", "b", "c")
RULE = LabelRule(LABELS, unknown_threshold=0.5)
FRAME = Fraction(1, 20)  # of a second
NONE = -1


def running(least: int = 3, silent: int = 12, frame=FRAME) -> RunningLabel:
    return RunningLabel(RULE, float(frame), float(least * frame), float(silent * frame))


def scores_of(labels, seed=0):
    """Scores whose best one is the label; none is over the threshold for NONE."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.0, 0.2, (len(labels), 3))
    for frame, label in enumerate(labels):
        scores[frame, label if label >= 0 else 0] = rng.uniform(0.5, 0.6) if label >= 0 else 0.4
    return scores.astype(np.float32)


def stated(one: RunningLabel, scores, sound, cuts, end_s):
    state, said = one.initial_state(), []
    edges = [0, *sorted(cuts), len(scores)]
    for first, last in itertools.pairwise(edges):
        more, state = one.step(Heard(first, scores[first:last], sound[first:last]), state)
        said += more
        state = state_from_bytes(state_to_bytes(state))
    return said + one.finish(len(scores), end_s, state)


def plain_labels(scores, sound):
    return [
        int(row.argmax()) if row.max() >= 0.5 and heard else NONE
        for row, heard in zip(scores, sound, strict=True)
    ]


def plain_segments(labels, least):
    """(label, first frame, frame behind): it ends where it last held, if away for ``least``."""
    found, begin, now, held = [], 0, labels[0], 0
    for frame, label in enumerate(labels):
        if label == now:
            held = frame
        elif frame - held == least:
            found.append((now, begin, held + 1))
            since = labels[held + 1 : frame + 1]
            order = [0, 1, 2, NONE]  # of equally frequent ones the first
            now = max(order, key=lambda one: (since.count(one), -order.index(one)))
            begin, held = held + 1, frame
    return [*found, (now, begin, len(labels))]


def plain_seconds(frames, end_s: Fraction, frame: Fraction):
    """(start, end, newest frame in it) of each second that has begun before the end."""
    for second in range(math.ceil(end_s)):
        newest = max(t for t in range(frames) if t * frame < second + 1)
        yield second, min(Fraction(second + 1), end_s), newest


def plain_silences(sound, silent):
    run = 0
    for frame, heard in enumerate(sound):
        run = 0 if heard else run + 1
        if run == silent:
            yield frame + 1 - silent, frame + 1


labels_in_runs = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, NONE]), st.integers(1, 9)), min_size=1, max_size=14
).map(lambda runs: [label for label, length in runs for _ in range(length)])
sounds_in_runs = st.lists(st.tuples(st.booleans(), st.integers(1, 20)), min_size=1, max_size=9)


@settings(max_examples=150, deadline=None)
@given(
    labels=labels_in_runs,
    sounds=sounds_in_runs,
    least=st.integers(1, 6),
    cuts=st.lists(st.integers(0, 120), max_size=20),
    over=st.fractions(0, 1).filter(lambda part: part < 1),
    seed=st.integers(0, 9),
)
def test_statements_are_those_of_the_whole(labels, sounds, least, cuts, over, seed):
    count = len(labels)
    sound = np.resize([heard for heard, length in sounds for _ in range(length)], count)
    scores = scores_of(labels, seed)
    end = (count - 1 + over) * FRAME  # the last frame is centred on the end, or before it
    one, cuts = running(least), [cut for cut in cuts if cut <= count]
    said = stated(one, scores, sound, cuts, float(end))
    assert said == stated(one, scores, sound, [], float(end))
    assert said == stated(one, scores, sound, range(count), float(end))

    found = plain_labels(scores, sound)
    expected = [seg for seg in plain_segments(found, least) if seg[1] * FRAME < end]
    segments = [one for one in said if isinstance(one, Statement) and one.kind == "segment"]
    assert [one.label for one in segments] == [
        "unknown" if label == NONE else LABELS[label] for label, _, _ in expected
    ]
    for one, (label, first, behind) in zip(segments, expected, strict=True):
        mean = scores[first:behind].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(one.scores, mean, rtol=1e-9)
        assert one.confidence == pytest.approx(mean.max() if label == NONE else mean[label])
    starts = [one.start_s for one in segments]
    ends = [min(one.end_s, float(end)) for one in segments]
    assert starts == pytest.approx([float(first * FRAME) for _, first, _ in expected])
    assert starts == [0.0, *ends[:-1]][: len(starts)]
    assert ends[-1:] == [float(end)][: len(ends)]

    seconds = [one for one in said if isinstance(one, Statement) and one.kind == "second"]
    plain = list(plain_seconds(count, end, FRAME))
    assert [(one.start_s, min(one.end_s, float(end))) for one in seconds] == [
        (float(start), pytest.approx(float(stop))) for start, stop, _ in plain
    ]
    for one, (start, _, newest) in zip(seconds, plain, strict=True):
        assert one.scores == scores[newest].tolist()
        inside = [t for t in range(count) if start <= t * FRAME < start + 1] or [count - 1]
        sure = scores[newest].max() >= 0.5 and sound[inside].any()
        assert one.label == (LABELS[scores[newest].argmax()] if sure else "unknown")

    silences = [(one.start_s, one.end_s) for one in said if isinstance(one, Silence)]
    assert silences == [
        (pytest.approx(float(first * FRAME)), pytest.approx(float(behind * FRAME)))
        for first, behind in plain_silences(sound, 12)
    ]


def test_what_is_given_back_is_its_own_state():
    """With no frame, too: else it would bring back what others had before."""
    one = running()
    nothing = Heard(0, np.zeros((0, 3), np.float32), np.zeros(0, bool))
    said, state = one.step(nothing, {**one.initial_state(), "frames": np.zeros(3)})
    assert said == []
    assert state.keys() == one.initial_state().keys()


def test_the_end_between_two_frames_is_covered():
    """The last frame lies at 0.96 s, the next one would at 1.12: the sound ends at 1.1."""
    frame = Fraction(4, 25)
    one, scores = running(frame=frame), scores_of([1] * 7)
    said = stated(one, scores, np.ones(7, bool), [], 1.1)
    seconds = [one for one in said if one.kind == "second"]
    assert [(one.start_s, one.end_s, one.label) for one in seconds] == [
        (0.0, 1.0, "b"), (1.0, 1.1, "b")
    ]  # fmt: skip
    silent = stated(one, scores, np.zeros(7, bool), [], 1.1)
    assert {one.label for one in silent if isinstance(one, Statement)} == {"unknown"}


def test_a_segment_does_not_begin_where_the_sound_ends():
    scores = scores_of([0] * 20 + [1])
    said = stated(running(least=1), scores, np.ones(21, bool), [], 1.0)
    segments = [(one.label, one.start_s, one.end_s) for one in said if one.kind == "segment"]
    assert segments == [("a", 0.0, 1.0)]


def test_nothing_was_heard():
    one = running()
    assert one.finish(0, 0.0, one.initial_state()) == []
    assert stated(one, scores_of([0]), np.ones(1, bool), [], 0.0) == []


def test_silence_is_told_once_until_there_is_sound():
    sound = np.zeros(100, bool)
    sound[[0, 50]] = True
    said = stated(running(), scores_of([0] * 100), sound, range(0, 100, 7), 5.0)
    silences = [(one.start_s, one.end_s) for one in said if isinstance(one, Silence)]
    assert silences == [pytest.approx((0.05, 0.65)), pytest.approx((2.55, 3.15))]


def test_years_of_a_stream():
    """Frame numbers of three years: seconds still come one by one."""
    one, first = running(), 20 * 100_000_000
    state = one.initial_state()
    state["open_segment"] = np.array([1, first, 0])
    state["label_sums"] = np.stack([scores_of([1])[0] * first, np.zeros(3)]).astype(np.float64)
    said, state = one.step(Heard(first, scores_of([1] * 60), np.ones(60, bool)), state)
    said += one.finish(first + 60, 100_000_003.0, state)
    assert [(one.kind, one.start_s, one.end_s) for one in said] == [
        ("second", 1e8, 1e8 + 1), ("second", 1e8 + 1, 1e8 + 2), ("second", 1e8 + 2, 1e8 + 3),
        ("segment", 0.0, 1e8 + 3),
    ]  # fmt: skip

"""What follows a stream, without Beam: any cut of a recording gives the same rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from apache_beam.utils.timestamp import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import LABELS, make_enhancer, random_network
from tests.checkpoints import make_recogniser as save_recogniser
from tests.streams import (
    PROVENANCE,
    START_US,
    as_blocks,
    block,
    front_end,
    make_recogniser,
    pieces,
    plain,
    sound,
)
from transforms.errors import Reason, StageError
from transforms.models.checkpoint import fingerprint_of
from transforms.models.enhancer import (
    DEFAULT_ENHANCER,
    Enhancer,
    SpectrumFrontEnd,
    load_enhancer,
)
from transforms.models.sequence import SequenceModel, SequenceSettings
from transforms.scores import LabelRule
from transforms.streaming import listen
from transforms.streaming.blocks import Block, encode_block
from transforms.streaming.denoising import StreamDenoiser
from transforms.streaming.follower import Follower
from transforms.streaming.listening import ListenSettings, load_follower
from transforms.streaming.ordering import Order, OrderRules
from transforms.streaming.rows import LabelRow, to_json
from transforms.streaming.running_label import RunningLabel, Statement
from transforms.streaming.stream_state import StreamState, Stretch

RULE = LabelRule(LABELS, unknown_threshold=0.3)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_follower(denoiser: StreamDenoiser | None = None) -> Follower:
    recogniser = make_recogniser("lstm", 30.0)
    running = RunningLabel(RULE, recogniser.frame_seconds, 0.1, 0.2)
    return Follower(recogniser, running, PROVENANCE, denoiser)


def follow(follower: Follower, blocks) -> list[Any]:
    """All rows of a stream, whose state goes through bytes after every block."""
    state, outcomes = StreamState(), []
    for one in blocks:
        order = Order(OrderRules(max_ahead_us=10**12), state.cursor, {})
        outcomes += follower.follow(one.stream_id, order.arrive(one), state)
        content = state.to_bytes()
        state = StreamState.from_bytes(content)
        assert state.to_bytes() == content
    assert state.arrays == {}  # it has ended
    return outcomes


def by_hand(samples, rate):
    """(kind, start, end, label) by what the whole recording gives at once."""
    recogniser = make_recogniser("lstm", 30.0)
    running = RunningLabel(RULE, recogniser.frame_seconds, 0.1, 0.2)
    heard, end_s = recogniser.whole(samples, rate), len(samples) / rate
    said, state = running.step(heard, running.initial_state())
    said += running.finish(len(heard), end_s, state)
    return [
        (one.kind, round(one.start_s, 5), round(min(one.end_s, end_s), 5), one.label)
        for one in said
        if isinstance(one, Statement)
    ]


@settings(max_examples=15, deadline=None)
@given(data=st.data(), rate=st.sampled_from([8_000, 11_025, 44_100]), frames=st.integers(1, 15_000))
def test_any_cut_gives_the_same_rows(data, rate, frames):
    samples = sound(2.0, rate)[:frames]
    near = data.draw(st.integers(0, frames))
    cuts = data.draw(st.lists(st.integers(0, frames), max_size=8))
    cuts += range(near, min(frames, near + data.draw(st.integers(0, 120))))
    follower = make_follower()
    whole = follow(follower, as_blocks([samples], rate))
    cut = follow(follower, as_blocks(pieces(samples, cuts), rate))
    without = ("sequence",)
    told, expected = (
        [{n: v for n, v in plain(row).items() if n not in without} for row in rows]
        for rows in (cut, whole)
    )
    assert told == expected
    labelled = [row for row in cut if isinstance(row, LabelRow) and row.kind != "end"]
    assert [
        (row.kind, round(row.start_s, 5), round(row.end_s, 5), row.label) for row in labelled
    ] == [
        (kind, pytest.approx(start, abs=2e-5), pytest.approx(end, abs=2e-5), label)
        for kind, start, end, label in by_hand(samples, rate)
    ]
    for kind in ("second", "segment"):
        rows = [row for row in labelled if row.kind == kind]
        assert [row.started_at for row in rows[1:]] == [row.ended_at for row in rows[:-1]]
        assert rows[0].start_s == 0.0
        assert rows[-1].end_s == pytest.approx(frames / rate, abs=1e-6)
        assert all(row.started_at < row.ended_at for row in rows)
    assert all(to_json(row) for row in cut)


def test_single_samples_are_heard():
    """A block that finishes no frame must leave its samples behind."""
    samples = sound(0.2, 8_000)
    singly = follow(make_follower(), as_blocks(list(samples[:, None]), 8_000))
    whole = follow(make_follower(), as_blocks([samples], 8_000))
    assert [row.scores for row in singly] == [row.scores for row in whole]


def test_silence_that_would_begin_at_the_end_is_none():
    """Only the last frame, which is centred on the end of the sound, hears nothing."""
    samples = sound(0.16, 8_000)
    samples[:-128], samples[-128:] = 0.5, 0.0
    recogniser = make_recogniser()
    running = RunningLabel(RULE, recogniser.frame_seconds, 0.1, recogniser.frame_seconds)
    rows = follow(Follower(recogniser, running, PROVENANCE), as_blocks([samples], 8_000))
    assert {type(row) for row in rows} == {LabelRow}


# The state


def a_state(rate=44_100, denoiser=None) -> StreamState:
    state, follower = StreamState(), make_follower(denoiser)
    for one in as_blocks(pieces(sound(1.0, rate), [rate // 3]), rate, last=False):
        order = Order(OrderRules(), state.cursor, {})
        list(follower.follow("radio", order.arrive(one), state))
    return state


def test_a_state_is_its_bytes():
    state = a_state()
    again = StreamState.from_bytes(state.to_bytes())
    assert dataclasses.replace(again, arrays={}) == dataclasses.replace(state, arrays={})
    assert again.arrays.keys() == state.arrays.keys()
    for name, array in state.arrays.items():
        assert (again.arrays[name].dtype, again.arrays[name].shape) == (array.dtype, array.shape)
        assert again.arrays[name].tobytes() == array.tobytes()
    assert b"numpy" not in state.to_bytes()  # as a pickle would have it


@given(
    numbers=st.lists(st.integers(0, 2**62), min_size=9, max_size=9),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_numbers_of_a_state(numbers, flags):
    stretch = Stretch(8_000, 1, numbers[0], numbers[1], numbers[2])
    state = StreamState(
        origin_us=numbers[3] if flags[0] else None, end_us=numbers[4], block_end_us=numbers[5],
        sequence=numbers[6], lost_blocks=numbers[7], clean_blocks=numbers[8],
        stretch=stretch if flags[1] else None, asleep=flags[0], timer_us=numbers[2],
    )  # fmt: skip
    assert StreamState.from_bytes(state.to_bytes()) == state


# Where what is not in time would be


def hear(script, follower):
    state, outcomes = StreamState(), []
    for one in script:
        outcomes += follower.follow(one.stream_id, [one], state)
    return outcomes, state


def test_time_between_blocks():
    follower = Follower(
        make_recogniser(), RunningLabel(RULE, 0.016, 0.1, 9.0), PROVENANCE,
        idle_us=1_000_000, forget_us=5_000_000,
    )  # fmt: skip
    waits_us = [0, 999_999, 1_000_000, 4_999_999, 5_000_000]
    times_us = START_US + np.cumsum([0, *(wait + 100_000 for wait in waits_us)])
    blocks = [block(sequence=n, event_time_us=int(at)) for n, at in enumerate(times_us)]
    outcomes, _ = hear(blocks, follower)
    told = [(row.kind, row.gap_s) for row in outcomes if row.kind in ("gap", "end")]
    # A little time that is missing is not told: the second gap has it, too.
    assert told == [
        ("gap", pytest.approx(1.999999)),
        ("gap", pytest.approx(4.999999)),
        ("end", None),
    ]


def test_a_session_whose_clock_goes_back():
    follower = make_follower()
    early = block(session=1, sequence=0, event_time_us=5)
    state, order = StreamState(), Order(OrderRules(), StreamState().cursor, {})
    outcomes = []
    for one in (block(), early):
        for event in order.arrive(one):
            state.cursor = order.cursor
            outcomes += follower.follow("radio", [event], state)
    outcomes += follower.sleep("radio", state)
    assert [(row.session, row.kind, row.start_s) for row in outcomes if row.kind != "segment"] == [
        (0, "second", 0.0), (0, "end", 0.0), (1, "second", 0.0)
    ]  # fmt: skip
    assert outcomes[-1].started_at.year == 1970


def test_a_late_block_is_told_the_same_again():
    follower = make_follower()
    error = StageError(Reason.LATE_BLOCK, "too late")
    once, again = (follower.refuse(block(sequence=7), error, StreamState()) for _ in range(2))
    assert plain(once) == plain(again)
    assert once.started_at.timestamp() == pytest.approx(block(sequence=7).event_time_us / 1e6)


# The timers, as runners may fire them


class FakeState:
    """One cell, a bag or a timer of Beam's."""

    def __init__(self) -> None:
        self.value: Any = None
        self.bag: list[bytes] = []
        self.at: Timestamp | None = None

    def read(self):
        return self.value if self.value is not None else (self.bag or None)

    def write(self, value):
        self.value = value

    def add(self, value):
        self.bag.append(value)

    def set(self, at):
        self.at = at

    def clear(self):
        self.value, self.bag, self.at = None, [], None


class Worker:
    """A DoFn with its state, and what it told."""

    def __init__(self, settings: ListenSettings, ahead_us: int = 0) -> None:
        self.ahead_us = ahead_us  # Beam's time, of the blocks' own
        self._do_fn = listen._ListenDoFn(settings)
        self._do_fn.setup()
        self._do_fn.start_bundle()
        self.stream, self.held, self.gap, self.idle = (FakeState() for _ in range(4))

    def hears(self, one: Block):
        element = (one.stream_id, encode_block(one))
        at = Timestamp(micros=one.event_time_us + self.ahead_us)
        return list(self._do_fn.process(element, self.stream, self.held, self.gap, self.idle, at))

    def gives_up(self, at):
        return list(self._do_fn.give_up("radio", at, self.stream, self.held, self.gap))

    def rests(self, at):
        return list(self._do_fn.rest("radio", at, self.stream, self.held, self.gap, self.idle))


@pytest.fixture(scope="module")
def heard_by(tmp_path_factory):
    folder = save_recogniser(tmp_path_factory.mktemp("timers") / "model")
    return ListenSettings(
        model=str(folder), fingerprint=fingerprint_of(folder), front_end=front_end(),
        rule=RULE, provenance=PROVENANCE, half_life_seconds=None,
    )  # fmt: skip


def test_a_stream_of_old_in_the_time_of_its_broker(heard_by):
    """A topic whose records have the time of their arrival, 300 days behind that of the blocks."""
    ahead_us = 300 * 86_400_000_000
    worker, first = Worker(heard_by, ahead_us), block(sequence=0)
    worker.hears(first), worker.hears(block(sequence=2))
    came_us = block(sequence=2).event_time_us + ahead_us
    assert 0 <= worker.gap.at.micros - (came_us + 2_000_000) < 1_000
    assert worker.idle.at.micros >= first.end_time_us + ahead_us + 10_000_000
    assert worker.gives_up(Timestamp(micros=came_us + 1_999_000)) == []
    assert worker.rests(Timestamp(micros=came_us + 5_000_000)) == []
    worker.hears(block(sequence=1))
    assert worker.held.bag == []
    assert worker.gap.at is None
    rows = worker.rests(Timestamp(micros=came_us + 11_000_000))
    assert [row.kind for row in rows if row.kind == "gap"] == []
    assert max(row.end_s for row in rows) == pytest.approx(
        (block(sequence=2).end_time_us - first.event_time_us) / 1e6
    )


def test_timers_that_fire_twice(heard_by):
    worker = Worker(heard_by)
    worker.hears(block(sequence=0)), worker.hears(block(sequence=2))
    due = worker.gap.at
    assert due.micros % 1_000 == 0
    assert 0 <= due.micros - (block(sequence=2).event_time_us + 2_000_000) < 1_000
    assert [row.kind for row in worker.gives_up(due)].count("gap") == 1
    assert worker.gives_up(due) == []
    assert worker.held.bag == []
    idle = worker.idle.at
    told = worker.rests(idle)
    while not told:  # it was set for the first block: each time for what it then knows
        assert worker.idle.at > idle
        idle = worker.idle.at
        told = worker.rests(idle)
    assert {row.kind for row in told} == {"second", "segment"}
    assert worker.rests(idle) == worker.gives_up(idle) == []
    forgets = worker.idle.at
    assert forgets.micros - block(sequence=2).end_time_us == pytest.approx(3_600e6, abs=1_000)
    assert [row.kind for row in worker.rests(forgets)] == ["end"]
    assert worker.stream.value is None


def test_timers_of_a_forgotten_stream_leave_nothing(heard_by):
    worker = Worker(heard_by)
    worker.hears(block(sequence=0))
    late = Timestamp(micros=START_US + 4_000_000_000)
    assert worker.rests(late)[-1].kind == "end"
    for _ in range(2):
        assert worker.rests(late) == worker.gives_up(late) == []
    for state in (worker.stream, worker.held, worker.gap):
        assert (state.value, state.bag, state.at) == (None, [], None)


def test_a_timer_that_fires_too_soon_is_set_again(heard_by):
    worker = Worker(heard_by)
    worker.hears(block(sequence=0)), worker.hears(block(sequence=2))
    soon = Timestamp(micros=START_US)
    due, idle = worker.gap.at, worker.idle.at
    worker.gap.at = worker.idle.at = None
    assert worker.gives_up(soon) == worker.rests(soon) == []
    assert worker.gap.at == due
    assert worker.idle.at >= idle


def test_what_waits_is_kept_in_beam_and_goes(heard_by):
    worker = Worker(heard_by)
    worker.hears(block(sequence=0))
    early = [block(sequence=n) for n in (4, 2, 3)]
    for one in early:
        assert worker.hears(one) == []
    assert sorted(worker.held.bag) == sorted(map(encode_block, early))
    worker.hears(block(sequence=1))
    assert worker.held.bag == []
    assert worker.gap.at is None


def test_what_follows_is_loaded_once(heard_by):
    assert load_follower(heard_by) is load_follower(dataclasses.replace(heard_by))


# Without noise


@pytest.fixture(scope="module", params=["gru", "cnn"])
def enhancer(request):
    """Of layers that do not amplify rounding."""
    spectrum = SpectrumFrontEnd(sample_rate_hz=8_000, n_fft=128, hop_length=64)
    shape = SequenceSettings(head="enhancement", cell=request.param, inputs=spectrum.bins,
                             outputs=spectrum.bins, hidden_size=16, layers=1)  # fmt: skip
    return Enhancer(SequenceModel(random_network(shape, gain=0.6)), spectrum)


def resampled(samples, rate, to_hz):
    """By librosa. In float64: the logarithm of nearly nothing makes much of rounding."""
    if rate == to_hz or not len(samples):
        return samples
    whole = librosa.resample(samples, orig_sr=rate, target_sr=to_hz, res_type="soxr_vhq")
    return np.pad(whole, (0, -(-len(samples) * to_hz // rate) - len(whole)))


def cleaned(enhancer, parts, rate):
    denoiser = StreamDenoiser(enhancer)
    state, made = denoiser.initial_state(), []
    for part in parts:
        clean, state = denoiser.step(part, rate, state)
        made.append(clean)
    return np.concatenate([*made, denoiser.finish(rate, state)])


@settings(max_examples=15, deadline=None)
@given(
    data=st.data(),
    rate=st.sampled_from([8_000, 11_025, 44_100, 44_101]),
    frames=st.integers(0, 30_000),
)
def test_the_denoiser_in_any_cut(enhancer, data, rate, frames):
    samples = sound(4.0, rate)[:frames]
    whole = resampled(samples, rate, 8_000)
    expected = enhancer.enhance(whole[None])[0][0]
    near = data.draw(st.integers(0, frames))
    cuts = data.draw(st.lists(st.integers(0, frames), max_size=6))
    cuts += range(near, min(frames, near + 90))
    found = cleaned(enhancer, pieces(samples, cuts), rate)
    assert found.shape == (-(-frames * 8_000 // rate),)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found, cleaned(enhancer, [samples], rate))


@pytest.mark.parametrize("rate", [11_025, 16_000, 44_100])
def test_the_shipped_denoiser_is_that_of_whole_recordings(rate):
    enhancer, samples = load_enhancer(DEFAULT_ENHANCER), sound(3.0, rate)
    whole = resampled(samples, rate, 16_000)
    expected = enhancer.enhance(whole[None])[0][0]
    found = cleaned(enhancer, pieces(samples, range(100, len(samples), 3_333)), rate)
    assert found.shape == expected.shape == (48_000,)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_an_all_pass_gives_the_sound_in_blocks(tmp_path):
    all_pass = load_enhancer(str(make_enhancer(tmp_path / "e", all_pass=True)))
    samples = np.clip(1.5 * sound(2.0, 8_000), -1.2, 1.2)
    follower = make_follower(StreamDenoiser(all_pass))
    outcomes = follow(follower, as_blocks(pieces(samples, [1, 2, 3, 7_000]), 8_000))
    clean = [one for one in outcomes if isinstance(one, Block)]
    pcm = np.concatenate([np.frombuffer(one.payload, "<i2") for one in clean]) / 32_768
    np.testing.assert_allclose(pcm, np.clip(samples, -1, 32_767 / 32_768), atol=1.01 / 32_768)
    assert [one.sequence for one in clean] == list(range(len(clean)))
    assert [one.last for one in clean][-2:] == [False, True]
    at = np.cumsum([0, *(one.frames for one in clean)])[:-1]
    assert [one.event_time_us for one in clean] == [START_US + round(1e6 * n / 8_000) for n in at]
    rows = [plain(row) for row in outcomes if not isinstance(row, Block)]
    alone = follow(make_follower(), as_blocks(pieces(samples, [1, 2, 3, 7_000]), 8_000))
    assert rows == [plain(row) for row in alone]


@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_the_whole_state_does_not_grow(enhancer, rate):
    """Of a stream that goes on, whatever comes: it only breathes."""
    follower, state, sizes = make_follower(StreamDenoiser(enhancer)), StreamState(), []
    rng = np.random.default_rng(1)
    samples = sound(1.0, rate)
    heard = 0
    for sequence in range(40):
        piece = samples[: int(rng.integers(0, rate // 2))]
        one = Block(stream_id="radio", sequence=sequence,
                    event_time_us=START_US + round(1e6 * heard / rate), sample_rate_hz=rate,
                    channels=1, encoding="pcm_f32le",
                    payload=piece.astype("<f4").tobytes())  # fmt: skip
        heard += len(piece)
        list(follower.follow("radio", [one], state))
        sizes.append(len(state.to_bytes()))
    assert max(sizes[20:]) <= 1.2 * max(sizes[:20])
    assert max(sizes) < 4 * rate + 20_000  # a second of sound, and the model

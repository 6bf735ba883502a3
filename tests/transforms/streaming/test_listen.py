"""Listen in Beam: what TestStream plays, and the same blocks as a batch in any order."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_stream import TestStream as Script
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import LABELS, make_enhancer
from tests.checkpoints import make_recogniser as save_recogniser
from tests.streams import COLLECTED, PROVENANCE, START_US, block, collect, front_end, plain
from transforms.denoise import Denoiser
from transforms.models.checkpoint import fingerprint_of
from transforms.scores import LabelRule
from transforms.streaming.blocks import Block, encode_block
from transforms.streaming.listen import CLEAN, FAILURES, ROWS, Listen
from transforms.streaming.listening import ListenSettings
from transforms.streaming.ordering import OrderRules

LATENESS_S, IDLE_S, FORGET_S = 1.0, 4.0, 60.0


@pytest.fixture(scope="module")
def heard_by(tmp_path_factory) -> ListenSettings:
    folder = save_recogniser(tmp_path_factory.mktemp("listen") / "model")
    return ListenSettings(
        model=str(folder),
        fingerprint=fingerprint_of(folder),
        front_end=front_end(),
        rule=LabelRule(LABELS),
        provenance=PROVENANCE,
        half_life_seconds=1.0,
        silence_seconds=1.0,
        idle_seconds=IDLE_S,
        forget_seconds=FORGET_S,
        order=OrderRules(lateness_us=round(1e6 * LATENESS_S)),
    )


@dataclasses.dataclass
class Told:
    rows: list
    failures: list
    clean: list

    @classmethod
    def of(cls, graph, blocks, heard_by):
        COLLECTED.clear()
        told = graph | blocks | Listen(heard_by)
        for tag in (ROWS, FAILURES, CLEAN):
            told[tag] | tag >> beam.Map(collect, tag)
        graph.run().wait_until_finish()
        rows, failures, clean = (list(COLLECTED.get(tag, [])) for tag in (ROWS, FAILURES, CLEAN))
        ids = Counter(row.row_id for row in [*rows, *failures])
        assert [row_id for row_id, count in ids.items() if count > 1] == []
        return cls(rows, failures, clean)

    def plain(self):
        """All rows of all streams in one order, without the clock."""
        key = lambda row: row["row_id"]  # noqa: E731
        clean = [dataclasses.asdict(one) for one in self.clean]
        return (
            sorted(map(plain, self.rows), key=key),
            sorted(map(plain, self.failures), key=key),
            sorted(clean, key=lambda one: (one["stream_id"], one["session"], one["sequence"])),
        )

    def of_kind(self, kind, stream_id="radio"):
        return [
            (round(row.start_s, 6), round(row.end_s, 6))
            for row in self.rows
            if (row.kind, row.stream_id) == (kind, stream_id)
        ]

    def gaps(self, stream_id="radio"):
        return [
            (round(row.start_s, 6), round(row.end_s, 6), row.gap_s, row.lost_blocks)
            for row in self.rows
            if row.kind == "gap" and row.stream_id == stream_id
        ]

    def reasons(self):
        return [(row.reason, row.stream_id, row.session, row.sequence) for row in self.failures]


def timed(one: Block):
    element = (one.stream_id, encode_block(one))
    return TimestampedValue(element, Timestamp(micros=one.event_time_us))


def at(seconds: float) -> Timestamp:
    """Seconds behind the first sample, in whole milliseconds, as TestStream wants them."""
    return Timestamp(micros=(START_US + round(1e6 * seconds)) // 1_000 * 1_000)


def stream(script, heard_by) -> Told:
    """Play blocks, and numbers: how far the watermark comes, seconds since the first sample."""
    played = Script()
    for step in script:
        if isinstance(step, (int, float)):
            played = played.advance_watermark_to(at(step))
        else:
            played = played.add_elements([timed(one) for one in step])
    played = played.advance_watermark_to_infinity()
    options = PipelineOptions([])
    options.view_as(StandardOptions).streaming = True
    graph = beam.Pipeline(runner=BundleBasedDirectRunner(), options=options)
    return Told.of(graph, played.with_output_types(beam.typehints.Tuple[str, bytes]), heard_by)


def live(blocks, heard_by) -> Told:
    """As they would come: the watermark is the event time of the newest block, less a little."""
    script, reached_s = [], 0.0
    for one in blocks:
        behind_s = (one.event_time_us - START_US) / 1e6 - 0.05
        if behind_s > reached_s + 0.01:
            script.append(reached_s := behind_s)
        script.append([one])
    return stream(script, heard_by)


class Recorded(beam.PTransform):
    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self._blocks = blocks

    def expand(self, begin):
        keyed = beam.Map(timed).with_output_types(beam.typehints.Tuple[str, bytes])
        return begin | beam.Create(self._blocks, reshuffle=False) | keyed


def batch(blocks, heard_by) -> Told:
    graph = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([]))
    return Told.of(graph, Recorded(list(blocks)), heard_by)


def blocks_of(*sequences: int, **changes) -> list[Block]:
    return [block(sequence=n, **changes) for n in sequences]


# By hand


def test_a_stream_in_order_and_its_end(heard_by):
    found = stream([blocks_of(*range(14)), [block(sequence=14, last=True)]], heard_by)
    assert found.failures == []
    assert found.of_kind("second") == [(0.0, 1.0), (1.0, 1.5)]
    segments = found.of_kind("segment")
    assert segments[0][0] == 0.0
    assert segments[-1][1] == 1.5
    assert [end for _, end in segments[:-1]] == [start for start, _ in segments[1:]]
    (end,) = (row for row in found.rows if row.kind == "end")
    assert (end.start_s, end.end_s, end.sequence) == (0.0, 1.5, 14)
    assert (end.ended_at - end.started_at).total_seconds() == 1.5
    assert found.rows[-1] is end


def test_the_end_flushes_at_once(heard_by):
    """Not when a timer fires: what comes out comes before the next element."""
    found = stream([blocks_of(0), [block(sequence=1, last=True)], blocks_of(0, stream_id="other")],
                   heard_by)  # fmt: skip
    assert found.rows[-1].stream_id == "other"
    kinds = [row.kind for row in found.rows if row.stream_id == "radio"]
    assert kinds[-1] == "end"
    assert [row.stream_id for row in found.rows[: len(kinds)]] == ["radio"] * len(kinds)


def test_a_block_that_comes_in_time_leaves_no_trace(heard_by):
    ordered = stream([blocks_of(*range(12))], heard_by)
    script = [blocks_of(0, 1, 2), blocks_of(4, 5, 6), 1.3, blocks_of(3, *range(7, 12))]
    late = stream(script, heard_by)
    assert late.plain() == ordered.plain()
    assert late.failures == []


def test_a_block_that_comes_too_late_is_a_gap_and_a_failure(heard_by):
    found = stream(
        [blocks_of(0, 1, 2, 4, 5), 1.39, 1.41, blocks_of(3), blocks_of(6, 7), 1.6], heard_by
    )
    assert found.gaps() == [(0.3, 0.4, 0.1, 1)]
    assert found.reasons() == [("late_block", "radio", 0, 3)]
    assert found.of_kind("second") == [(0.0, 0.3), (0.4, 0.8)]
    assert found.of_kind("segment")[-1][1] == 0.8
    assert found.of_kind("end") == [(0.0, 0.8)]


def test_the_state_begins_anew_behind_a_gap(heard_by):
    found = stream([blocks_of(0, 1, 2, 7, 8, 9)], heard_by)
    alone = stream([blocks_of(7, 8, 9)], heard_by)
    assert found.gaps() == [(0.3, 0.7, 0.4, 4)]
    after = [row for row in found.rows if row.kind == "second"][1]
    (only,) = (row for row in alone.rows if row.kind == "second")
    np.testing.assert_array_equal(after.scores, only.scores)
    assert (after.started_at, after.ended_at) == (only.started_at, only.ended_at)
    assert (after.start_s, only.start_s) == (pytest.approx(0.7), 0.0)


def test_repetitions_before_and_behind(heard_by):
    ordered = stream([blocks_of(*range(6))], heard_by)
    script = [blocks_of(0, 0, 2, 2, 1, 1, 3), 0.4, blocks_of(0, 3, 4, 5, 5), 2.0, blocks_of(2, 5)]
    again = stream(script, heard_by)
    assert again.plain() == ordered.plain()


def test_interleaved_streams_are_strangers(heard_by):
    names = ("a", "bb", "ccc")
    alone = {
        name: stream([blocks_of(*range(8), stream_id=name)], heard_by).plain() for name in names
    }
    mixed = [block(name, n) for n in range(8) for name in names]
    found = stream([mixed[:7], 0.5, mixed[7:]], heard_by)
    for name in names:
        rows = [plain(row) for row in found.rows if row.stream_id == name]
        assert sorted(rows, key=lambda row: row["row_id"]) == alone[name][0]
    told = {str(row["scores"]) for rows, _, _ in alone.values() for row in rows}
    assert len(told - {"None"}) >= 3


def test_a_recorder_that_starts_anew(heard_by):
    found = stream(
        [blocks_of(0, 1, 2), blocks_of(0, 1, session=5), blocks_of(3), blocks_of(2, session=5)],
        heard_by,
    )
    ends = [(row.session, row.start_s, row.end_s) for row in found.rows if row.kind == "end"]
    assert ends == [(0, 0.0, pytest.approx(0.3)), (5, 0.0, pytest.approx(0.3))]
    assert found.reasons() == [("late_block", "radio", 0, 3)]
    assert found.gaps() == []
    assert found.of_kind("second") == [(0.0, 0.3), (0.0, 0.3)]
    started = [row.started_at for row in found.rows if row.kind == "second"]
    assert (started[1] - started[0]).total_seconds() == 5.0


def test_joining_a_stream_in_its_midst(heard_by):
    found = stream([blocks_of(501, 500), 52.0, blocks_of(502, 499)], heard_by)
    assert found.gaps() == []
    assert found.of_kind("second") == [(0.0, 0.3)]
    assert found.reasons() == [("late_block", "radio", 0, 499)]


def test_an_idle_stream_is_told_and_goes_on(heard_by):
    later = [block(sequence=n, event_time_us=START_US + 7_000_000 + 100_000 * n) for n in (3, 4)]
    found = stream(
        [blocks_of(0, 1, 2), 4.25, [block("a", last=True)], 4.35, [block("b", last=True)], later],
        heard_by,
    )
    order = [(row.stream_id, row.kind) for row in found.rows]
    told = order.index(("radio", "second"))
    assert order.index(("a", "end")) < told < order.index(("b", "end"))
    assert found.gaps() == [(0.3, 7.3, 7.0, 0)]
    assert found.of_kind("second") == [(0.0, 0.3), (7.3, 7.5)]
    assert found.of_kind("end") == [(0.0, 7.5)]


def test_an_idle_stream_is_told_once(heard_by):
    script = [blocks_of(0, 1, 2), *np.arange(4.0, 80.0, 1.7).tolist()]
    found = stream(script, heard_by)
    assert [row.kind for row in found.rows if row.kind != "segment"] == ["second", "end"]


def test_a_stream_is_forgotten_and_found_again(heard_by):
    later = [block(sequence=n, event_time_us=START_US + 100_000_000 + 100_000 * n) for n in (3, 4)]
    found = stream([blocks_of(0, 1, 2), 30.0, 60.2, 60.4, 99.0, later], heard_by)
    assert found.gaps() == []
    assert found.of_kind("end") == [(0.0, 0.3), (0.0, 0.2)]
    assert found.of_kind("second") == [(0.0, 0.3), (0.0, 0.2)]


def test_what_waits_is_heard_before_a_stream_is_forgotten(heard_by):
    found = stream([blocks_of(0, 2), 1.19], heard_by)
    assert found.gaps() == [(0.1, 0.2, 0.1, 1)]
    assert found.of_kind("end") == [(0.0, 0.3)]


# Bad input


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sample_rate_hz": 16_000}, "from 8000 Hz in 1 channels to 16000 Hz in 1 channels"),
        ({"channels": 2}, "from 8000 Hz in 1 channels to 8000 Hz in 2 channels"),
    ],
)
def test_a_format_that_changes(heard_by, changes, told):
    found = stream(
        [blocks_of(0, 1), blocks_of(2, 3, **changes), blocks_of(0, stream_id="b")], heard_by
    )
    assert found.reasons() == [("format_changed", "radio", 0, 2)]
    assert told in found.failures[0].message
    assert found.gaps() == []
    assert found.of_kind("second") == [(0.0, 0.2), (0.2, 0.4)]
    assert found.of_kind("end", "b") == [(0.0, 0.1)]


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e30])
def test_samples_that_are_none(heard_by, value):
    bad = np.full(800, value, "<f4").tobytes()
    wrong = [block(sequence=2, encoding="pcm_f32le", payload=bad)]
    found = stream([blocks_of(0, 1), wrong, blocks_of(3, 0, stream_id="b"), blocks_of(3)], heard_by)
    assert found.reasons() == [("invalid_samples", "radio", 0, 2)]
    assert found.gaps() == [(0.2, 0.3, 0.1, 1)]
    assert found.of_kind("end") == [(0.0, 0.4)]
    assert found.of_kind("end", "b") == [(0.0, 0.4)]


def test_the_loudest_samples_are_sound(heard_by):
    loud = (1e12 * np.where(np.arange(800) % 2, 1, -1)).astype("<f4").tobytes()
    found = stream(
        [blocks_of(0), [block(sequence=1, encoding="pcm_f32le", payload=loud)]], heard_by
    )
    assert found.failures == []
    scores = np.array([row.scores for row in found.rows if row.kind == "second"])
    assert np.isfinite(scores).all()


def test_a_silent_stream(heard_by):
    silence = [block(sequence=n, payload=bytes(1_600)) for n in range(25)]
    found = stream([silence, blocks_of(*range(25, 28)), blocks_of(0, stream_id="b")], heard_by)
    assert found.reasons()[0][:2] == ("silence", "radio")
    assert len(found.failures) == 1
    labels = [row.label for row in found.rows if row.kind == "second" and row.stream_id == "radio"]
    assert labels[:2] == ["unknown", "unknown"]
    assert labels[2] != "unknown"
    assert found.of_kind("second") == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.8)]
    assert found.of_kind("end", "b") == [(0.0, 0.1)]


def test_a_stream_that_floods(heard_by):
    flood = [block(sequence=n, event_time_us=START_US, frames=8_000) for n in range(15)]
    found = stream([flood, blocks_of(0, 1, stream_id="b")], heard_by)
    ((reason, stream_id, _, sequence),) = found.reasons()
    assert (reason, stream_id) == ("flooded", "radio")
    assert 10 <= sequence <= 12
    assert (
        len([1 for row in found.rows if row.kind == "second" and row.stream_id == "radio"])
        == sequence
    )
    assert found.of_kind("end", "b") == [(0.0, 0.2)]


def test_a_flood_that_has_ended(heard_by):
    flood = [block(sequence=n, event_time_us=START_US, frames=8_000) for n in range(14)]
    later = [
        block(sequence=n, event_time_us=START_US + 1_000_000 * n, frames=8_000) for n in (30, 31)
    ]
    found = stream([flood, later], heard_by)
    heard = found.failures[0].sequence
    assert found.gaps() == [(heard, 30.0, 30.0 - heard, 30 - heard)]


def test_blocks_without_sound(heard_by):
    """They say that the stream lives, or has ended; alone they make no rows."""
    nothing = [block(sequence=n, payload=b"") for n in (1, 3)]
    end = block(sequence=4, payload=b"", last=True)
    with_them = stream([blocks_of(0), nothing, blocks_of(2), [end]], heard_by)
    assert with_them.failures == with_them.gaps() == []
    assert with_them.of_kind("end") == with_them.of_kind("second") == [(0.0, 0.2)]
    alone = stream([[block(sequence=n, payload=b"", last=n == 2) for n in range(3)]], heard_by)
    assert (alone.rows, alone.failures) == ([], [])


def test_gaps_without_time_have_ids_of_their_own(heard_by):
    """Event time stands still, so that a gap has no length; Told.of checks the ids."""
    still = {"event_time_us": START_US}
    script = [block(sequence=n, **still) for n in (0, 2)] + [
        block(sequence=n, payload=b"", **still) for n in (4, 6)] + [
        block(sequence=n, **still) for n in (8, 10)]  # fmt: skip
    found = stream([script], heard_by)
    assert [gap[2:] for gap in found.gaps()] == [(0.0, 1), (0.0, 3), (0.0, 1)]


def test_times_at_the_edge(heard_by):
    first = [block(sequence=n, event_time_us=0) for n in (0, 1)]
    latest = [block(sequence=n, session=2**62, event_time_us=2**57) for n in (2**62 - 1, 2**62)]
    found = batch([*first, *latest], heard_by)
    assert found.reasons() == []
    ends = [(row.session, row.start_s, row.end_s) for row in found.rows if row.kind == "end"]
    assert ends == [(0, 0.0, pytest.approx(0.2)), (2**62, 0.0, pytest.approx(0.2))]
    assert {row.started_at.year for row in found.rows} == {1970, 6536}


# As a batch


def a_day() -> list[Block]:
    """Several streams with all that can happen in order."""
    hole = [block("hole", n, event_time_us=START_US + 100_000 * n + (n > 11) * 5_300_000)
            for n in range(20)]  # fmt: skip
    long = [block("long", n, event_time_us=START_US + 100_000 * n + (n > 4) * 70_000_000)
            for n in range(9)]  # fmt: skip
    return [
        *blocks_of(*range(13), stream_id="whole"), block("whole", 13, last=True),
        *blocks_of(*range(5), *range(8, 16), stream_id="gap"),
        *blocks_of(*range(40, 51), stream_id="joined"),
        *blocks_of(*range(4), stream_id="format"),
        *blocks_of(*range(4, 9), stream_id="format", sample_rate_hz=22_050),
        *hole, *long,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def day(heard_by):
    return live(sorted(a_day(), key=lambda one: one.event_time_us), heard_by).plain()


def test_the_day_has_all_of_it(day):
    rows, failures, _ = day
    assert Counter(row["stream_id"] for row in rows if row["kind"] == "gap") == {
        "gap": 1,
        "hole": 1,
    }
    assert Counter(row["stream_id"] for row in rows if row["kind"] == "end")["long"] == 2
    assert [row["reason"] for row in failures] == ["format_changed"]


def test_a_batch_gives_the_same_rows(heard_by, day):
    assert batch(a_day(), heard_by).plain() == day


def test_time_that_comes_late_gives_the_same_rows(heard_by, day):
    """No timer fires between the blocks: all that is seen is in the blocks."""
    assert stream([a_day()], heard_by).plain() == day


@settings(max_examples=6, deadline=None)
@given(order=st.permutations(a_day()))
def test_a_batch_in_any_order_gives_the_same_rows(heard_by, day, order):
    assert batch(order, heard_by).plain() == day


def test_a_batch_of_several_sessions(heard_by):
    blocks = [*blocks_of(0, 1, 2), *blocks_of(0, 1, session=1), *blocks_of(0, session=2, last=True)]
    assert batch(blocks, heard_by).plain() == live(blocks, heard_by).plain()


def test_gaps_of_a_batch_end(heard_by):
    """Timers lose what is under a millisecond on this runner; START_US is none."""
    found = batch(blocks_of(0, 2, 4, 6), heard_by)
    assert [gap[3] for gap in found.gaps()] == [1, 1, 1]
    assert found.of_kind("end") == [(0.0, 0.7)]


# Without noise


def test_the_clean_stream_is_a_stream(heard_by, tmp_path):
    folder = make_enhancer(tmp_path / "enhancer", "lstm")
    cleaning = dataclasses.replace(heard_by, denoiser=Denoiser(str(folder), fingerprint_of(folder)))
    blocks = [
        *blocks_of(*range(5), 7, 8),
        block(sequence=9, last=True),
        *blocks_of(0, 1, session=2),
    ]
    found = stream([blocks], cleaning)
    assert found.plain()[:2] == stream([blocks], heard_by).plain()[:2]
    sessions = [[one for one in found.clean if one.session == session] for session in (0, 2)]
    for clean, seconds in zip(sessions, (0.8, 0.2), strict=True):
        assert [one.last for one in clean] == [False] * (len(clean) - 1) + [True]
        assert sum(one.frames for one in clean) == round(8_000 * seconds)
        assert {(one.sample_rate_hz, one.channels) for one in clean} == {(8_000, 1)}
        times = [(one.event_time_us, one.end_time_us) for one in clean]
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(times))
    pairs = itertools.pairwise(sessions[0])
    holes = [(b.event_time_us - a.end_time_us, b.sequence - a.sequence) for a, b in pairs]
    assert sorted(holes) == [(0, 1)] * (len(holes) - 1) + [(200_000, 2)]
    assert [one[0].sequence for one in sessions] == [0, 0]
    assert sessions[1][0].event_time_us == START_US + 2_000_000
    assert batch(blocks, cleaning).plain() == found.plain()
    heard_again = stream([sessions[0]], heard_by)
    assert heard_again.failures == []
    assert heard_again.gaps() == [(0.5, 0.7, 0.2, 1)]
    assert heard_again.of_kind("end") == [(0.0, 1.0)]

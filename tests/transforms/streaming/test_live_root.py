"""Live sources in a graph: rows come while blocks do, and event time is event time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer

from transforms.errors import Reason, UsageError
from transforms.stage_metrics import FAILURES
from transforms.streaming.arrivals import Arrived, Polled, Source, SourceFailure, SourceSpec
from transforms.streaming.live_root import LivePolls, Stop
from transforms.streaming.sources import BLOCKS, ReadLive


@dataclass(frozen=True)
class Wait:
    """Nothing new comes until so many rows are there, on a busy machine too."""

    rows: int
    seconds: float = 60.0


SCRIPTS: dict[str, list[Polled | Wait | Callable[[], Polled]]] = {}
ROWS: list[str] = []
CLOSED: list[str] = []


@pytest.fixture(autouse=True)
def _clean():
    SCRIPTS.clear(), ROWS.clear(), CLOSED.clear()


@dataclass(frozen=True)
class Scripted(SourceSpec):
    """Plays a list of polls; behind it nothing new comes."""

    name: str

    def open(self) -> Source:
        return ScriptedSource(self.name)


class ScriptedSource(Source):
    def __init__(self, name: str) -> None:
        self._name, self._at, self._last = name, 0, Polled()
        self._opened_s = time.monotonic()

    def poll(self) -> Polled:
        script = SCRIPTS[self._name]
        if self._at == len(script):
            return Polled((), self._last.watermark_us)
        step = script[self._at]
        if isinstance(step, Wait):
            waited_s = time.monotonic() - self._opened_s
            if len(ROWS) < step.rows and waited_s < step.seconds:
                return Polled((), self._last.watermark_us)
            self._at += 1
            return self.poll()
        self._last = step() if callable(step) else step
        self._at += 1
        return self._last

    def close(self) -> None:
        CLOSED.append(self._name)


def take_row(row: str) -> None:
    ROWS.append(row)  # by name: what is pickled with the graph is a copy


def at(seconds: float, stream_id: str = "a") -> Arrived:
    return Arrived(stream_id, f"{seconds:g}".encode(), round(seconds * 1e6))


def us(seconds: float) -> int:
    return round(seconds * 1e6)


COUNT = ReadModifyWriteStateSpec("count", VarIntCoder())
GAP = TimerSpec("gap", TimeDomain.WATERMARK)
COUNTED, GAP_TIMER = beam.DoFn.StateParam(COUNT), beam.DoFn.TimerParam(GAP)


class Count(beam.DoFn):
    """Counts a stream's blocks, and tells of a gap two seconds of event time behind the last."""

    def process(
        self,
        pair,
        time_of_it=beam.DoFn.TimestampParam,
        count=COUNTED,
        gap=GAP_TIMER,
    ):
        count.write((count.read() or 0) + 1)
        gap.set(time_of_it + 2)
        yield f"{pair[0]} {pair[1].decode()} is {count.read()}"

    @on_timer(GAP)
    def gap_is_over(self, key=beam.DoFn.KeyParam, count=COUNTED):
        yield f"{key} gap behind {count.read()}"


def run(*names: str, **options) -> list[str]:
    pipeline = beam.Pipeline(
        runner=BundleBasedDirectRunner(), options=PipelineOptions(["--streaming"])
    )
    read = pipeline | ReadLive([Scripted(name) for name in names], **options)
    read[BLOCKS] | "Count" >> beam.ParDo(Count()) | "Rows" >> beam.Map(take_row)
    (
        read[FAILURES]
        | "Tell" >> beam.Map(lambda one: f"{one.source} {one.reason.value}")
        | "Told" >> beam.Map(take_row)
    )
    pipeline.run().wait_until_finish()
    return ROWS


def test_a_gap_is_told_when_the_watermark_passes_and_not_before():
    seen: list[list[str]] = []

    def note() -> Polled:
        seen.append(list(ROWS))
        return Polled((), us(11.9))

    def note_again() -> Polled:
        seen.append(list(ROWS))
        return Polled((), us(12))

    def end() -> Polled:
        seen.append(list(ROWS))
        return Polled((at(13),), us(12), ended=True)

    SCRIPTS["one"] = [Polled((at(10),), us(10)), Wait(1), note, note_again, Wait(2), end]
    rows = run("one")
    assert seen[0] == ["a 10 is 1"]
    assert seen[1] == ["a 10 is 1"]
    assert seen[2] == ["a 10 is 1", "a gap behind 1"]
    assert rows == ["a 10 is 1", "a gap behind 1", "a 13 is 2", "a gap behind 2"]
    assert CLOSED == ["one"]


def test_a_timer_that_was_set_again_fires_once_at_the_later_time():
    SCRIPTS["one"] = [Polled((at(n), at(n, "b")), us(n)) for n in range(8)] + [
        Polled((), us(8)),
        Polled((at(20, "b"),), us(8)),
        Polled((), us(9)),
        Polled((), us(21), ended=True),
    ]
    rows = run("one")
    assert [row for row in rows if row.startswith("a")] == [
        *(f"a {n} is {n + 1}" for n in range(8)),
        "a gap behind 8",
    ]
    b = [*(f"b {n} is {n + 1}" for n in range(8)), "b 20 is 9"]
    # A block that comes at once with the time may be counted before the gap is told.
    assert [row for row in rows if row.startswith("b")] == [*b, "b gap behind 9"]


def test_the_slower_of_two_sources_holds_the_time():
    def note() -> Polled:
        SCRIPTS["slow"].append(Polled((), us(5), ended=True))
        assert ROWS == ["a 1 is 1"]
        return Polled((), us(100), ended=True)

    SCRIPTS["fast"] = [Polled((at(1),), us(1)), Polled((), us(50)), Wait(1), note]
    SCRIPTS["slow"] = [Polled((), us(2))]
    assert run("fast", "slow") == ["a 1 is 1", "a gap behind 1"]
    assert CLOSED == ["fast", "slow"]


def test_a_source_that_knows_no_time_holds_it():
    SCRIPTS["fast"] = [Polled((at(1),), us(90)), Wait(2), Polled((), us(91), ended=True)]
    SCRIPTS["slow"] = [Wait(1), lambda: Polled((), None, ended=not ROWS.append("-"))]
    rows = run("fast", "slow")
    assert rows == ["a 1 is 1", "-", "a gap behind 1"]


def test_failures_go_their_own_way():
    failure = SourceFailure("x.block", Reason.MALFORMED_BLOCK, "no block", "a")
    SCRIPTS["one"] = [Polled((failure, at(1)), us(1)), Polled((failure,), us(1), ended=True)]
    rows = run("one")
    assert sorted(rows) == sorted(["x.block malformed_block"] * 2 + ["a 1 is 1", "a gap behind 1"])


def test_many_polls_with_blocks_let_time_go_on():
    """Not only when nothing comes for once."""
    SCRIPTS["one"] = [Polled((at(n, "ab"[n == 0]),), us(n)) for n in range(30)]
    SCRIPTS["one"].append(Polled((), us(30), ended=True))
    rows = run("one")
    assert rows.index("b gap behind 1") < rows.index("a 5 is 5")


def test_it_ends_when_it_is_told_to():
    stop = Stop.new()
    SCRIPTS["one"] = [Polled((at(1),), us(1))]
    thread = threading.Timer(1.0, stop.set)
    thread.start()
    assert run("one", stop=stop) == ["a 1 is 1", "a gap behind 1"]
    thread.join()
    assert CLOSED == ["one"]


def test_it_ends_after_some_seconds():
    SCRIPTS["one"] = [Polled((at(1),), us(1))]
    began_s = time.monotonic()
    assert run("one", for_seconds=1.0) == ["a 1 is 1", "a gap behind 1"]
    assert time.monotonic() - began_s >= 1.0


def test_no_source_at_all():
    assert run() == []


def test_what_a_source_raises_ends_the_run():
    calls = []

    def fail() -> Polled:
        calls.append(1)
        raise RuntimeError("out of order")

    SCRIPTS["one"] = [Polled((at(1),), us(1)), fail, Polled((at(2),), us(2))]
    with pytest.raises(RuntimeError, match="out of order"):
        run("one")
    assert calls == [1]


def test_other_runners_are_refused():
    with pytest.raises(UsageError, match="FnApiRunner reads no live sources"):
        beam.Pipeline(runner=FnApiRunner()) | ReadLive([Scripted("one")])


def test_polls_give_blocks_or_time_but_not_both():
    stop = Stop.new()
    SCRIPTS["one"] = [Polled((at(1),), us(1)), Polled((at(2), at(3)), us(3)), Polled((), us(2))]
    polls = LivePolls([Scripted("one")], stop)
    given = [polls.poll() for _ in range(5)]
    assert [(len(one.items), one.watermark_us) for one in given] == [
        (1, None), (0, us(1)), (2, us(1)), (0, us(3)), (0, us(3))
    ]  # fmt: skip
    stop.set()
    assert polls.poll().ended
    assert polls.poll().ended
    assert CLOSED == ["one"]


class Endless(Source):
    """Goes with the clock, whether something comes or not."""

    def __init__(self, *items: Arrived) -> None:
        self._items, self.polls, self.closed = items, 0, False

    def poll(self) -> Polled:
        self.polls += 1
        return Polled(self._items, time.time_ns() // 1_000)

    def close(self) -> None:
        self.closed = True


class Opened(SourceSpec):
    def __init__(self, source: Source) -> None:
        self._source = source

    def open(self) -> Source:
        return self._source


@pytest.mark.parametrize("items", [(), (at(1),)], ids=["idle", "never idle"])
@pytest.mark.parametrize("by", ["stop", "time"])
def test_a_source_whose_time_always_goes_on_can_be_stopped(items, by):
    source, stop = Endless(*items), Stop.new()
    polls = LivePolls([Opened(source)], stop, 1.0 if by == "time" else None)
    for _ in range(3):
        assert not polls.poll().ended
    if by == "stop":
        stop.set()
    else:
        time.sleep(1.0)
    assert any(polls.poll().ended for _ in range(4))
    assert source.closed


def test_an_idle_source_is_not_asked_without_a_pause():
    source = Endless()
    polls = LivePolls([Opened(source)], Stop.new())
    polls.poll()
    asked, until_s = source.polls, time.monotonic() + 0.5
    while time.monotonic() < until_s:
        polls.poll()
    assert source.polls - asked < 50

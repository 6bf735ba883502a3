"""Counters and failure rows of a stage, seen through a small Beam pipeline."""

from __future__ import annotations

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from transforms import stage_metrics
from transforms.errors import Reason, StageError, StorageError
from transforms.records import Failure, Track
from transforms.stage_metrics import BUSY_METRIC, FAILURES, StageMeter


class HalvesDoFn(beam.DoFn):
    """Two halves of an even number; odd numbers and texts cannot be halved."""

    def __init__(self) -> None:
        self.meter = StageMeter("Halve")

    def process(self, number):
        yield from self.meter.run(Track(str(number)), lambda: self.halves(number))

    def halves(self, number):
        yield number // 2
        if number % 2:
            raise StageError(Reason.CORRUPT, f"{number} is odd")
        yield number // 2


class Halves(beam.PTransform):
    def expand(self, numbers):
        return numbers | beam.ParDo(HalvesDoFn()).with_outputs(FAILURES, main="halves")


def halve(*numbers):
    """A pipeline with the stage in it, and the outputs of the stage."""
    pipeline = beam.Pipeline(runner="FnApiRunner")
    outputs = pipeline | beam.Create(numbers) | Halves()
    return pipeline, outputs


def counters(result):
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace("Halve"))
    return {c.key.metric.name: c.result for c in found["counters"]}, found["distributions"]


def test_counts_in_out_and_failures_by_reason():
    pipeline, outputs = halve(4, 8, 3, "no number")
    assert_that(outputs.halves, equal_to([2, 2, 4, 4, 1]), "halves")
    assert_that(
        outputs[FAILURES],
        equal_to(
            [
                Failure(Track("3"), "Halve", Reason.CORRUPT, "3 is odd"),
                Failure(
                    Track("no number"),
                    "Halve",
                    Reason.INTERNAL_ERROR,
                    "TypeError: unsupported operand type(s) for //: 'str' and 'int'",
                ),
            ]
        ),
        "failures",
    )
    result = pipeline.run()
    result.wait_until_finish()
    counts, distributions = counters(result)
    assert counts == {
        "elements_in": 4,
        "elements_out": 5,
        "failed_corrupt": 1,
        "failed_internal_error": 1,
    }
    assert [d.key.metric.name for d in distributions] == [BUSY_METRIC]
    assert distributions[0].result.count == 4


class FakeClock:
    def __init__(self) -> None:
        self.now_ns = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns


def test_time_of_the_stages_behind_is_not_counted(monkeypatch):
    clock, recorded = FakeClock(), []
    monkeypatch.setattr(stage_metrics, "time", clock)
    meter = StageMeter("Clocked")
    monkeypatch.setattr(meter, "_busy", type("Spy", (), {"update": recorded.append})())

    def work():
        for item in "ab":
            clock.now_ns += 3_000  # what the stage itself takes
            yield item

    for _ in meter.count(work):
        clock.now_ns += 1_000_000  # what the stages behind take
    assert recorded == [6]


def test_time_is_recorded_when_the_stage_fails(monkeypatch):
    clock, recorded = FakeClock(), []
    monkeypatch.setattr(stage_metrics, "time", clock)
    meter = StageMeter("Clocked")
    monkeypatch.setattr(meter, "_busy", type("Spy", (), {"update": recorded.append})())

    def work():
        clock.now_ns += 5_000
        raise StageError(Reason.CORRUPT, "broken")
        yield

    (item,) = meter.run(Track("a.wav"), work)
    assert item.value == Failure(Track("a.wav"), "Clocked", Reason.CORRUPT, "broken")
    assert recorded == [5]


def test_leaving_early_is_no_failure():
    items = StageMeter("Left").run(Track("a.wav"), lambda: iter([1, 2, 3]))
    assert next(items) == 1
    items.close()
    with pytest.raises(StopIteration):
        next(items)


def test_an_error_of_the_runs_storage_is_no_failure_of_a_track():
    def work():
        yield 1
        raise StorageError("the disk is full")

    items = StageMeter("Stored").run(Track("a.wav"), work)
    assert next(items) == 1
    with pytest.raises(StorageError, match="full"):
        next(items)


def test_a_failure_is_counted_as_one_and_not_as_an_output(monkeypatch):
    meter, out = StageMeter("Counted"), []
    monkeypatch.setattr(meter, "_out", type("Spy", (), {"inc": lambda: out.append(1)}))
    failure = Failure(Track("a.wav"), "Counted", Reason.CORRUPT, "broken")
    items = list(meter.count(lambda: iter([1, meter.failed(failure), 2])))
    assert (len(items), len(out)) == (3, 2)
    assert (items[1].tag, items[1].value) == (FAILURES, failure)

"""A pipeline that counts a topic's records by key."""

# ruff: noqa: B008, Beam's way to say which parameters a method has
from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import nullcontext

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer

from pipeline.flink_streams import stream_options
from pipeline.kafka_java import expansion_service, job_server_jar
from pipeline.runner import runner_options
from transforms.streaming.kafka import ReadKafka, WriteKafka
from transforms.streaming.kafka_client import KafkaTopic

NUMBERS = struct.Struct(">qq")
IN, OUT = "numbers", "counts"


class Count(beam.DoFn):
    """(key, number) to (key, number and how many there were); half a second later -1 and these."""

    COUNT = ReadModifyWriteStateSpec("count", BytesCoder())
    LATER = TimerSpec("later", TimeDomain.WATERMARK)

    def process(
        self,
        record: tuple[bytes, bytes],
        timestamp=beam.DoFn.TimestampParam,
        count=beam.DoFn.StateParam(COUNT),
        later=beam.DoFn.TimerParam(LATER),
    ) -> Iterator[tuple[bytes, bytes]]:
        key, value = record
        counted = int.from_bytes(count.read() or b"", "big") + 1
        count.write(counted.to_bytes(8, "big"))
        later.set(timestamp + 0.5)
        yield key, NUMBERS.pack(int(value), counted)

    @on_timer(LATER)
    def after(
        self, key=beam.DoFn.KeyParam, count=beam.DoFn.StateParam(COUNT)
    ) -> Iterator[tuple[bytes, bytes]]:
        yield key, NUMBERS.pack(-1, int.from_bytes(count.read(), "big"))


def main(source: str, brokers: str, *given: str) -> None:
    """Run it, on Flink by ``java`` and on Prism by ``python``, with these options of Beam."""
    if source == "java":
        runner, args = "FlinkRunner", [*given, *stream_options(given)]
        service = expansion_service(job_server_jar())
    else:
        runner, args, service = "PrismRunner", [*given, "--streaming"], nullcontext()
    pipeline = beam.Pipeline(options=runner_options(runner, args))
    with service as address:
        (
            pipeline
            | ReadKafka(KafkaTopic(brokers, IN), address, from_start=True, time="LogAppendTime")
            | beam.Map(lambda record: record).with_output_types(tuple[bytes, bytes])
            | beam.ParDo(Count()).with_output_types(tuple[bytes, bytes])
            | WriteKafka(KafkaTopic(brokers, OUT))
        )
    pipeline.run().wait_until_finish()

"""The graph of live streams: from where blocks come, Listen, and where its rows go."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from pipeline.publish_arguments import default_id
from pipeline.stream_arguments import StreamConfig
from transforms.stage_metrics import FAILURES as REFUSED
from transforms.streaming.arrivals import BLOCKS, SourceSpec
from transforms.streaming.blocks import encode_block
from transforms.streaming.folder import FolderSpec
from transforms.streaming.kafka import ReadKafka, WriteKafka
from transforms.streaming.kafka_client import KAFKA, KafkaTopic, clock_of
from transforms.streaming.kafka_live import KafkaSpec
from transforms.streaming.keyed import KeyBlocks, TellFailures
from transforms.streaming.listen import CLEAN, FAILURES, ROWS, Listen
from transforms.streaming.listening import ListenSettings
from transforms.streaming.live_root import Stop
from transforms.streaming.live_source import is_url
from transforms.streaming.published import PublishedSpec
from transforms.streaming.publisher import Plan
from transforms.streaming.rows import LabelRow, StreamFailureRow
from transforms.streaming.sinks import PrintRows, WriteBlocks, WriteWindows, to_message
from transforms.streaming.sources import ReadFolder, ReadLive


@dataclass(frozen=True, kw_only=True)
class StreamJob:
    """A configuration with everything looked up that the graph needs."""

    config: StreamConfig
    settings: ListenSettings
    stop: Stop  # ends live sources

    def build(self, pipeline: beam.Pipeline, expansion_service: str | None = None) -> None:
        """Build the graph.

        Parameters
        ----------
        pipeline : beam.Pipeline
        expansion_service : str, optional
            HOST:PORT of one that knows KafkaIO; without it topics are read in Python.
        """
        blocks, refused = self._read(pipeline, expansion_service)
        listened = blocks | "Listen" >> Listen(self.settings)
        told = refused | "TellFailures" >> TellFailures(self.settings.provenance)
        failures = (listened[FAILURES], told) | "AllFailures" >> beam.Flatten()
        for sink in self.config.sinks:
            self._write(listened[ROWS], failures, sink)
        if self.config.clean_to is not None:
            _write_clean(listened[CLEAN], self.config.clean_to)

    def _read(self, pipeline: beam.Pipeline, service: str | None) -> tuple[Any, Any]:
        """Keyed blocks, and what is none."""
        first, config = self.config.sources[0], self.config
        if config.is_live:
            specs = [_spec(source, config.from_start) for source in config.sources]
            read = pipeline | "ReadLive" >> ReadLive(specs, self.stop, config.for_seconds)
        elif config.reads_kafka:
            topic = KafkaTopic.parse(first)
            read_kafka = ReadKafka(topic, service, config.from_start, clock_of(topic))
            contents = pipeline | "ReadKafka" >> read_kafka | "Content" >> beam.Values()
            read = contents | "KeyBlocks" >> KeyBlocks(first)
        else:
            read = pipeline | "ReadFolder" >> ReadFolder(FolderSpec(first, follow=False))
        return read[BLOCKS], read[REFUSED]

    def _write(self, rows: Any, failures: Any, sink: str) -> None:
        if sink.startswith(KAFKA):
            for which, collection in ((sink, rows), (f"{sink}-failures", failures)):
                messages = collection | f"ToMessage {which}" >> beam.Map(to_message)
                _ = messages | f"WriteKafka {which}" >> WriteKafka(KafkaTopic.parse(which))
        elif sink == "-":
            _ = (rows, failures) | "Both" >> beam.Flatten() | "Print" >> PrintRows()
        else:
            run_id, seconds = self.settings.provenance.run_id, self.config.file_seconds
            labels = self.settings.rule.labels
            _ = rows | f"WriteLabels {sink}" >> WriteWindows(
                f"{sink}/labels", LabelRow, run_id, seconds, labels
            )
            _ = failures | f"WriteFailures {sink}" >> WriteWindows(
                f"{sink}/failures", StreamFailureRow, run_id, seconds
            )


def _write_clean(blocks: Any, address: str) -> None:
    if not address.startswith(KAFKA):
        _ = blocks | "WriteClean" >> WriteBlocks(address)
        return
    messages = blocks | "ToWire" >> beam.Map(
        lambda block: (block.stream_id.encode(), encode_block(block))
    )
    _ = messages | "WriteClean" >> WriteKafka(KafkaTopic.parse(address))


def _spec(source: str, from_start: bool) -> SourceSpec:
    if source.startswith(KAFKA):
        return KafkaSpec(KafkaTopic.parse(source), from_start)
    if source == "-" or is_url(source):
        plan = Plan(session=time.time_ns() // 1_000)
        return PublishedSpec(source, default_id(source), plan)
    return FolderSpec(source)

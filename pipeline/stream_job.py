"""A stream run: what its graph needs, and the runner that runs it."""

from __future__ import annotations

import dataclasses

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.runner import PipelineRunner

from pipeline.execution import run_to_end, tell_own_errors_once
from pipeline.flink import job_name
from pipeline.flink_streams import stream_options
from pipeline.kafka_java import expansion_service, job_server_jar
from pipeline.runner import beam_options, check_runner, make_runner
from pipeline.stream_arguments import StreamConfig
from pipeline.stream_graph import StreamJob


def run_job(job: StreamJob) -> None:
    """Run a job until its sources end, or for ever.

    Raises
    ------
    CatalogError
        Of a stage, or of the cluster.
    KeyboardInterrupt
        When interrupted where it cannot end in peace.
    """
    config = job.config
    options = _options(config)
    check_runner(config.runner, options)
    cloud = options.view_as(GoogleCloudOptions)
    cloud.job_name = job_name(job.settings.provenance.run_id, cloud.job_name)
    tell_own_errors_once()
    pipeline = beam.Pipeline(runner=_runner(config, options), options=options)
    if config.reads_kafka and config.runner == "FlinkRunner":
        jar = job_server_jar(options.view_as(FlinkRunnerOptions).flink_job_server_jar)
        with expansion_service(jar) as service:
            job.build(pipeline, service)
    else:
        job.build(pipeline)
    run_to_end(pipeline, config.runner, options, job.settings.provenance.run_id)


def _options(config: StreamConfig) -> PipelineOptions:
    given = config.beam_args
    if config.runner == "FlinkRunner":
        given = (*given, *stream_options(given))
    options = beam_options(dataclasses.replace(config, beam_args=given))
    options.view_as(StandardOptions).streaming = not config.once
    return options


def _runner(config: StreamConfig, options: PipelineOptions) -> PipelineRunner | str:
    """Of live sources the one runner in Python whose event-time timers wait for event time."""
    if config.is_live:
        return BundleBasedDirectRunner()
    return make_runner(config, options)

"""Options of streams on Flink: what is added, and that Beam's own check knows them."""

from __future__ import annotations

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.flink_streams import stream_options
from pipeline.runner import runner_options
from transforms.errors import UsageError


def test_what_is_given_is_kept() -> None:
    found = stream_options(["--max_bundle_time_mills=7", "--checkpointing_interval", "9"])
    assert "--streaming" in found
    assert not [one for one in found if one.startswith(("--max_bundle_time", "--checkp"))]


def test_they_are_options_of_this_program() -> None:
    options = runner_options("DirectRunner", stream_options([])).get_all_options()
    assert options["streaming"]
    assert options["checkpointing_interval"] == 5000
    assert options["max_bundle_time_mills"] == 20
    assert options["finish_bundle_before_checkpointing"]
    with pytest.raises(UsageError, match="--max_bundle_time_millis"):
        runner_options("DirectRunner", ["--max_bundle_time_millis=7"])


def test_batch_jobs_say_nothing_of_them() -> None:
    told = PipelineOptions([]).get_all_options(drop_default=True)
    assert not set(told) & {"checkpointing_interval", "max_bundle_size", "savepoint_path",
                            "finish_bundle_before_checkpointing"}  # fmt: skip

"""Options of Beam's Flink runner for jobs without an end.

Beam's Python leaves them to the job server, which is asked only once the job is sent. They are
declared here, so that a misspelt one is refused before any work, as all others are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions

# A bundle ends after these, and a block passes three. 50 would save processor, and cost a tenth
# of a second.
_BUNDLE_MILLISECONDS = 20
_BUNDLE_ELEMENTS = 100
# What is done again, and written again, after a death.
_CHECKPOINT_MILLISECONDS = 5000
# Of its whole life, which has no end; a batch job has the cluster's few.
_RETRIES = 1000
_RETRY_MILLISECONDS = 2000


class FlinkStreamOptions(PipelineOptions):  # type: ignore[misc]
    """The options that Beam's job server takes for streams, by its names."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        for name, what in (
            ("checkpointing_interval", "milliseconds between two checkpoints"),
            ("checkpoint_timeout_millis", "a checkpoint that takes longer is given up"),
            ("min_pause_between_checkpoints", "milliseconds"),
            ("max_bundle_time_mills", "a bundle ends after so many milliseconds"),
            ("max_bundle_size", "a bundle ends after so many elements"),
            ("auto_watermark_interval", "milliseconds between two watermarks of a source"),
            ("number_of_execution_retries", "how often a job is started anew in all"),
            ("execution_retry_delay", "milliseconds before each of these"),
        ):
            parser.add_argument(f"--{name}", type=int, help=f"On Flink: {what}")
        parser.add_argument(
            "--finish_bundle_before_checkpointing", action="store_true", default=None,
            help="On Flink: what a bundle gives is sent on before a checkpoint, not kept in it",
        )  # fmt: skip
        parser.add_argument("--savepoint_path", help="On Flink: where to go on from")


def stream_options(args: Sequence[str]) -> list[str]:
    """What a job without an end needs on Flink and ``args`` lack.

    Parameters
    ----------
    args : sequence of str
        What the caller gave, ``--name=value`` or ``--name value``.

    Returns
    -------
    list of str
        To be added.
    """
    given = {arg.partition("=")[0] for arg in args}
    wanted = {
        "--streaming": None,
        "--checkpointing_interval": _CHECKPOINT_MILLISECONDS,
        # By default it is kept in the checkpoint and sent on with the next bundle, behind a
        # watermark that has passed it: rows in time would come late.
        "--finish_bundle_before_checkpointing": None,
        "--max_bundle_time_mills": _BUNDLE_MILLISECONDS,
        "--max_bundle_size": _BUNDLE_ELEMENTS,
        "--number_of_execution_retries": _RETRIES,
        "--execution_retry_delay": _RETRY_MILLISECONDS,
    }
    return [
        name if value is None else f"{name}={value}"
        for name, value in wanted.items()
        if name not in given
    ]

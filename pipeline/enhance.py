"""Enhance audio files: ``python -m pipeline.enhance --input=... --output=...``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipeline.enhance_arguments import EnhanceConfig, parse_options
from pipeline.forkserver import fork_server
from pipeline.logs import quiet_native_libraries
from pipeline.program import exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the enhancing job.

    Returns
    -------
    int
        The exit status, as the end of ``--help`` states them.
    """
    return run(parse_options(argv))


def run(config: EnhanceConfig) -> int:
    """Run the enhancing job of a configuration; returns the exit status."""
    return exit_status(lambda: _enhance(config))


def _enhance(config: EnhanceConfig) -> int:
    if config.runner == "DirectRunner" and config.workers > 1:
        fork_server()  # it imports at the same time as this process
    from pipeline import enhance_job, job  # Beam takes a second to import; --help should not

    return job.run(enhance_job.prepare(config))


if __name__ == "__main__":
    options = parse_options()
    if options.workers == 1:  # else the decoders are in worker processes, which see to it
        quiet_native_libraries()
    sys.exit(run(options))

"""Label in a browser and by HTTP: ``python -m pipeline.serve``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipeline.program import EXIT_DONE, EXIT_FAILED, exit_status
from pipeline.serve_arguments import parse_options
from pipeline.serve_config import ServeConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stopped.

    Returns
    -------
    int
        The exit status, as the end of ``--help`` states them.
    """
    config = parse_options(argv)
    return exit_status(lambda: _serve(config))


def _serve(config: ServeConfig) -> int:
    from pipeline.serving.pool import start_fork_server

    start_fork_server()  # it imports at the same time as this process
    import asyncio

    from pipeline.serving.server import serve

    return EXIT_DONE if asyncio.run(serve(config)) else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())

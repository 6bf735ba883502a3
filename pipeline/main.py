"""Label audio files: ``python -m pipeline.main --input=... --output=...``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipeline.logs import quiet_native_libraries, set_up_logging
from pipeline.options import parse_options
from transforms.errors import CatalogError, UsageError

EXIT_FAILED, EXIT_WRONG_CALL, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the labelling job.

    Returns
    -------
    int
        The exit status, as the end of ``--help`` states them.
    """
    config = parse_options(argv)
    set_up_logging()
    from pipeline import job  # Beam takes a second to import; --help should not

    try:
        prepared = job.prepare(config)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG_CALL
    try:
        return job.run(prepared)
    except KeyboardInterrupt:
        print("interrupted: this run has written no results", file=sys.stderr)
        return EXIT_INTERRUPTED
    except CatalogError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    quiet_native_libraries()
    sys.exit(main())

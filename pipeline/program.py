"""What all programs share: exit statuses, and how an error reaches the person who called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.logs import set_up_logging
from transforms.errors import CatalogError, UsageError

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_CALL, EXIT_TOO_MANY_FAILURES = 0, 1, 2, 3
EXIT_INTERRUPTED = 130  # as a shell says it of a program that SIGINT ended


def exit_status(work: Callable[[], int]) -> int:
    """Run a program's work and turn its errors into one line and a status.

    Parameters
    ----------
    work : callable
        Gives its exit status.

    Returns
    -------
    int
        What ``work`` gave, or EXIT_WRONG_CALL, EXIT_FAILED or EXIT_INTERRUPTED. An exception
        that is not this project's is a bug and passes through.
    """
    set_up_logging()
    try:
        return work()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG_CALL
    except CatalogError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def refuse_existing(output: Path) -> None:
    """Raise UsageError if a folder that is to be made is there already."""
    if output.exists():
        raise UsageError(
            f"--output={output} is there already; nothing is overwritten, name another folder"
        )

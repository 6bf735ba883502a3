"""Logging of the programs: warnings and errors to stderr, without Beam's known noise."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys

_NOISE = (
    "apitools not found",  # Beam, of a client that this program does not use
    "No semi_persistent_directory found",  # a worker on this machine needs none
    "Discarding unparseable args",  # Beam's own flags, between its own processes
    "direct_num_workers is not equal to 1",  # our workers are processes, see pipeline.runner
    "Really starting service",  # Beam's job server, with its command line
    "Really destroying service",
    "Waiting for grpc channel to be ready",  # of that server, which takes seconds to start
    "error='signal: killed'",  # how Prism ends its workers; a job that fails says so itself
)
_PRISM = "PrismRunner"


def is_wanted(record: logging.LogRecord) -> bool:
    """False for messages that come up in every healthy run."""
    message = record.getMessage()
    if record.name == _PRISM and record.levelno < logging.WARNING:
        return _level() < logging.WARNING  # Beam shows these whatever level is set
    return not any(noise in message for noise in _NOISE)


def set_up_logging() -> None:
    """Log to stderr from the level in the environment variable LOG_LEVEL, or WARNING."""
    handler = logging.StreamHandler()
    handler.addFilter(is_wanted)
    logging.basicConfig(
        level=_level(),
        format="%(levelname)s %(name)s: %(message)s",
        handlers=[handler],
    )


def _level() -> int:
    level = logging.getLevelName(os.environ.get("LOG_LEVEL", "WARNING").upper())
    return level if isinstance(level, int) else logging.WARNING


def quiet_native_libraries() -> None:
    """Let only Python write to stderr: decoders in C print a line for each broken MP3 frame.

    What is wrong with a file stands in its row (``decode_warnings``, ``reason``). A crash still
    prints Python's stack. With LOG_LEVEL=DEBUG nothing is taken away.
    """
    if os.environ.get("LOG_LEVEL", "").upper() == "DEBUG":
        return
    own = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = own
    faulthandler.enable(own)

"""What becomes of the service's errors."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.serving.answers import Problem, RefusedError, Service, Upload
from transforms.errors import StageError

_LOG = logging.getLogger(__name__)


def told_of_error(error: Exception) -> tuple[str, str]:
    """The reason and the message that a visitor is told; what nobody expects is logged, too."""
    if isinstance(error, StageError):
        return error.reason.value, error.message
    if isinstance(error, RefusedError):
        return error.problem.value, error.message
    _LOG.error("the page met an error that it does not expect", exc_info=error)
    return Problem.INTERNAL.value, type(error).__name__


async def sound_of(service: Service, upload: Upload, codec: str) -> Path | None:
    """What a browser plays of an upload, or None: a result is worth having without its sound."""
    try:
        return await service.playable(upload, codec)
    except Exception as error:
        told_of_error(error)
        return None

"""Trying again what storage refuses for a while, with backoff; never what stays wrong."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from apache_beam.io.filesystem import BeamIOError
from apache_beam.utils import retry

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
"""No new attempt is begun after this; file systems have retries of their own below."""

_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS, _ATTEMPTS = 0.5, 30.0, 8
_PASSING_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY,
     errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE,
     errno.EHOSTUNREACH, errno.ENETUNREACH}
)  # fmt: skip
_PASSING_CODES = frozenset({408, 425, 429})  # HTTP, besides 5xx
_LOGGER = logging.getLogger(__name__)


def is_storage_error(error: BaseException) -> bool:
    """Whether a file system raised it; cloud clients have kinds of their own, with a ``code``."""
    if isinstance(error, (OSError, BeamIOError)):
        return True
    code = getattr(error, "code", "")
    return isinstance(error, Exception) and (code is None or isinstance(code, int))


def may_pass(error: BaseException) -> bool:
    """Whether an error of a file system may be gone a little later.

    True for a full disk, network errors, time-outs, and HTTP statuses 408, 425, 429 and 5xx;
    false for what is missing, forbidden, or no error of storage.
    """
    if isinstance(error, BeamIOError) and error.exception_details:
        return any(may_pass(cause) for cause in error.exception_details.values())
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _PASSING_ERRNOS
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if not hasattr(error, "code"):
        return False
    code = error.code  # cloud clients put the HTTP status here, None where no answer came
    return code is None or (isinstance(code, int) and (code >= 500 or code in _PASSING_CODES))


def retried(what: str, call: Callable[[], T], *, clock: retry.Clock | None = None) -> T:
    """Call until it succeeds, as long as its errors may pass.

    Parameters
    ----------
    what : str
        For the log: what is tried.
    call : callable
        Must be safe to repeat.
    clock : apache_beam.utils.retry.Clock, optional
        Something that can sleep.

    Returns
    -------
    object
        What ``call`` gave.

    Raises
    ------
    Exception
        The last one of ``call``: at once if it cannot pass, else after :data:`PATIENCE_SECONDS`.
    """
    started = time.monotonic()

    def again(error: BaseException) -> bool:
        return may_pass(error) and time.monotonic() - started < PATIENCE_SECONDS

    def tell(_message: str, delay_seconds: float, _name: str, error: str, _trace: str) -> None:
        _LOGGER.warning("%s: %s; trying again in %.1f s", what, error.strip(), delay_seconds)

    decorate = retry.with_exponential_backoff(
        num_retries=_ATTEMPTS,
        initial_delay_secs=_FIRST_DELAY_SECONDS,
        max_delay_secs=_LONGEST_DELAY_SECONDS,
        retry_filter=again,
        logger=tell,
        clock=clock or retry.Clock(),
    )
    result: T = decorate(call)()
    return result

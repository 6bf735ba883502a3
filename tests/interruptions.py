"""Ways in which a training ends before its time, for tests of what goes on afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class InterruptionError(Exception):
    """What a kill is here."""


def after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, whose call number ``calls`` (from 0) is an interruption instead."""
    count = iter(range(calls))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(count, None) is None:
            raise InterruptionError
        return function(*args, **kwargs)

    return interrupted

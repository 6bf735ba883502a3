"""Whether files are still those that something was made of: their sizes and modification times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from transforms.listing import look_up

_THREADS = 16  # an object store answers in tens of milliseconds, and there may be thousands

Stamps: TypeAlias = dict[str, list[int | None] | None]
"""By uri size in bytes and modification time in microseconds; None: it cannot be asked."""


def stamps(uris: Sequence[str]) -> Stamps:
    """Of files as they are now."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(uris, pool.map(_stamp, uris), strict=True))


def _stamp(uri: str) -> list[int | None] | None:
    listed = look_up(uri)
    if listed.size_bytes is None and listed.modified_us is None:
        return None
    return [listed.size_bytes, listed.modified_us]


def changed(earlier: Mapping[str, object], now: Stamps) -> str | None:
    """The first file that is there and is another than earlier, if any.

    What was deleted since has not changed: what was made of it may still serve.
    """
    return next(
        (uri for uri, stamp in now.items() if stamp is not None and earlier.get(uri) != stamp),
        None,
    )

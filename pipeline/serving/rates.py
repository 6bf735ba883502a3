"""How often one client may ask: a token bucket for each, for a bounded number of clients."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

_ROUNDING_SECONDS = 1e-6


class RateLimiter:
    """Token buckets, kept as the time at which each was or will be full again (GCRA).

    Parameters
    ----------
    per_second : float
        Tokens that a bucket gains each second; one request takes one. Above 0.
    burst : int
        Tokens that a full bucket holds. At least 1.
    most_clients : int
        Beyond so many the one that has not asked for the longest time is forgotten.
    clock : callable
        Seconds from any beginning.
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        most_clients: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if per_second <= 0 or burst < 1:
            raise ValueError(f"a rate of {per_second} with bursts of {burst} lets nobody in")
        self._interval_seconds = 1 / per_second
        self._depth_seconds = (burst - 1) / per_second
        self._most_clients = most_clients
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, client: str) -> int:
        """Take a token out of a client's bucket.

        Returns
        -------
        int
            0, or the whole seconds after which there will be one.
        """
        now = self._clock()
        full_at = max(now, self._full_at.get(client, now))
        wait_seconds = full_at - self._depth_seconds - now
        if wait_seconds > _ROUNDING_SECONDS:
            self._full_at.move_to_end(client)
            return math.ceil(wait_seconds - _ROUNDING_SECONDS / 2)
        self._full_at[client] = full_at + self._interval_seconds
        self._full_at.move_to_end(client)
        if len(self._full_at) > self._most_clients:
            self._full_at.popitem(last=False)
        return 0

    def __len__(self) -> int:
        """Clients that are remembered."""
        return len(self._full_at)


def client_of(address: tuple[str, int] | None) -> str:
    """Whom to count a request for: an IPv4 address, or the /64 network that one customer gets.

    Parameters
    ----------
    address : tuple of str and int, or None
        Host and port as ASGI's scope has them; None behind a Unix socket.
    """
    if address is None:
        return ""
    try:
        host = ipaddress.ip_address(address[0])
    except ValueError:  # a name
        return address[0]
    if isinstance(host, ipaddress.IPv4Address):
        return str(host)
    if host.ipv4_mapped is not None:
        return str(host.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(host) >> 64 << 64, 64)))

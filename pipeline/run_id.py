"""The names of runs."""

from __future__ import annotations

import datetime as dt
import secrets


def new_run_id() -> str:
    """The time, UTC, and what tells two starts in one second apart."""
    now = dt.datetime.now(dt.timezone.utc)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"

"""What ``python -m pipeline.serve`` was asked to do; imports neither Beam nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.serving.answers import Limits

NONE = "none"
"""Of a model or the cache: the service does without."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What the service was asked to do."""

    host: str
    port: int
    allowed_hosts: tuple[str, ...]  # names it may be called by; empty: by the address it listens on
    api_key: str | None
    rate_per_second: float | None  # posts to the API and uploads of one client; None: no limit
    limits: Limits
    memory_limit_mib: int | None  # of all its processes; None: by the machine's memory
    min_free_disk_mib: int  # where uploads lie
    shutdown_seconds: float
    model: str
    front_end_preset: str | None
    front_end_changes: dict[str, Any]
    precision: str
    device: str
    batch_size: int | None  # None: by the device
    batch_wait_ms: float
    embeddings: bool
    features: bool
    top_k: int
    min_seconds: float
    live_model: str  # or NONE
    enhancer: str  # or NONE
    workers: int
    decode_timeout_seconds: float
    decode_memory_mib: int
    cache: Path | None  # folder; None: nothing is kept, not even in memory
    cache_mib: int  # on disk
    cache_memory_mib: int
    page: bool

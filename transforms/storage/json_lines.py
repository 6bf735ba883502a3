"""Rows as lines of JSON."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any


def to_json_line(row: dict[str, Any]) -> str:
    """A row as one line of JSON; times in ISO 8601, and null for what is not a finite number."""

    def encode(value: Any) -> str:
        return value.isoformat() if isinstance(value, (dt.date, dt.time)) else str(value)

    return json.dumps(_finite(row), ensure_ascii=False, default=encode, allow_nan=False)


def _finite(value: Any) -> Any:
    """``value`` with None for NaN and infinities, which JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value

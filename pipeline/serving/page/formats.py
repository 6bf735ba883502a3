"""Numbers, times and addresses as the page writes them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

FILE_ROUTE = "gradio_api/file="
"""Gradio's route of files, relative to the page."""


def percent(share: float) -> str:
    """A share from 0 to 1 with a tenth of a percent: 83.1%."""
    return f"{share:.1%}"


def clock(seconds: float) -> str:
    """A time in a track: 1:02.5, or 1:02 where it is whole, and 1:00:00 from an hour on."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{tenths // 10:02d}" + (f".{tenths % 10}" if tenths % 10 else "")
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def size(size_bytes: int) -> str:
    """A size in binary units: 1.5 MiB."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if value == int(value) or value >= 100 else f"{value:.1f} {unit}"


def address(path: Path) -> str:
    """The address of a file that Gradio may serve, relative to the page."""
    return FILE_ROUTE + quote(str(path))

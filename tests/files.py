"""Small files that stand for music where only names, sizes and times matter."""

from __future__ import annotations

import os
from pathlib import Path


def touch(folder: Path, *names: str) -> None:
    """Make files of five bytes, and their folders, all of one time."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
        os.utime(path, (1_700_000_000, 1_700_000_000))

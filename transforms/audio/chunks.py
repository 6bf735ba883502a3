"""Whether a file ends before its sound does, by the sizes that its chunks state."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_MOST_CHUNKS = 10_000
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # of a page at most
_UNKNOWN_32 = 0xFFFF_FFFF  # a size that a program left open that could not seek back


@dataclass(frozen=True)
class _Layout:
    first: int  # bytes before the first chunk
    name_bytes: int
    size_bytes: int
    order: Literal["big", "little"]
    data: bytes  # how the name of the chunk with the sound begins
    alignment: int = 1
    header_counts: bool = False  # in the size


_LAYOUTS = {
    "aiff": _Layout(12, 4, 4, "big", b"SSND", alignment=2),
    "caf": _Layout(8, 4, 8, "big", b"data"),
    "w64": _Layout(40, 16, 8, "little", b"data", alignment=8, header_counts=True),
    "rf64": _Layout(12, 4, 4, "little", b"data", alignment=2),
}


def is_cut_off(file: io.RawIOBase, container: str, start: int) -> bool:
    """Whether a file ends before its sound does.

    Parameters
    ----------
    file : io.RawIOBase
        Open for reading.
    container : str
        As transforms.audio.sniff names it. Of others than AIFF, AU, CAF, W64, RF64 and Ogg
        nothing is known here.
    start : int
        Where the container begins, in bytes.

    Returns
    -------
    bool
        False where the size was left open.
    """
    end = file.seek(0, os.SEEK_END)
    if container == "ogg":
        return _last_page_is_cut(_read(file, max(start, end - _OGG_PAGE_BYTES), _OGG_PAGE_BYTES))
    if container == "au":
        header = _read(file, start + 4, 8)
        offset, size = (int.from_bytes(header[at : at + 4], "big") for at in (0, 4))
        return size != _UNKNOWN_32 and start + offset + size > end
    layout = _LAYOUTS.get(container)
    if layout is None:
        return False
    for name, at, size in _chunks(file, layout, start, end):
        if not name.startswith(layout.data):
            continue
        if container == "rf64" and size == _UNKNOWN_32:  # its 64 bits stand in the first chunk
            size = int.from_bytes(_read(file, start + 28, 8), "little")
        unknown = size >> (8 * layout.size_bytes - 1) if container == "caf" else 0  # -1
        return not unknown and at + size > end
    return False


def _chunks(
    file: io.RawIOBase, layout: _Layout, start: int, end: int
) -> Iterator[tuple[bytes, int, int]]:
    """Name of each chunk, and offset and size of its content."""
    at = start + layout.first
    for _ in range(_MOST_CHUNKS):
        count = layout.name_bytes + layout.size_bytes
        if at + count > end:
            return
        header = _read(file, at, count)
        size = int.from_bytes(header[layout.name_bytes :], layout.order)
        size = max(0, size - count * layout.header_counts)
        at += count
        yield header[: layout.name_bytes], at, size
        at += size + -size % layout.alignment


def _last_page_is_cut(tail: bytes) -> bool:
    page = tail[tail.rfind(b"OggS") :] if b"OggS" in tail else b""
    if len(page) < 27:
        return bool(page)
    segments = page[26]
    return 27 + segments + sum(page[27 : 27 + segments]) > len(page)


def _read(file: io.RawIOBase, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size) or b""

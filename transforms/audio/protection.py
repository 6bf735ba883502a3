"""Whether a file's sound is encrypted: a decoder would take it for sound and give noise.

Boxes and objects are walked by their sizes and within bounds; nothing is read but what is asked.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator

from transforms.errors import Reason, StageError

_MOST_BOXES = 10_000  # of one level; more are nonsense
_MP4_PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
_MP4_PROTECTED = frozenset({b"enca", b"drms"})
_MP4_NO_SOUND = frozenset({b"encv", b"enct", b"encs", b"drmi", b"tx3g", b"text", b"mp4s", b"jpeg"})
_ASF_HEADER_BYTES = 30
_ASF_PROTECTED = frozenset(
    uuid.UUID(text).bytes_le
    for text in (
        "2211b3fb-bd23-11d2-b4b7-00a0c955fc6e",  # content encryption
        "298ae614-2622-4c17-b935-dae07ee9289c",  # extended content encryption
        "43058533-6981-49e6-9b74-ad12cb86d58c",  # advanced content encryption
    )
)


def refuse_protected(file: io.RawIOBase, container: str | None) -> None:
    """Refuse a file with encrypted sound.

    Parameters
    ----------
    file : io.RawIOBase
        Open for reading.
    container : str or None
        As transforms.audio.sniff names it.

    Raises
    ------
    StageError
        With the reason unsupported_codec.
    """
    protected = (container == "mp4" and _mp4_protected(file)) or (
        container == "asf" and _asf_protected(file)
    )
    if protected:
        raise StageError(
            Reason.UNSUPPORTED_CODEC,
            f"{container}: protected (encrypted by a store or service); get a copy without it",
        )


def _mp4_protected(file: io.RawIOBase) -> bool:
    """Whether there is encrypted sound and, as far as sample entries tell, no other."""
    size = file.seek(0, os.SEEK_END)
    entries = {name for name, _, _ in _sample_entries(file, 0, size, _MP4_PATH)}
    return bool(entries & _MP4_PROTECTED) and entries <= _MP4_PROTECTED | _MP4_NO_SOUND


def _sample_entries(
    file: io.RawIOBase, start: int, end: int, path: tuple[bytes, ...]
) -> Iterator[tuple[bytes, int, int]]:
    """Walk down one path of boxes; below the last come its entries, behind version and count."""
    if not path:
        yield from _boxes(file, start + 8, end)
        return
    for name, inner, behind in _boxes(file, start, end):
        if name == path[0]:
            yield from _sample_entries(file, inner, behind, path[1:])


def _boxes(file: io.RawIOBase, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin of the content, and end of each box."""
    for _ in range(_MOST_BOXES):
        header = _read_at(file, start, 16)
        if start + 8 > end or len(header) < 8:
            return
        size, inner = int.from_bytes(header[:4], "big"), start + 8
        if size == 1:
            size, inner = int.from_bytes(header[8:], "big"), start + 16
        behind = start + size if size else end  # 0: up to the end
        if behind < inner:
            return
        yield header[4:8], inner, min(behind, end)
        start = behind


def _asf_protected(file: io.RawIOBase) -> bool:
    """Whether the header holds an encryption object."""
    header = _read_at(file, 0, _ASF_HEADER_BYTES)
    end = min(int.from_bytes(header[16:24], "little"), file.seek(0, os.SEEK_END))
    at = _ASF_HEADER_BYTES
    for _ in range(_MOST_BOXES):
        head = _read_at(file, at, 24)
        size = int.from_bytes(head[16:24], "little")
        if at + 24 > end or len(head) < 24 or size < 24:
            return False
        if head[:16] in _ASF_PROTECTED:
            return True
        at += size
    return False


def _read_at(file: io.RawIOBase, at: int, size: int) -> bytes:
    if at >= file.seek(0, os.SEEK_END):  # as far as headers say no filesystem can be sought
        return b""
    file.seek(at)
    return file.read(size) or b""

"""Where sound begins in a file that begins with something else.

Downloads come with HTTP headers, an old Macintosh's header, or half of another file in front.
What begins like a document, a picture or an archive is no sound, even if there is some in it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

SEARCHED_BYTES = 4 << 20
_FOREIGN_BYTES = 0x8010  # an ISO image tells only there
MOST_BEGINNINGS = 8  # that are worth a decoder's attempt
MPEG_FRAMES = 5  # that must follow one another: random bytes hold no such chain
_FOREIGN: tuple[tuple[int, bytes], ...] = (
    (0, b"PK\x03\x04"), (0, b"PK\x05\x06"), (0, b"%PDF"), (0, b"%!PS"), (0, b"\x89PNG"),
    (0, b"\xff\xd8\xff"), (0, b"GIF8"), (0, b"II*\0"), (0, b"MM\0*"), (8, b"WEBP"), (0, b"8BPS"),
    (0, b"\x1f\x8b\x08"), (0, b"BZh"), (0, b"\xfd7zXZ"), (0, b"7z\xbc\xaf"), (0, b"Rar!"),
    (0, b"(\xb5/\xfd"), (0, b"MSCF"), (257, b"ustar"), (0x8001, b"CD001"), (0, b"!<arch>"),
    (0, b"\x7fELF"), (0, b"\xcf\xfa\xed\xfe"), (0, b"\xca\xfe\xba\xbe"), (0, b"Cr24"),
    (0, b"\xd0\xcf\x11\xe0"), (0, b"SQLite format"), (0, b"{\\rtf"), (0, b"wOF"), (0, b"OTTO"),
)  # fmt: skip
# Marks, and how many bytes before them the file begins.
_MARKS = (
    (b"OggS\0\x02", 0), (b"fLaC\0\0\0\x22", 0), (b"fLaC\x80\0\0\x22", 0), (b"WAVEfmt ", 8),
    (b"ftypM4A ", 4), (b"ftypmp42", 4), (b"ftypisom", 4), (b"ftypM4B ", 4), (b"AIFFCOMM", 8),
    (b"AIFFFVER", 8), (b"AIFCFVER", 8), (b"AIFCCOMM", 8), (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", 0),
)  # fmt: skip

_Ints = npt.NDArray[np.int64]


def is_foreign(file: io.RawIOBase) -> bool:
    """Whether a file begins like a document, a picture, a program or an archive."""
    file.seek(0)
    head = file.read(_FOREIGN_BYTES) or b""
    return any(head.startswith(magic, at) for at, magic in _FOREIGN)


def find_beginnings(file: io.RawIOBase) -> Iterator[int]:
    """Search the first 4 MiB for what begins a known container.

    Parameters
    ----------
    file : io.RawIOBase
        Open for reading.

    Yields
    ------
    int
        Byte offsets, in order, never 0, at most :data:`MOST_BEGINNINGS`.
    """
    file.seek(0)
    content = b"".join(
        iter(lambda: file.read(1 << 20) if file.tell() < SEARCHED_BYTES else b"", b"")
    )
    found = {content.find(mark) - before for mark, before in _MARKS if mark in content}
    found |= set(mpeg_chain(content))
    yield from sorted(at for at in found if at > 0)[:MOST_BEGINNINGS]


def mpeg_chain(content: bytes) -> list[int]:
    """Find the first run of MPEG audio or ADTS frames of which each ends where the next begins.

    Parameters
    ----------
    content : bytes
        Any bytes.

    Returns
    -------
    list of int
        The offset of the first of :data:`MPEG_FRAMES` frames, or nothing.
    """
    data = np.frombuffer(content, np.uint8)
    if len(data) < 8:
        return []
    starts = np.flatnonzero((data[:-7] == 0xFF) & (data[1:-6] >= 0xE0))
    head = np.stack([data[starts + i] for i in range(6)]).astype(np.int64)
    kinds, lengths = _frame_kinds(head), _frame_lengths(head)
    starts, kinds, lengths = starts[lengths > 0], kinds[lengths > 0], lengths[lengths > 0]
    index, alive = np.arange(len(starts)), np.ones(len(starts), bool)
    for _ in range(MPEG_FRAMES - 1):
        behind = starts[index] + lengths[index]
        following = np.minimum(np.searchsorted(starts, behind), max(0, len(starts) - 1))
        alive &= (starts[following] == behind) & (kinds[following] == kinds)
        index = following
    return [int(at) for at in starts[alive][:1]]


def _frame_kinds(head: _Ints) -> _Ints:
    """What all frames of a stream have in common: version, layer, rate; of ADTS the channels."""
    adts = head[1] & 0x06 == 0
    kind = (head[1] & 0xFE) << 16 | (head[2] & 0x0C) << 8
    kinds: _Ints = np.where(adts, kind | (head[2] & 0xFD) << 8 | head[3] & 0xC0, kind)
    return kinds


_KBITS = np.array([  # by version 1 or 2 and layer I, II, III; index 0 (free) and 15 are invalid
    [[0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 0],
     [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0],
     [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0]],
    [[0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 0],
     [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0],
     [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0]],
])  # fmt: skip
_RATES_HZ = np.array([  # by the two version bits
    [11_025, 12_000, 8_000, 0], [0, 0, 0, 0], [22_050, 24_000, 16_000, 0],
    [44_100, 48_000, 32_000, 0],
])  # fmt: skip


def _frame_lengths(head: _Ints) -> _Ints:
    """Bytes of each frame by its header, 0 where it is none."""
    version, layer = head[1] >> 3 & 3, 3 - (head[1] >> 1 & 3)  # layer: 0, 1, 2; 3 is ADTS
    kbits = _KBITS[(version != 3).astype(int), np.minimum(layer, 2), head[2] >> 4]
    rate = _RATES_HZ[version, head[2] >> 2 & 3]
    valid = (kbits > 0) & (rate > 0) & (layer < 3) & (head[3] & 3 != 2)
    slots = np.where((layer == 2) & (version != 3), 72_000, 144_000)
    padding = head[2] >> 1 & 1
    units = np.where(layer == 0, 12_000, slots) * kbits // np.maximum(rate, 1) + padding
    mpeg = np.where(valid, units * np.where(layer == 0, 4, 1), 0)
    adts = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    good = (head[1] & 0xF6 == 0xF0) & (head[2] >> 2 & 15 < 13) & (adts > 8)
    lengths: _Ints = np.where(layer == 3, np.where(good, adts, 0), mpeg)
    return lengths

"""Where the frames of an MP3 stream lie in a file, and how its samples lie on them.

An MP3 frame is called a *packet* here: elsewhere in this package a frame is one sample of every
channel. Only headers are read. What is unusual (free format, a change of rate or channels, a tag
that counts other packets than there are) gives None, never a guess.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_DECODER_DELAY = 529  # frames that every decoder of Layer III lags: libmpg123 drops them by a tag
_RESERVOIR_BYTES = 511  # main_data_begin has nine bits: a packet refers back so far at most
_STATE_PACKETS = 8  # overlap and filter bank reach back over 2; more where some are damaged
_ALIGNMENT = 8  # after so many packets libmpg123's ring buffer of 16 is where it was: its turn
# decides how mono sound is rounded
_PIECE_BYTES = 1 << 20  # of the file held at once while the headers are read
_HEADER_BYTES, _ID3_HEADER_BYTES, _CHECKSUM_BYTES = 4, 10, 2
_KBITS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_KBITS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)

_Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PacketKind:
    """What all packets of a stream have in common."""

    header: bytes  # of one of them
    frames: int  # of sound in each
    side_bytes: int  # of side information behind the header
    lengths: tuple[int, ...]  # bytes of a packet by the header's third byte; 0: of another kind

    @property
    def is_mpeg1(self) -> bool:
        """Whether the packets are of MPEG-1, not of MPEG-2 or 2.5."""
        return self.frames == 1_152

    @property
    def overhead_bytes(self) -> int:
        """What a packet holds besides main data, at most."""
        return _HEADER_BYTES + _CHECKSUM_BYTES + self.side_bytes


def packet_kind(header: bytes, sample_rate_hz: int) -> PacketKind | None:
    """Read a packet's header.

    Parameters
    ----------
    header : bytes
        The packet's first four bytes.
    sample_rate_hz : int
        As the decoder says: it is not looked up again.

    Returns
    -------
    PacketKind or None
        None if they begin no packet of Layer III.
    """
    if len(header) < _HEADER_BYTES or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, mono = header[1] >> 3 & 3, _is_mono(header[3])
    if version == 1:  # reserved
        return None
    if version == 3:
        kbits, frames, side = _KBITS_MPEG1, 1_152, 17 if mono else 32
    else:
        kbits, frames, side = _KBITS_MPEG2, 576, 9 if mono else 17
    rate_bits = header[2] & 0x0C
    lengths = tuple(
        frames * 125 * kbits[byte >> 4] // sample_rate_hz + (byte >> 1 & 1)
        if byte & 0x0C == rate_bits and kbits[byte >> 4]
        else 0
        for byte in range(256)
    )
    return PacketKind(header[:_HEADER_BYTES], frames, side, lengths)


def _is_mono(byte: int) -> bool:
    return byte >> 6 == 3


class Span(NamedTuple):
    """Packets to decode together: numbers, counted from 0."""

    begin: int  # a multiple of eight; from here on they fill the reservoir
    sounding: int  # from here on they are decoded in earnest
    end: int  # behind the last


@dataclass(frozen=True, eq=False)
class Mp3Packets:
    """The packets of a file that hold sound, without gaps between them."""

    kind: PacketKind
    offsets: _Offsets  # where each begins, and where the last one ends: (count + 1,), bytes
    dropped: int = 0  # frames of sound at the beginning that the decoder does not give
    padding: int = 0  # frames at the end that it does not give
    tagged: bool = False  # an Info tag counted them

    @property
    def count(self) -> int:
        """Number of packets."""
        return len(self.offsets) - 1

    @property
    def frames(self) -> int:
        """Frames of sound that the decoder gives."""
        return self.count * self.kind.frames - self.dropped - self.padding

    def span(self, first: int, last: int) -> Span:
        """Packets from which some frames can be decoded exactly.

        Parameters
        ----------
        first, last : int
            Frames as the decoder counts them, from ``first`` to before ``last``.

        Returns
        -------
        Span
        """
        wanted = (first + self.dropped) // self.kind.frames
        sounding = begin = max(0, wanted - _STATE_PACKETS)
        held = 0
        while begin > 0 and held < _RESERVOIR_BYTES:
            begin -= 1
            length = int(self.offsets[begin + 1] - self.offsets[begin])
            held += max(0, length - self.kind.overhead_bytes)
        end = -(-(last + self.dropped) // self.kind.frames)
        return Span(begin - begin % _ALIGNMENT, sounding, min(end, self.count))

    def read(self, file: io.RawIOBase, span: Span) -> bytes:
        """Read packets, with the side information of the first ones zeroed.

        Those may need main data that stand before them. Decoded without it they give an error
        or nonsense; with zeros they give silence, and hold the main data for the others.
        """
        first, last = (int(at) for at in self.offsets[[span.begin, span.end]])
        content = bytearray(read_bytes(file, first, last - first))
        for start in self.offsets[span.begin : span.sounding] - first:
            checksum = 0 if content[start + 1] & 1 else _CHECKSUM_BYTES
            # Kept are 8 or 9 bits, main_data_begin, by which the decoder carries main data on.
            at, end = (int(start) + _HEADER_BYTES + checksum + n for n in (1, self.kind.side_bytes))
            content[at] &= 0x80 if self.kind.is_mpeg1 else 0
            content[at + 1 : end] = bytes(end - at - 1)
        return bytes(content)


def info_packet(kind: PacketKind, count: int) -> bytes:
    """Make a packet that tells a decoder how many follow, so that it does not estimate.

    Parameters
    ----------
    kind : PacketKind
        Of those that follow.
    count : int
        Their number.

    Returns
    -------
    bytes
        To be put in front of them; it holds no sound.
    """
    sync, second, third, fourth = kind.header
    tag = bytes(kind.side_bytes) + b"Xing" + struct.pack(">II", 1, count)
    fitting = (
        (kind.lengths[byte], byte)
        for byte in range(256)
        if byte & 0x0F == third & 0x0C and kind.lengths[byte] >= _HEADER_BYTES + len(tag)
    )
    length, byte = min(fitting)
    return (bytes((sync, second | 1, byte, fourth)) + tag).ljust(length, b"\0")


def index_packets(file: io.RawIOBase, sample_rate_hz: int) -> Mp3Packets | None:
    """Find the packets of an MP3 by their headers, from the first on up to what is none.

    Parameters
    ----------
    file : io.RawIOBase
        Open for reading.
    sample_rate_hz : int
        As the decoder says.

    Returns
    -------
    Mp3Packets or None
        None where a part of them cannot be told from the whole.
    """
    start = _behind_id3(file)
    kind = packet_kind(read_bytes(file, start, _HEADER_BYTES), sample_rate_hz)
    if kind is None:
        return None
    offsets, backs = _chain(file, start, kind)
    if len(offsets) < 2:
        return None
    first = read_bytes(file, start, int(offsets[1] - offsets[0]))
    at = _HEADER_BYTES + kind.side_bytes
    if first[at : at + 4] not in (b"Xing", b"Info"):
        return Mp3Packets(kind, offsets) if _is_carried(kind, offsets, backs) else None
    if not _is_carried(kind, offsets[1:], backs[1:]):
        return None
    return _tagged(kind, offsets[1:], first[at:])


def _tagged(kind: PacketKind, offsets: _Offsets, tag: bytes) -> Mp3Packets | None:
    """Take the encoder's delay and padding from its tag, as libmpg123 does."""
    flags = int.from_bytes(tag[4:8], "big")
    if not flags & 1 or int.from_bytes(tag[8:12], "big") != len(offsets) - 1:
        return None
    # Behind the count: bytes, seek table, quality (each if flagged), encoder and its settings.
    at = 12 + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1) + 21
    both = int.from_bytes(tag[at : at + 3].ljust(3, b"\0"), "big")  # 12 bits each
    padding = max(0, (both & 0xFFF) - _DECODER_DELAY)
    return Mp3Packets(kind, offsets, (both >> 12) + _DECODER_DELAY, padding, tagged=True)


def _behind_id3(file: io.RawIOBase) -> int:
    at = 0
    while (head := read_bytes(file, at, _ID3_HEADER_BYTES))[:3] == b"ID3" and len(head) == 10:
        size = sum(
            (byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)
        )
        at += size + _ID3_HEADER_BYTES * (2 if head[5] & 0x10 else 1)
    return at


def _chain(file: io.RawIOBase, start: int, kind: PacketKind) -> tuple[_Offsets, _Offsets]:
    """Offsets of the whole packets that follow each other, with the end of the last one.

    And how far each refers back for its main data, in bytes.
    """
    pieces, at = [], start
    while True:
        starts, backs = _chain_in(read_bytes(file, at, _PIECE_BYTES), kind)
        pieces.append((starts[:-1] + at, backs))
        at += int(starts[-1])
        if not len(backs):  # nothing here that is a packet, or is one as a whole
            offsets, backs = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
            return np.append(offsets, at), backs


def _chain_in(content: bytes, kind: PacketKind) -> tuple[_Offsets, _Offsets]:
    """The same for a piece of a file, whose last packet may be cut off and is left out."""
    lengths, size = kind.lengths, len(content)
    found, at = [0], 0
    while at + _HEADER_BYTES <= size:
        length = lengths[content[at + 2]]
        at += length
        if not length or at > size:
            break
        found.append(at)
    starts = np.array(found, np.int64)
    data = np.frombuffer(content, np.uint8)
    heads = data[starts[:-1, np.newaxis] + np.arange(_HEADER_BYTES + 4)].astype(np.int64)
    # The third byte has been looked at; checksums may come and go, and so may joint stereo.
    alike = (heads[:, 0] == 0xFF) & (heads[:, 1] & 0xFE == kind.header[1] & 0xFE)
    alike &= (heads[:, 3] >> 6 == 3) == _is_mono(kind.header[3])
    good = len(heads) if alike.all() else int(alike.argmin())
    checked = heads[:, 1:2] & 1 == 0
    side = np.where(checked, heads[:, 6:8], heads[:, 4:6])[:good]
    backs = side[:, 0] << 1 | side[:, 1] >> 7 if kind.is_mpeg1 else side[:, 0]
    return starts[: good + 1], backs


def _is_carried(kind: PacketKind, offsets: _Offsets, backs: _Offsets) -> bool:
    """Whether no packet refers to main data from before those of the packet before it.

    Else libmpg123 decodes what is left in its memory, of packets any number before.
    """
    held = np.diff(offsets) - (kind.overhead_bytes - _CHECKSUM_BYTES) + backs
    return bool((backs[1:] <= held[:-1]).all())


def read_bytes(file: io.RawIOBase, at: int, size: int) -> bytes:
    """Read ``size`` bytes from ``at`` on; there are fewer only at the end of the file."""
    file.seek(at)
    content = b""
    while len(content) < size and (more := file.read(size - len(content))):
        content += more
    return content

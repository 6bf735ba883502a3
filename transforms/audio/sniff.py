"""What a file is by its content: its container, and how far its header and soundfile go.

Only what decides between the decoders is read: the first bytes, the chunk sizes of a WAV, and
the links of a chained Ogg file. Nothing is decoded here.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from transforms.audio.chunks import is_cut_off


@dataclass(frozen=True)
class Sniffed:
    """What the first bytes and the chunk sizes say."""

    container: str | None = None  # None: unknown
    trust_soundfile: bool = False
    states_length: bool = True  # False: the header's length is an estimate, or a placeholder
    stated_s: float | None = None  # the length, where it was read here
    cut_off: bool = False  # a chunk ends behind the end of the file
    links: tuple[int, ...] = (0,)  # where the sound begins; of a chained Ogg file each link


_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"RF64", "rf64"), (0, b"riff\x2e\x91\xcf\x11", "w64"), (8, b"AIFF", "aiff"),
    (8, b"AIFC", "aiff"), (0, b".snd", "au"), (0, b"fLaC", "flac"), (0, b"caff", "caf"),
    (0, b"OggS", "ogg"), (0, b"\x1aE\xdf\xa3", "matroska"), (4, b"ftyp", "mp4"),
    (4, b"moov", "mp4"), (4, b"mdat", "mp4"), (0, b"0&\xb2u\x8ef\xcf\x11", "asf"),
    (0, b"MAC ", "ape"), (0, b"wvpk", "wavpack"), (0, b"MPCK", "musepack"),
    (0, b"MP+", "musepack"), (0, b"TTA1", "tta"), (0, b"DSD ", "dsf"), (0, b"FRM8", "dsdiff"),
    (0, b"#!AMR", "amr"), (0, b"ADIF", "aac"),
)  # fmt: skip
_SOUNDFILE_FIRST = {"rf64", "w64", "aiff", "au", "flac", "caf"}
_ID3_HEADER, _MAX_PADDING, _HEAD = 10, 1 << 20, 4096


def sniff(file: io.RawIOBase, start: int = 0) -> Sniffed:
    """Tell the container by its content; leading ID3v2 tags and zeros are skipped.

    Parameters
    ----------
    file : io.RawIOBase
        Open for reading.
    start : int
        Where the sound begins, in bytes, if something foreign stands before it.

    Returns
    -------
    Sniffed
    """
    offset = _skip_tags(file, start)
    file.seek(offset)
    head = file.read(_HEAD) or b""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return replace(_sniff_wav(file, offset), links=(start,))
    for at, magic, container in _MAGIC:
        if head[at : at + len(magic)] == magic:
            if container == "ogg":
                return _sniff_ogg(file, start)
            cut_off = is_cut_off(file, container, offset)
            first = container in _SOUNDFILE_FIRST
            return Sniffed(container, first, cut_off=cut_off, links=(start,))
    return replace(_sniff_mpeg(head), links=(start,))


def _skip_tags(file: io.RawIOBase, start: int) -> int:
    offset = start
    while offset < start + _MAX_PADDING * 64:
        file.seek(offset)
        head = file.read(_HEAD) or b""
        if head[:3] == b"ID3" and len(head) >= _ID3_HEADER:
            size = 0
            for byte in head[6:10]:  # seven bits each
                size = size << 7 | byte & 0x7F
            offset += _ID3_HEADER * (2 if head[5] & 0x10 else 1) + size
            continue
        padding = len(head) - len(head.lstrip(b"\0"))
        if padding < 4 or head[4:8] in (b"ftyp", b"moov", b"mdat"):  # an mp4 begins with a size
            return offset
        offset += padding
    return offset


def _sniff_wav(file: io.RawIOBase, offset: int) -> Sniffed:
    """Whether the data chunk has a true size; soundfile reads nothing where it is 0."""
    size = file.seek(0, os.SEEK_END)
    at = offset + 12
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack("<4sI", file.read(8) or bytes(8))
        at += 8
        if name == b"data":
            streamed = length in (0, 0x7FFFFFFF) or length >= 0xFFFF_F000
            cut_off = not streamed and at + length > size
            return Sniffed("wav", not streamed, not streamed, cut_off=cut_off)
        at += length + length % 2
    return Sniffed("wav", trust_soundfile=True)


def _sniff_ogg(file: io.RawIOBase, start: int) -> Sniffed:
    """Find the links of a chain: soundfile reads the first only, ffmpeg stops at a new rate."""
    begins = list(_find_all(file, b"OggS\x00\x02", start))  # pages that begin a stream
    links, behind = [], -1
    for at in begins:
        if at != behind:  # else it is multiplexed with the stream before it
            links.append(at)
        file.seek(at)
        page = file.read(27 + 255) or b""
        segments = page[26] if len(page) > 26 else 0
        behind = at + 27 + segments + sum(page[27 : 27 + segments])
    return Sniffed(
        "ogg",
        trust_soundfile=len(begins) == 1,
        states_length=len(links) == 1,
        cut_off=is_cut_off(file, "ogg", start),
        links=tuple(links) or (start,),
    )


def _find_all(file: io.RawIOBase, needle: bytes, start: int) -> Iterator[int]:
    """Search the file from ``start`` on, without having it in memory."""
    tail, at = b"", start  # at: the file's offset of tail[0]
    while True:
        file.seek(at + len(tail))
        chunk = file.read(1 << 20)
        if not chunk:
            return
        text = tail + chunk
        found = text.find(needle)
        while found >= 0:
            yield at + found
            found = text.find(needle, found + 1)
        tail = text[-len(needle) + 1 :]
        at += len(text) - len(tail)


_MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


def _sniff_mpeg(head: bytes) -> Sniffed:
    """MPEG audio frames: the layer bits tell MP3 from AAC, which shares its sync word."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return Sniffed(states_length=False)
    if head[1] & 0xF6 == 0xF0:
        return Sniffed("aac", states_length=False)
    version, layer, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 2 & 3
    if layer == 0 or version == 1 or head[2] >> 4 == 15 or rate == 3:
        return Sniffed(states_length=False)
    frames = _counted_frames(head[:256])
    samples = 1_152 if version == 3 else 576
    stated_s = frames * samples / _MPEG_RATES[version][rate] if frames else None
    return Sniffed("mp3", True, states_length=bool(frames), stated_s=stated_s)


def _counted_frames(head: bytes) -> int:
    """Frames as counted by the encoder in the first frame of an MP3, or 0."""
    for tag in (b"Xing", b"Info"):
        at = head.find(tag)
        if at >= 0 and head[at + 7 : at + 8] and head[at + 7] & 1:
            return int.from_bytes(head[at + 8 : at + 12], "big")
    at = head.find(b"VBRI")
    return int.from_bytes(head[at + 14 : at + 18], "big") if at >= 0 else 0

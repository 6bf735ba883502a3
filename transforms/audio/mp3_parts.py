"""Parts of an MP3 that equal a full decode, by decoding only the bytes that matter to them.

libsndfile's own seeking comes close only: its decoder (libmpg123) goes on with the rounding
of what it decoded before. So each part gets a fresh decoder and a few packets to warm up.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import soundfile as sf

from transforms.audio.mp3_packets import (
    Mp3Packets,
    Span,
    index_packets,
    info_packet,
    read_bytes,
)
from transforms.audio.readers import AudioInfo, block_frames, clearly_less
from transforms.audio.sniff import Sniffed
from transforms.audio.soundfile_reader import SequentialSoundFile, SoundFileReader
from transforms.errors import StageError
from transforms.records import FloatArray

_PIECE_PACKETS = 2_048  # decoded out of one piece of memory: at most 3 MB
_PROBE_FRAMES = 16_384
_PROBES = 80  # half a minute of silence is looked through for sound to compare
_LAST_PACKETS = 16  # decoded together with what stands behind them
_BEHIND_BYTES = 65_536  # of a tag: libmpg123 gives up after 1,024 without a header
_UNREAD_PACKETS = 4  # at the end, where all of their sound is padding


class Mp3Parts:
    """Reads parts of an MP3.

    They equal the same frames of a full decode bit for bit. There is one exception: behind
    broken data inside of a packet, where a full decode goes on with its ring buffer at another
    turn, they differ by rounding: below 1e-6 of the loudest sample, or of full scale.

    Parameters
    ----------
    file : io.RawIOBase
        With a file descriptor of its own. Closed by this.
    packets : Mp3Packets
        Of that file.
    """

    def __init__(self, file: io.RawIOBase, packets: Mp3Packets) -> None:
        self._file = file
        self._packets = packets

    def part(self, first: int, last: int) -> Iterator[FloatArray]:
        """Decode the frames from ``first`` to before ``last``; ends early if that fails."""
        size = _PIECE_PACKETS * self._packets.kind.frames
        for start in range(first, last, size):
            stop = min(last, start + size)
            for block in self._piece(start, stop):
                start += len(block)
                yield block
            if start < stop:
                return

    def _piece(self, first: int, last: int) -> Iterator[FloatArray]:
        span = self._packets.span(first, last)
        if span.begin == 0:  # the beginning has rules of its own: leave them to the decoder
            with contextlib.closing(SoundFileReader(self._file)) as reader:
                yield from _cut(reader.blocks(), first, last)
            return
        before = span.begin * self._packets.kind.frames - self._packets.dropped
        blocks = self._decoded(self._packets.read(self._file, span), span.end - span.begin)
        yield from _cut(blocks, first - before, last - before)

    def _decoded(self, packets: bytes, count: int) -> Iterator[FloatArray]:
        """Decode packets; zeros stand for what the decoder drops at the beginning."""
        kind = self._packets.kind
        try:
            stream = io.BytesIO(info_packet(kind, count) + packets)
            with SequentialSoundFile(stream) as sound:
                dropped = max(0, count * kind.frames - sound.frames)
                yield np.zeros((dropped, sound.channels), np.float32)
                size = block_frames(sound.channels)
                while len(block := sound.read(size, dtype="float32", always_2d=True)):
                    yield block
        except (sf.SoundFileError, RuntimeError):
            return  # too little: a full decode gives the rest

    def agrees(self, reader: SoundFileReader) -> bool:
        """Whether a part equals what ``reader`` gives from the beginning of the same file.

        Compared is the first stretch with sound that has a warm-up of its own.
        """
        at = 0
        for block in itertools.islice(reader.blocks(_PROBE_FRAMES), _PROBES):
            end = at + len(block)
            if end > self._packets.frames:
                return False
            if self._packets.span(at, end).begin > 0 and block.any():
                part = np.concatenate([block[:0], *self.part(at, end)])
                return part.tobytes() == block.tobytes()
            at = end
        return False

    def ends_with(self, reader: SoundFileReader, seconds: float) -> bool:
        """Whether a full decode of ``seconds`` by ``reader`` ends where the packets do.

        In what stands behind them its decoder may find sound, or another one may be asked to.
        """
        kind, count = self._packets.kind, self._packets.count
        self._file.seek(int(self._packets.offsets[max(0, count - _UNREAD_PACKETS)]))
        if reader.stopped_early(seconds):
            return False
        begin = max(0, count - _LAST_PACKETS)
        last = self._packets.read(self._file, Span(begin, count, count))  # only to be counted
        behind = read_bytes(self._file, int(self._packets.offsets[-1]), _BEHIND_BYTES)
        blocks = self._decoded(last + behind, 2 * _LAST_PACKETS)  # as if there were more
        return sum(len(block) for block in blocks) == (count - begin) * kind.frames

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def _cut(blocks: Iterable[FloatArray], first: int, last: int) -> Iterator[FloatArray]:
    at = 0
    for block in blocks:
        wanted = block[max(0, first - at) : max(0, last - at)]
        at += len(block)
        if len(wanted):
            yield wanted
        if at >= last:
            return


def open_mp3_parts(
    file: io.RawIOBase, sniffed: Sniffed, info: AudioInfo
) -> tuple[Mp3Parts, int] | None:
    """Open an MP3 for reading parts of it, if they would equal a full decode.

    Parameters
    ----------
    file : io.RawIOBase
        With a file descriptor of its own. The reader takes it over; without one it stays open.
    sniffed : Sniffed
        What its content says.
    info : AudioInfo
        What its decoder says.

    Returns
    -------
    tuple of Mp3Parts and int, or None
        The reader and the number of frames that a full decode gives.
    """
    packets = index_packets(file, info.sample_rate_hz)
    if packets is None:
        return None
    try:
        reader = SoundFileReader(file)
    except StageError:
        return None
    with contextlib.closing(reader):
        parts = Mp3Parts(file, packets)
        frames = _verified_frames(parts, packets, reader, sniffed)
    return (parts, frames) if frames is not None and reader.info == info else None


def _verified_frames(
    parts: Mp3Parts, packets: Mp3Packets, reader: SoundFileReader, sniffed: Sniffed
) -> int | None:
    """Frames of a full decode; None where the file may be otherwise than it seems."""
    frames = min(packets.frames, reader.stated_frames)  # the decoder stops at its own estimate
    seconds = frames / reader.info.sample_rate_hz
    missing = packets.frames - frames
    if missing > (0 if packets.tagged else packets.kind.frames):
        return None
    if _is_doubted_length(sniffed, seconds) or not parts.agrees(reader):
        return None
    return frames if parts.ends_with(reader, seconds) else None


def _is_doubted_length(sniffed: Sniffed, seconds: float) -> bool:
    """Whether a full decode would warn of a wrong length."""
    stated_s = sniffed.stated_s if sniffed.states_length else None
    if not stated_s:
        return False
    return clearly_less(seconds, stated_s) or clearly_less(stated_s, seconds)

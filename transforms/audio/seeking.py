"""Parts of a file read alone, where that gives exactly what a full decode gives.

Seeking does in PCM, ADPCM and FLAC as libsndfile reads them. It does not in MP3, Vorbis and Opus,
whose decoders carry state over from the frames before the part, nor in damaged ALAC. For MP3
see transforms.audio.mp3_parts.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from transforms.audio.mp3_parts import open_mp3_parts
from transforms.audio.readers import AudioInfo, block_frames
from transforms.audio.sniff import Sniffed
from transforms.audio.soundfile_reader import SoundFileReader
from transforms.errors import StageError
from transforms.records import FloatArray

_EXACT_CODECS = frozenset({"flac", "adpcm_ms", "adpcm_ima_wav"})
_EXACT_CONTAINERS = frozenset({"wav", "aiff", "au", "caf", "w64", "rf64", "flac"})
_TAIL_FRAMES = 8_192  # read at the end to see that it is where the header says


class PartReader(Protocol):
    """A second handle on a file, for parts of it; see :class:`SeekingReader`."""

    def part(self, first: int, last: int) -> Iterator[FloatArray]: ...
    def close(self) -> None: ...


class SeekingReader:
    """A second handle on a file, for parts of it.

    Parameters
    ----------
    file : io.RawIOBase
        With a file descriptor of its own: seeking must not move another reader. Closed by this.

    Raises
    ------
    StageError
        With the reason not_audio, unsupported_codec or corrupt.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._reader = SoundFileReader(file)

    def verified_frames(self, info: AudioInfo) -> int | None:
        """Number of frames, if the sound begins and ends where the header says, else None."""
        if self._reader.info != info or not self._seeks_to_the_beginning():
            return None
        frames = self._reader.stated_frames
        first = max(0, frames - _TAIL_FRAMES)
        read = self._reader.read_part(first, frames + 1)  # one more than there should be
        ended = read is not None and len(read) == frames - first
        if not ended or self._reader.stopped_early(frames / info.sample_rate_hz):
            return None
        return frames

    def _seeks_to_the_beginning(self) -> bool:
        """Whether reading on from the header and seeking agree; with a damaged one they may not."""
        opening = next(self._reader.blocks(), None)
        if opening is None:
            return False
        again = self._reader.read_part(0, len(opening))
        return again is not None and again.tobytes() == opening.tobytes()

    def part(self, first: int, last: int) -> Iterator[FloatArray]:
        """Read the frames from ``first`` to before ``last``; ends early where data is damaged."""
        size = block_frames(self._reader.info.channels)
        for start in range(first, last, size):
            stop = min(last, start + size)
            block = self._reader.read_part(start, stop)
            if block is not None and len(block):
                yield block
            if block is None or len(block) < stop - start:
                return

    def close(self) -> None:
        """Release the decoder and the file."""
        self._reader.close()
        self._file.close()


def open_seeking(
    path: Path, file: io.RawIOBase, sniffed: Sniffed, info: AudioInfo
) -> tuple[PartReader, int] | None:
    """Open a file for reading parts of it.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    file : io.RawIOBase
        The same file, as it is being decoded; it is not moved.
    sniffed : Sniffed
        What its content says.
    info : AudioInfo
        What its decoder says.

    Returns
    -------
    tuple of PartReader and int, or None
        The reader and the number of frames; None where parts would not equal a full decode.
    """
    opener = _opener(sniffed, info)
    handle = None if opener is None else _second_handle(path, file)
    if opener is None or handle is None:
        return None
    opened = opener(handle, sniffed, info)
    if opened is None:
        handle.close()
    return opened


_Opener = Callable[[io.RawIOBase, Sniffed, AudioInfo], "tuple[PartReader, int] | None"]


def _opener(sniffed: Sniffed, info: AudioInfo) -> _Opener | None:
    """What opens such a file, if its parts may equal a full decode."""
    if info.decoder != "soundfile" or sniffed.cut_off or not sniffed.trust_soundfile:
        return None
    if (sniffed.container, info.container, info.codec) == ("mp3", "mp3", "mp3"):
        return open_mp3_parts
    exact = info.codec.startswith("pcm") or info.codec in _EXACT_CODECS
    if exact and info.container in _EXACT_CONTAINERS and sniffed.states_length:
        return _open_by_seeking
    return None


def _open_by_seeking(
    file: io.RawIOBase, sniffed: Sniffed, info: AudioInfo
) -> tuple[SeekingReader, int] | None:
    try:
        reader = SeekingReader(file)
    except StageError:
        return None
    frames = reader.verified_frames(info)
    if frames is None:
        reader.close()
        return None
    return reader, frames


def _second_handle(path: Path, file: io.RawIOBase) -> io.FileIO | None:
    """Open the file once more, unless it is gone or another one by now."""
    try:
        handle = path.open("rb", buffering=0)
    except OSError:  # the file that is open can still be decoded
        return None
    if os.path.samestat(os.fstat(handle.fileno()), os.fstat(file.fileno())):
        return handle
    handle.close()
    return None

"""A path to a stream of float32 blocks, whatever the file is called.

The decoder is chosen by content: soundfile where it is known to be right (it is the fastest),
PyAV for everything else. Where the one fails, or stops before the file does, the other is tried
and the more complete wins. No header is believed: lengths are counted, nothing is allocated
from a stated size, and what a header said wrongly becomes a warning.

    with open_audio(path) as audio:
        for block in audio.blocks():  # (frames, channels), audio.info.sample_rate_hz
            ...
    audio.frames, audio.warnings
"""

from __future__ import annotations

import functools
import io
import itertools
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from transforms.errors import Reason, StageError
from transforms.pyav_reader import PyAVReader
from transforms.readers import (
    AudioInfo,
    DecodeWarning,
    Reader,
    block_frames,
    clearly_less,
)
from transforms.records import FloatArray
from transforms.sniff import Sniffed, sniff
from transforms.soundfile_reader import SoundFileReader

LOUDEST = 1e4  # a sample beyond this (or NaN) is no sound; decoded MP3 reaches about 8


@dataclass
class Audio:
    """An open file; see :func:`open_audio`. Its blocks can be had once."""

    info: AudioInfo
    max_seconds: float
    _file: io.RawIOBase
    _sniffed: Sniffed
    _reader: Reader
    _blocks: Iterator[FloatArray]
    frames: int = 0  # handed out so far
    _found: set[DecodeWarning] = field(default_factory=set)
    _peak: float = 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was wrong, in alphabetical order; complete once the blocks have ended."""
        return tuple(sorted(w.value for w in self._found | self._reader.warnings))

    @property
    def duration_s(self) -> float:
        """Seconds of sound handed out so far."""
        return self.frames / self.info.sample_rate_hz

    def blocks(self) -> Iterator[FloatArray]:
        """Decode the sound from the beginning.

        Yields
        ------
        numpy.ndarray
            (frames, channels) float32, never empty, finite; full scale is 1.0.
        """
        limit = int(self.max_seconds * self.info.sample_rate_hz)
        for block in self._continued():
            room = limit - self.frames
            if len(block) > room:
                self._found.add(DecodeWarning.TOO_LONG)
                block = block[:room]
            if len(block):
                block, peak, repaired = sanitised(block)
                self._peak = max(self._peak, peak)
                self._found |= {DecodeWarning.NAN_REPLACED} if repaired else set()
                self.frames += len(block)
                yield block
            if DecodeWarning.TOO_LONG in self._found:
                break
        self._conclude()

    def _continued(self) -> Iterator[FloatArray]:
        """Pass on the reader's blocks; where it stopped early, PyAV goes on from there."""
        decoded = 0
        for block in self._blocks:
            decoded += len(block)
            yield block
        if not self._reader.stopped_early(decoded / self.info.sample_rate_hz):
            return
        found = self._reader.warnings
        try:
            other = PyAVReader(self._file, like=self.info)
        except StageError:
            return
        self._reader.close()
        least = 0.05 * self.info.sample_rate_hz  # less is another decoder's idea of the padding
        began = False
        for block in _skipped(other.blocks(), decoded):
            if not began and len(block) < least:
                break
            began = True
            yield block
        self._found |= found
        if began:
            self._found |= other.warnings
            self.info = replace(self.info, decoder=f"{self.info.decoder}+pyav")
        self._reader = other
        other.warnings = set()

    def _conclude(self) -> None:
        if self._peak == 0.0:
            self._found.add(DecodeWarning.SILENT)
        if DecodeWarning.TOO_LONG in self._found:
            return
        stated_s = None
        if self._sniffed.states_length:
            stated_s = self._sniffed.stated_s or self._reader.stated_s
        if self._sniffed.cut_off or (stated_s and clearly_less(self.duration_s, stated_s)):
            self._found.add(DecodeWarning.TRUNCATED)
        elif stated_s and clearly_less(stated_s, self.duration_s):
            self._found.add(DecodeWarning.LENGTH_MISMATCH)

    def close(self) -> None:
        """Release the decoder and the file."""
        self._reader.close()
        self._file.close()

    def __enter__(self) -> Audio:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _skipped(blocks: Iterable[FloatArray], frames: int) -> Iterator[FloatArray]:
    for block in blocks:
        if frames < len(block):
            yield block[frames:]
        frames = max(0, frames - len(block))


def sanitised(block: FloatArray) -> tuple[FloatArray, float, bool]:
    """Replace what is no sound.

    Parameters
    ----------
    block : numpy.ndarray
        (frames, channels) float32, not empty.

    Returns
    -------
    block : numpy.ndarray
        The same, with 0 for every NaN and everything beyond :data:`LOUDEST`.
    peak : float
        Its greatest magnitude.
    repaired : bool
        Whether anything was replaced.
    """
    peak = float(max(block.max(), -block.min()))
    if peak <= LOUDEST:  # false for NaN
        return block, peak, False
    sound = np.abs(block) <= LOUDEST
    block = np.where(sound, block, np.float32(0))
    return block, float(np.abs(block).max()), True


def open_audio(path: Path, *, max_seconds: float = 86_400.0) -> Audio:
    """Open an audio file with the decoder that reads most of it.

    Parameters
    ----------
    path : pathlib.Path
        A regular file. Neither its name nor its extension matters.
    max_seconds : float
        Decoding stops there, with the warning ``too_long``.

    Returns
    -------
    Audio
        A context manager with ``info``, ``blocks()``, ``frames`` and ``warnings``.

    Raises
    ------
    StageError
        With the reason not_found, permission_denied, unreadable, empty_file, not_audio,
        unsupported_codec or corrupt.
    """
    file = _open_file(path)
    try:
        sniffed = sniff(file)
        reader, blocks = _best_reader(file, sniffed)
    except BaseException:
        file.close()
        raise
    return Audio(reader.info, max_seconds, file, sniffed, reader, blocks)


def _open_file(path: Path) -> io.FileIO:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device may never end
            raise StageError(Reason.UNREADABLE, f"{path.name}: not a regular file")
        if status.st_size == 0:
            raise StageError(Reason.EMPTY_FILE, f"{path.name}: 0 bytes; fetch it again")
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise StageError(Reason.NOT_FOUND, f"{path.name}: no such file") from error
    except PermissionError as error:
        raise StageError(Reason.PERMISSION_DENIED, f"{path.name}: may not be read") from error
    except (OSError, ValueError) as error:
        raise StageError(Reason.UNREADABLE, f"{path.name}: {error}") from error


def _best_reader(file: io.RawIOBase, sniffed: Sniffed) -> tuple[Reader, Iterator[FloatArray]]:
    """Take the first reader that gives sound, or the second where that has more in one block."""
    pyav = functools.partial(PyAVReader, links=sniffed.links)
    order: list[Callable[[io.RawIOBase], Reader]] = [SoundFileReader, pyav]
    if not sniffed.trust_soundfile:
        order.reverse()
    errors: list[StageError] = []
    best: tuple[Reader, FloatArray, Iterator[FloatArray]] | None = None
    for make in order:
        try:
            reader = make(file)
        except StageError as error:
            errors.append(error)
            continue
        blocks = reader.blocks()
        first = next(blocks, None)
        if first is None:
            errors.append(StageError(Reason.CORRUPT, f"{reader.info.decoder}: no sample"))
            reader.close()
            continue
        seconds = len(first) / reader.info.sample_rate_hz
        if best is not None and seconds <= len(best[1]) / best[0].info.sample_rate_hz:
            reader.close()
            break
        best = reader, first, blocks
        ended = len(first) < block_frames(reader.info.channels)
        if not (ended and reader.stopped_early(seconds)):
            break
    if best is None:
        raise _unreadable(sniffed, errors)
    return best[0], itertools.chain([best[1]], best[2])


def _unreadable(sniffed: Sniffed, errors: list[StageError]) -> StageError:
    """One error out of what each decoder said."""
    told = "; ".join(error.message for error in errors)
    reasons = {error.reason for error in errors}
    if Reason.UNSUPPORTED_CODEC in reasons:
        return StageError(Reason.UNSUPPORTED_CODEC, f"{told}; convert it, for instance to FLAC")
    if Reason.CORRUPT in reasons or sniffed.container:
        kind = sniffed.container or "audio"
        return StageError(
            Reason.CORRUPT, f"looks like {kind}, but no sample can be decoded ({told}); "
            "fetch it again or restore it"
        )  # fmt: skip
    return StageError(Reason.NOT_AUDIO, f"no audio format recognises it ({told})")

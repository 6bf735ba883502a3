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

import io
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from transforms.audio.channels import to_mono
from transforms.audio.choice import DOUBTED_SECONDS, Choice, choose
from transforms.audio.readers import AudioInfo, DecodeWarning, clearly_less
from transforms.audio.seeking import PartReader, open_seeking
from transforms.errors import Reason, StageError
from transforms.models.front_end import ChannelRule
from transforms.records import FloatArray

LOUDEST = 1e4  # a sample beyond this (or NaN) is no sound; decoded MP3 reaches about 8
FULL_SCALE = 0.9999
CLIPPED_SHARE = 0.001  # of all samples at or beyond FULL_SCALE


@dataclass
class Audio:
    """An open file; see :func:`open_audio`. Its blocks can be had once, its parts many times."""

    max_seconds: float
    channel_rule: ChannelRule | None
    _path: Path
    _file: io.RawIOBase
    _choice: Choice
    frames: int = 0  # handed out so far
    mono_seconds: float = 0.0  # that the channel rule took
    _found: set[DecodeWarning] = field(default_factory=set)
    _peak: float = 0.0
    _full_scale: int = 0  # samples of all channels
    _ended: bool = False
    _seeking: tuple[PartReader, int] | None = None
    _seeking_known: bool = False

    @property
    def info(self) -> AudioInfo:
        """What the file is; the decoder's name may change while the blocks are handed out."""
        return self._choice.info

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was wrong, in alphabetical order; complete once the blocks have ended.

        Where only parts are read, ``silent`` and ``clipped`` speak of the frames in them.
        """
        found = self._found | self._choice.warnings
        if self._ended and self._peak == 0.0:
            found.add(DecodeWarning.SILENT)
        samples = self.frames * self.info.channels
        if self._full_scale and self._full_scale >= CLIPPED_SHARE * samples:
            found.add(DecodeWarning.CLIPPED)
        return tuple(sorted(warning.value for warning in found))

    @property
    def duration_s(self) -> float:
        """Seconds of sound handed out so far."""
        return self.frames / self.info.sample_rate_hz

    @property
    def exact_frames(self) -> int | None:
        """Frames that a full decode gives, where that is known without one, else None.

        Not None only where :meth:`part` gives exactly what a full decode gives.
        """
        if not self._seeking_known:
            self._seeking = open_seeking(self._path, self._file, self._choice.sniffed, self.info)
            self._seeking_known = True
        return None if self._seeking is None else min(self._seeking[1], self._limit)

    @property
    def _limit(self) -> int:
        return int(self.max_seconds * self.info.sample_rate_hz)

    def blocks(self) -> Iterator[FloatArray]:
        """Decode the sound from the beginning.

        Yields
        ------
        numpy.ndarray
            (frames, channels) float32, never empty, finite; full scale is 1.0. With a channel
            rule it is (frames, 1).
        """
        room, too_long = self._limit, False
        for block in self._choice.blocks(min(DOUBTED_SECONDS, self.max_seconds)):
            too_long = len(block) > room
            block = block[:room]
            room -= len(block)
            if len(block):
                yield self._checked(block)
            if too_long:
                self._found.add(DecodeWarning.TOO_LONG)
                break
        self._ended = True
        if not too_long:
            self._found |= self._length_warnings(self._limit - room)

    def part(self, first: int, last: int) -> Iterator[FloatArray]:
        """Read some frames without decoding all that stands before them.

        They equal the same frames of a full decode bit for bit; behind damaged data in MP3, but
        for rounding. Where the part cannot be read alone to its end, the rest of it comes out of
        a full decode and may be shorter.

        Parameters
        ----------
        first, last : int
            From ``first`` to before ``last``, at most :attr:`exact_frames`.

        Yields
        ------
        numpy.ndarray
            As :meth:`blocks` does.

        Raises
        ------
        ValueError
            If ``exact_frames`` is None, or the part is not within it.
        """
        frames = self.exact_frames
        if self._seeking is None or frames is None or not 0 <= first <= last <= frames:
            raise ValueError(f"no frames {first} to {last} of {frames} by seeking")
        if self._seeking[1] > frames:
            self._found.add(DecodeWarning.TOO_LONG)
        for block in self._seeking[0].part(first, last):
            first += len(block)
            yield self._checked(block)
        if first < last:
            yield from self._decoded_part(first, last)
        self._ended = True

    def _decoded_part(self, first: int, last: int) -> Iterator[FloatArray]:
        """Frames out of a full decode by a second one, for what seeking does not give."""
        with open_audio(self._path, max_seconds=(last + 0.5) / self.info.sample_rate_hz) as whole:
            at = 0
            for block in whole.blocks():
                wanted = block[max(0, first - at) : max(0, last - at)]
                at += len(block)
                if len(wanted):
                    yield self._checked(wanted)
            told = {DecodeWarning(value) for value in whole.warnings}
        aside = {DecodeWarning.TOO_LONG, DecodeWarning.SILENT, DecodeWarning.CLIPPED}
        self._found |= told - aside

    def _checked(self, block: FloatArray) -> FloatArray:
        """Sanitise, note what is remarkable, and mix; the block is handed out next."""
        block, peak, repaired = sanitised(block)
        self._peak = max(self._peak, peak)
        if peak >= FULL_SCALE:
            self._full_scale += int(np.count_nonzero(np.abs(block) >= FULL_SCALE))
        if repaired:
            self._found.add(DecodeWarning.NAN_REPLACED)
        self.frames += len(block)
        if self.channel_rule is None:
            return block
        started = time.perf_counter()
        mono = to_mono(block, self.channel_rule)
        self.mono_seconds += time.perf_counter() - started
        return mono[:, np.newaxis]

    def _length_warnings(self, frames: int) -> set[DecodeWarning]:
        """Compare what was decoded to what the file says."""
        seconds, stated_s = frames / self.info.sample_rate_hz, None
        if self._choice.sniffed.states_length:
            stated_s = self._choice.sniffed.stated_s or self._choice.stated_s
        if self._choice.sniffed.cut_off or (stated_s and clearly_less(seconds, stated_s)):
            return {DecodeWarning.TRUNCATED}
        if stated_s and clearly_less(stated_s, seconds):
            return {DecodeWarning.LENGTH_MISMATCH}
        return set()

    def close(self) -> None:
        """Release the decoders and the file."""
        self._choice.close()
        if self._seeking is not None:
            self._seeking[0].close()
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


def open_audio(
    path: Path, *, max_seconds: float = 86_400.0, channel_rule: ChannelRule | None = None
) -> Audio:
    """Open an audio file with the decoder that reads most of it.

    Parameters
    ----------
    path : pathlib.Path
        A regular file. Neither its name nor its extension matters.
    max_seconds : float
        Decoding stops there, with the warning ``too_long``.
    channel_rule : {"mean", "first"} or None
        How blocks are mixed to one channel; None leaves them as they are. ``info.channels`` and
        the warnings speak of the file's own channels either way.

    Returns
    -------
    Audio
        A context manager with ``info``, ``blocks()``, ``frames`` and ``warnings``, and with
        ``exact_frames`` and ``part()`` for files of which parts can be read alone.

    Raises
    ------
    StageError
        With the reason not_found, permission_denied, unreadable, empty_file, not_audio,
        unsupported_codec or corrupt.
    """
    file = _open_file(path)
    try:
        choice = choose(file)
    except BaseException:
        file.close()
        raise
    return Audio(max_seconds, channel_rule, path, file, choice)


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

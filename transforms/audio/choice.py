"""Which decoder reads a file, and when the other one takes over.

The first reader is chosen by content. The second one is asked where the first gives nothing,
stops before the file does, or gives only digital silence out of compressed data.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from transforms.audio.beginnings import find_beginnings, is_foreign
from transforms.audio.protection import refuse_protected
from transforms.audio.pyav_reader import PyAVReader
from transforms.audio.readers import AudioInfo, DecodeWarning, Reader, block_frames, reblocked
from transforms.audio.sniff import Sniffed, sniff
from transforms.audio.soundfile_reader import SoundFileReader
from transforms.errors import Reason, StageError
from transforms.records import FloatArray

DOUBTED_SECONDS = 600.0  # digital silence of a compressed file that both decoders must agree on
_LEAST_SOUND = 2.0**-16  # half a step of 16 bits: below this is another decoder's rounding
_LEAST_GAIN_SECONDS = 0.05  # less is another decoder's idea of the padding


@dataclass
class Choice:
    """Both decoders on one file as one stream; see :func:`choose`."""

    info: AudioInfo
    sniffed: Sniffed
    _file: io.RawIOBase
    _reader: Reader
    _blocks: Iterator[FloatArray]
    found: set[DecodeWarning] = field(default_factory=set)  # besides what the reader says

    @property
    def warnings(self) -> set[DecodeWarning]:
        """What the decoders found; complete once the blocks have ended."""
        return self.found | self._reader.warnings

    @property
    def stated_s(self) -> float | None:
        """Seconds that the header claims, as read by the decoder that was at work last."""
        return self._reader.stated_s

    def blocks(self, doubted_seconds: float = DOUBTED_SECONDS) -> Iterator[FloatArray]:
        """Decode from the beginning, once.

        Leading zeros of a compressed file are counted and held back until sound comes: so they
        cost no memory, and another decoder's sound can still stand in their place.

        Parameters
        ----------
        doubted_seconds : float
            So much leading silence is held back at most.

        Yields
        ------
        numpy.ndarray
            (frames, channels) float32, never empty, as the decoder gave it.
        """
        blocks = self._continued()
        if self.info.codec.startswith("pcm"):
            yield from blocks
            return
        silent, sound = _leading_silence(blocks, int(doubted_seconds * self.info.sample_rate_hz))
        if silent and sound is None:
            other = self._other_sound(silent)
            if other is not None:
                yield from other
                return
        yield from _zeros(silent, self.info.channels)
        yield from [] if sound is None else [sound]
        yield from blocks

    def _continued(self) -> Iterator[FloatArray]:
        """Pass on the reader's blocks; where it stopped early, PyAV goes on from there."""
        decoded = 0
        for block in self._blocks:
            decoded += len(block)
            yield block
        if not self._reader.stopped_early(decoded / self.info.sample_rate_hz):
            return
        try:
            other = PyAVReader(self._file, self.sniffed.links, like=self.info)
        except StageError:
            return
        least = int(_LEAST_GAIN_SECONDS * self.info.sample_rate_hz)
        rest = reblocked(_skipped(other.blocks(), decoded), least)
        first = next(rest, None)
        gained = first is not None and len(first) >= least
        self._take_over(other, f"{self.info.decoder}+pyav" if gained else self.info.decoder)
        if first is not None and gained:
            yield first
            yield from rest
        else:
            other.warnings = set()

    def _take_over(self, other: Reader, decoder: str) -> None:
        self.found |= self._reader.warnings
        self._reader.close()
        self._reader = other
        self.info = replace(self.info, decoder=decoder)

    def _other_sound(self, silent: int) -> Iterator[FloatArray] | None:
        """All blocks of the other decoder, if it finds sound within the first frames."""
        at = self._file.tell()  # the decoders share it
        other = self._other()
        if other is not None:
            blocks = other.blocks()
            quiet, sound = _leading_silence(blocks, silent, _LEAST_SOUND)
            if sound is not None:
                self._take_over(other, other.info.decoder)
                zeros = _zeros(quiet, self.info.channels)
                return itertools.chain(zeros, [sound], blocks)
            other.close()
        self._file.seek(at)
        return None

    def _other(self) -> Reader | None:
        """The decoder that is not at work, if it reads the file with the same rate and channels."""
        try:
            if isinstance(self._reader, SoundFileReader):
                return PyAVReader(self._file, self.sniffed.links, like=self.info)
            other = SoundFileReader(self._file)
        except StageError:
            return None
        shape = (other.info.sample_rate_hz, other.info.channels)
        if shape == (self.info.sample_rate_hz, self.info.channels):
            return other
        other.close()
        return None

    def close(self) -> None:
        """Release the decoder."""
        self._reader.close()


def _leading_silence(
    blocks: Iterator[FloatArray], most: int, threshold: float = 0.0
) -> tuple[int, FloatArray | None]:
    """Count frames up to the first block with sound, which is returned, but ``most`` about."""
    silent = 0
    while silent < most:
        block = next(blocks, None)
        if block is None:
            break
        if not np.abs(block).max() <= threshold:  # true for NaN
            return silent, block
        silent += len(block)
    return silent, None


def _zeros(frames: int, channels: int) -> Iterator[FloatArray]:
    while frames > 0:
        count = min(frames, block_frames(channels))
        yield np.zeros((count, channels), np.float32)
        frames -= count


def _skipped(blocks: Iterable[FloatArray], frames: int) -> Iterator[FloatArray]:
    for block in blocks:
        if frames < len(block):
            yield block[frames:]
        frames = max(0, frames - len(block))


def choose(file: io.RawIOBase) -> Choice:
    """Find the reader for a file, behind what stands in front of the sound if need be.

    Parameters
    ----------
    file : io.RawIOBase
        With a file descriptor.

    Returns
    -------
    Choice

    Raises
    ------
    StageError
        With the reason not_audio, unsupported_codec or corrupt.
    """
    sniffed = sniff(file)
    refuse_protected(file, sniffed.container)
    if sniffed.container is None and is_foreign(file):  # ffmpeg would find an MP3 in a ZIP
        raise StageError(Reason.NOT_AUDIO, "a document, a picture, a program or an archive")
    try:
        return _choose(file, sniffed)
    except StageError as error:
        if error.reason is not Reason.NOT_AUDIO:
            raise
        hidden = _behind_junk(file)
        if hidden is None:
            raise
        return hidden


def _behind_junk(file: io.RawIOBase) -> Choice | None:
    for start in find_beginnings(file):
        sniffed = replace(sniff(file, start), trust_soundfile=False)  # which begins at byte 0
        try:
            choice = _choose(file, sniffed)
        except StageError:
            continue
        choice.found.add(DecodeWarning.CORRUPT_FRAMES)
        return choice
    return None


def _choose(file: io.RawIOBase, sniffed: Sniffed) -> Choice:
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
    return Choice(best[0].info, sniffed, file, best[0], itertools.chain([best[1]], best[2]))


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

"""The reader on libsndfile: the fastest, for the formats that it is known to read rightly."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import soundfile as sf

from transforms.audio.readers import (
    AudioInfo,
    DecodeWarning,
    block_frames,
    check_shape,
    clearly_less,
    error_text,
)
from transforms.errors import Reason, StageError
from transforms.records import FloatArray

_SUBTYPES = {
    "MPEG_LAYER_I": "mp1", "MPEG_LAYER_II": "mp2", "MPEG_LAYER_III": "mp3", "FLOAT": "pcm_f32",
    "DOUBLE": "pcm_f64", "ULAW": "pcm_mulaw", "ALAW": "pcm_alaw", "MS_ADPCM": "adpcm_ms",
    "IMA_ADPCM": "adpcm_ima_wav", "GSM610": "gsm_ms", "PCM_16": "pcm_s16", "PCM_24": "pcm_s24",
    "PCM_32": "pcm_s32",
}  # fmt: skip
_SEEKS_INEXACTLY = ("MP3", "MPEG")
_UNREAD_BYTES = 4_096  # tags behind the sound are smaller, as a rule


class SequentialSoundFile(sf.SoundFile):  # type: ignore[misc]
    """A SoundFile that does not seek by itself in MP3.

    soundfile seeks behind every read, to where it is already. That discards the state of the MP3
    decoder: the first sound of the next read comes out wrong.
    """

    def seekable(self) -> bool:
        """Whether soundfile may seek unasked; :meth:`seek` works all the same."""
        return self.format not in _SEEKS_INEXACTLY and bool(super().seekable())


class SoundFileReader:
    """libsndfile, by file descriptor, so that no name and no extension matter.

    Parameters
    ----------
    file : io.RawIOBase
        With a file descriptor.

    Raises
    ------
    StageError
        With the reason not_audio, unsupported_codec or corrupt.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        file.seek(0)
        self._fd = file.fileno()
        self._size = os.fstat(self._fd).st_size
        try:
            self._file = SequentialSoundFile(self._fd, closefd=False)
        except (sf.SoundFileError, RuntimeError, ValueError) as error:
            raise StageError(Reason.NOT_AUDIO, f"soundfile: {error_text(error)}") from error
        codec = "flac" if self._file.format == "FLAC" else self._file.subtype
        codec = _SUBTYPES.get(codec, codec.lower().split("alac_")[0] or "alac")
        kind = str(self._file.format)
        container = {"WAVEX": "wav", "MPEG": "mp3"}.get(kind, kind)
        self.info = AudioInfo(
            container.lower(), codec, "soundfile", self._file.samplerate, self._file.channels
        )
        check_shape(self.info)
        self.stated_frames: int = self._file.frames
        self.stated_s: float | None = self.stated_frames / self.info.sample_rate_hz
        self.warnings: set[DecodeWarning] = set()

    def blocks(self, frames: int | None = None) -> Iterator[FloatArray]:
        """Read in blocks of ``frames``, as large as blocks may be by default."""
        frames = frames or block_frames(self.info.channels)
        left = self.stated_frames  # libsndfile decodes what is asked for beyond, and drops it
        while True:
            try:
                block = self._file.read(min(frames, left), dtype="float32", always_2d=True)
            except (sf.SoundFileError, RuntimeError):
                self.warnings.add(DecodeWarning.CORRUPT_FRAMES)
                return
            left -= len(block)
            if len(block):
                yield block
            if len(block) < frames:
                return

    def read_part(self, first: int, last: int) -> FloatArray | None:
        """Read frames by seeking: fewer at the end of the file, None where that fails."""
        try:
            self._file.seek(first)
            block: FloatArray = self._file.read(last - first, dtype="float32", always_2d=True)
        except (sf.SoundFileError, RuntimeError):
            return None
        return block

    def stopped_early(self, seconds: float) -> bool:
        """Whether another decoder may get more: an error, a longer header, bytes left over."""
        short = self.stated_s is not None and clearly_less(seconds, self.stated_s)
        unread = self._size - os.lseek(self._fd, 0, os.SEEK_CUR)
        compressed = not self.info.codec.startswith("pcm")
        left_over = compressed and unread > max(_UNREAD_BYTES, self._size // 50)
        return DecodeWarning.CORRUPT_FRAMES in self.warnings or short or left_over

    def close(self) -> None:
        self._file.close()

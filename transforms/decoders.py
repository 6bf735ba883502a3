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
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import av
import av.audio
import numpy as np
import soundfile as sf

from transforms.errors import Reason, StageError
from transforms.records import FloatArray

av.logging.set_level(None)  # its findings are told by warnings and errors, not on stderr

BLOCK_FRAMES = 65_536
BLOCK_SAMPLES = 4 * BLOCK_FRAMES  # of all channels together: a block is at most 1 MiB
MAX_CHANNELS = 64
RATES_HZ = range(1_000, 6_144_001)  # others are broken headers
LOUDEST = 1e4  # a sample beyond this (or NaN) is no sound; decoded MP3 reaches about 8


class DecodeWarning(str, Enum):
    """What was wrong with a file that could be decoded: the values of ``decode_warnings``."""

    TRUNCATED = "truncated"  # less sound than the header states, or than the chunk should hold
    CORRUPT_FRAMES = "corrupt_frames"  # some of the data could not be decoded and was skipped
    LENGTH_MISMATCH = "length_mismatch"  # more sound than the header states
    STREAM_CHANGE = "stream_change"  # rate or channels change; the first ones are kept
    NAN_REPLACED = "nan_replaced"  # NaN, infinite or absurdly loud samples became 0
    SILENT = "silent"  # every sample is 0
    TOO_LONG = "too_long"  # stopped at max_seconds


@dataclass(frozen=True)
class AudioInfo:
    """What a file turned out to be."""

    container: str
    codec: str  # as ffmpeg names it, without byte order: "mp3", "pcm_s16"
    decoder: str  # "soundfile", "pyav", or "soundfile+pyav" where PyAV went on
    sample_rate_hz: int
    channels: int


# --- what the content says --------------------------------------------------------------------


@dataclass(frozen=True)
class Sniffed:
    """What the first bytes and the chunk sizes say."""

    container: str | None = None  # None: unknown
    trust_soundfile: bool = False
    states_length: bool = True  # False: the header's length is an estimate, or a placeholder
    stated_s: float | None = None  # the length, where it was read here
    cut_off: bool = False  # a chunk ends behind the end of the file
    links: tuple[int, ...] = (0,)  # of a chained Ogg file: where each begins


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


def sniff(file: io.RawIOBase) -> Sniffed:
    """Tell the container by its content; leading ID3v2 tags and zeros are skipped."""
    offset = _skip_tags(file)
    file.seek(offset)
    head = file.read(_HEAD) or b""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _sniff_wav(file, offset)
    for at, magic, container in _MAGIC:
        if head[at : at + len(magic)] == magic:
            if container == "ogg":
                return _sniff_ogg(file)
            return Sniffed(container, container in _SOUNDFILE_FIRST)
    return _sniff_mpeg(head)


def _skip_tags(file: io.RawIOBase) -> int:
    offset = 0
    while offset < _MAX_PADDING * 64:
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


def _sniff_ogg(file: io.RawIOBase) -> Sniffed:
    """Find the links of a chain: soundfile reads the first only, ffmpeg stops at a new rate."""
    begins = list(_find_all(file, b"OggS\x00\x02"))  # pages that begin a stream
    links, behind = [], -1
    for at in begins:
        if at != behind:  # else it is multiplexed with the stream before it
            links.append(at)
        file.seek(at)
        page = file.read(27 + 255) or b""
        segments = page[26] if len(page) > 26 else 0
        behind = at + 27 + segments + sum(page[27 : 27 + segments])
    return Sniffed("ogg", len(begins) == 1, len(links) == 1, links=tuple(links) or (0,))


def _find_all(file: io.RawIOBase, needle: bytes) -> Iterator[int]:
    """Search the whole file, without having it in memory."""
    tail, at = b"", 0  # at: the file's offset of tail[0]
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


# --- the two decoders -------------------------------------------------------------------------


class _Reader(Protocol):
    """One attempt at one file."""

    info: AudioInfo
    stated_s: float | None  # the header's claim
    warnings: set[DecodeWarning]

    def blocks(self) -> Iterator[FloatArray]: ...
    def stopped_early(self, seconds: float) -> bool: ...
    def close(self) -> None: ...


_SUBTYPES = {
    "MPEG_LAYER_I": "mp1", "MPEG_LAYER_II": "mp2", "MPEG_LAYER_III": "mp3", "FLOAT": "pcm_f32",
    "DOUBLE": "pcm_f64", "ULAW": "pcm_mulaw", "ALAW": "pcm_alaw", "MS_ADPCM": "adpcm_ms",
    "IMA_ADPCM": "adpcm_ima_wav", "GSM610": "gsm_ms", "PCM_16": "pcm_s16", "PCM_24": "pcm_s24",
    "PCM_32": "pcm_s32",
}  # fmt: skip
_UNREAD_BYTES = 4_096  # tags behind the sound are smaller, as a rule


class _SoundFileReader:
    """libsndfile, by file descriptor, so that no name and no extension matter."""

    def __init__(self, file: io.RawIOBase) -> None:
        file.seek(0)
        self._fd = file.fileno()
        self._size = os.fstat(self._fd).st_size
        try:
            self._file = sf.SoundFile(self._fd, closefd=False)
        except (sf.SoundFileError, RuntimeError, ValueError) as error:
            raise StageError(Reason.NOT_AUDIO, f"soundfile: {_text(error)}") from error
        codec = "flac" if self._file.format == "FLAC" else self._file.subtype
        codec = _SUBTYPES.get(codec, codec.lower().split("alac_")[0] or "alac")
        container = {"WAVEX": "wav", "MPEG": "mp3"}.get(self._file.format, self._file.format)
        self.info = AudioInfo(
            container.lower(), codec, "soundfile", self._file.samplerate, self._file.channels
        )
        _check_shape(self.info)
        self.stated_s: float | None = self._file.frames / self.info.sample_rate_hz
        self.warnings: set[DecodeWarning] = set()

    def blocks(self) -> Iterator[FloatArray]:
        frames = _block_frames(self.info.channels)
        while True:
            try:
                block = self._file.read(frames, dtype="float32", always_2d=True)
            except (sf.SoundFileError, RuntimeError):
                self.warnings.add(DecodeWarning.CORRUPT_FRAMES)
                return
            if len(block):
                yield block
            if len(block) < frames:
                return

    def stopped_early(self, seconds: float) -> bool:
        """Whether another decoder may get more: an error, a longer header, bytes left over."""
        short = self.stated_s is not None and _clearly_less(seconds, self.stated_s)
        unread = self._size - os.lseek(self._fd, 0, os.SEEK_CUR)
        compressed = not self.info.codec.startswith("pcm")
        left_over = compressed and unread > max(_UNREAD_BYTES, self._size // 50)
        return DecodeWarning.CORRUPT_FRAMES in self.warnings or short or left_over

    def close(self) -> None:
        self._file.close()


_MOST_PLANES = 8  # PyAV reads past the end of the plane pointers of a frame with that many


class _Unnamed:
    """Bytes ``start`` to ``end`` of a file, nameless: an extension would sway ffmpeg's probing."""

    def __init__(self, file: io.RawIOBase, start: int, end: int) -> None:
        self._file, self._start, self._end = file, start, end
        file.seek(start)

    def read(self, size: int) -> bytes:
        return self._file.read(max(0, min(size, self._end - self._file.tell()))) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._end}
        target = base[whence] + offset
        if target < self._start:  # a broken header; ffmpeg would print an exception
            return -1
        return self._file.seek(target) - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start


class _PyAVReader:
    """ffmpeg's demuxers and decoders; goes on behind packets that cannot be decoded."""

    def __init__(
        self, file: io.RawIOBase, links: tuple[int, ...] = (0,), like: AudioInfo | None = None
    ) -> None:
        size = os.fstat(file.fileno()).st_size
        spans = list(zip(links, (*links[1:], size), strict=True))
        self.warnings: set[DecodeWarning] = set()
        self._container = _open_av(_Unnamed(file, *spans[0]))
        try:
            self._stream, self._context = _audio_stream(self._container)
            self._frames = self._all_decoded(file, spans[1:])
            self._first = next(self._frames, None)
            if self._first is None:
                raise StageError(Reason.CORRUPT, "PyAV: no packet of it could be decoded")
            self.info = self._info(self._first, like)
            _check_shape(self.info)
        except StageError:
            self._container.close()
            raise
        self._layout = self._first.layout
        if self.info.channels != self._layout.nb_channels:
            self._layout = av.AudioLayout(_layout_name(self.info.channels))
        self.stated_s = self._stated_s()

    def _info(self, frame: av.AudioFrame, like: AudioInfo | None) -> AudioInfo:
        name = self._container.format.name.split(",")[0]
        codec = self._context.codec.canonical_name
        if codec.startswith("pcm_"):
            codec = codec.removesuffix("le").removesuffix("be")
        info = AudioInfo(
            {"mov": "mp4"}.get(name, name), codec, "pyav",
            frame.sample_rate, frame.layout.nb_channels,
        )  # fmt: skip
        if like is None:
            return info
        return replace(info, sample_rate_hz=like.sample_rate_hz, channels=like.channels)

    def _stated_s(self) -> float | None:
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * Fraction(self._stream.time_base))
        duration = self._container.duration
        return None if duration is None else duration / 1_000_000

    def _all_decoded(
        self, file: io.RawIOBase, later: list[tuple[int, int]]
    ) -> Iterator[av.AudioFrame]:
        """Decode the open link, then the later ones, each by itself."""
        yield from self._decoded(self._container, self._stream, self._context)
        for span in later:
            try:
                container = _open_av(_Unnamed(file, *span))
            except StageError:
                self.warnings.add(DecodeWarning.CORRUPT_FRAMES)
                continue
            with container:
                try:
                    stream, context = _audio_stream(container)
                except StageError:
                    continue
                yield from self._decoded(container, stream, context)

    def _decoded(self, container: Any, stream: Any, context: Any) -> Iterator[av.AudioFrame]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)  # the last one is empty and flushes the decoder
                frames = context.decode(packet)
            except (StopIteration, av.EOFError):
                return
            except av.FFmpegError:
                self.warnings.add(DecodeWarning.CORRUPT_FRAMES)
                continue  # a demuxer that failed has ended its iterator
            yield from (frame for frame in frames if frame.samples and frame.sample_rate)

    def _conformed(self) -> Iterator[FloatArray]:
        """Frames as (frames, channels) of one rate and layout."""
        assert self._first is not None
        resampler: av.AudioResampler | None = None
        kind: tuple[str, str, int] | None = None
        for frame in _chain(self._first, self._frames):
            frame_kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or frame_kind != kind:
                if resampler is not None:
                    self.warnings.add(DecodeWarning.STREAM_CHANGE)
                    yield from map(
                        self._interleaved, resampler.resample(None)
                    )  # what it still holds
                kind = frame_kind
                resampler = self._resampler()
            frame.pts = None  # a gap in time stamps is no sound
            yield from map(self._interleaved, resampler.resample(frame))
        if resampler is not None:
            yield from map(self._interleaved, resampler.resample(None))

    def _interleaved(self, frame: av.AudioFrame) -> FloatArray:
        samples = frame.to_ndarray()  # (channels, frames), or (1, frames * channels) if packed
        planar = frame.format.is_planar
        block = samples.T if planar else samples.reshape(-1, self.info.channels)
        return np.ascontiguousarray(block, dtype=np.float32)

    def _resampler(self) -> av.AudioResampler:
        form = "fltp" if self.info.channels < _MOST_PLANES else "flt"
        return av.AudioResampler(form, self._layout, self.info.sample_rate_hz)

    def blocks(self) -> Iterator[FloatArray]:
        return _reblocked(self._conformed(), _block_frames(self.info.channels))

    def stopped_early(self, seconds: float) -> bool:
        """Nothing reads on where ffmpeg stopped."""
        return False

    def close(self) -> None:
        self._container.close()


# Demuxers of formats without any mark: ffmpeg takes plain text for one of them.
_MARKLESS = frozenset(
    [
        "amrnb",
        "amrwb",
        "aptx",
        "aptx_hd",
        "codec2raw",
        "dfpwm",
        "g722",
        "g723_1",
        "g726",
        "g726le",
        "g728",
        "g729",
        "msbc",
        "sbc",
    ]
)


def _open_av(file: _Unnamed) -> Any:
    try:
        container = av.open(file, mode="r", metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise StageError(Reason.NOT_AUDIO, f"PyAV: {_text(error)}") from error
    if container.format.name in _MARKLESS:
        container.close()
        raise StageError(Reason.NOT_AUDIO, f"PyAV: no more than a guess ({container.format.name})")
    return container


def _audio_stream(container: Any) -> tuple[Any, Any]:
    """Find the best audio stream and its decoder, of a container that may hold pictures as well."""
    kinds = sorted({stream.type for stream in container.streams})
    if not container.streams.audio:
        found = f"{container.format.name} with {', '.join(kinds) or 'no stream'}"
        raise StageError(Reason.NOT_AUDIO, f"PyAV: {found}, but no sound")
    stream = container.streams.best("audio") or container.streams.audio[0]
    context = stream.codec_context
    if context is None or not context.codec.is_decoder:
        raise StageError(
            Reason.UNSUPPORTED_CODEC, f"PyAV: {container.format.name} in a codec without a decoder"
        )
    context.thread_count = 1  # workers are the parallelism here
    return stream, context


def _chain(first: Any, rest: Iterable[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _layout_name(channels: int) -> str:
    return {1: "mono", 2: "stereo"}.get(channels, f"{channels}c")


def _reblocked(parts: Iterable[FloatArray], frames: int) -> Iterator[FloatArray]:
    """Pass on the same samples in blocks of at least ``frames``, the last one excepted."""
    held: list[FloatArray] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part)
        if count >= frames:
            yield np.concatenate(held)
            held, count = [], 0
    if count:
        yield np.concatenate(held)


def _block_frames(channels: int) -> int:
    return min(BLOCK_FRAMES, BLOCK_SAMPLES // channels)


def _check_shape(info: AudioInfo) -> None:
    if info.sample_rate_hz not in RATES_HZ:
        raise StageError(
            Reason.CORRUPT, f"{info.container}: states a rate of {info.sample_rate_hz} Hz"
        )
    if not 1 <= info.channels <= MAX_CHANNELS:
        raise StageError(
            Reason.UNSUPPORTED_CODEC,
            f"{info.container}: {info.channels} channels, at most {MAX_CHANNELS} are read",
        )


def _clearly_less(seconds: float, other: float) -> bool:
    return other - seconds > max(0.1, 0.02 * other)


def _text(error: Exception) -> str:
    return str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error)


# --- both together ----------------------------------------------------------------------------


@dataclass
class Audio:
    """An open file; see :func:`open_audio`. Its blocks can be had once."""

    info: AudioInfo
    max_seconds: float
    _file: io.RawIOBase
    _sniffed: Sniffed
    _reader: _Reader
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
            other = _PyAVReader(self._file, like=self.info)
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
        if self._sniffed.cut_off or (stated_s and _clearly_less(self.duration_s, stated_s)):
            self._found.add(DecodeWarning.TRUNCATED)
        elif stated_s and _clearly_less(stated_s, self.duration_s):
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


def _best_reader(file: io.RawIOBase, sniffed: Sniffed) -> tuple[_Reader, Iterator[FloatArray]]:
    """Take the first reader that gives sound, or the second where that has more in one block."""
    pyav = functools.partial(_PyAVReader, links=sniffed.links)
    order: list[Callable[[io.RawIOBase], _Reader]] = [_SoundFileReader, pyav]
    if not sniffed.trust_soundfile:
        order.reverse()
    errors: list[StageError] = []
    best: tuple[_Reader, FloatArray, Iterator[FloatArray]] | None = None
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
        ended = len(first) < _block_frames(reader.info.channels)
        if not (ended and reader.stopped_early(seconds)):
            break
    if best is None:
        raise _unreadable(sniffed, errors)
    return best[0], _chain(best[1], best[2])


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

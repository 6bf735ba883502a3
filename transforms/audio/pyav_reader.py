"""The reader on PyAV: whatever ffmpeg can demux and decode, damaged files included."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import av.audio
import numpy as np

from transforms.audio.readers import (
    AudioInfo,
    DecodeWarning,
    block_frames,
    check_shape,
    error_text,
    reblocked,
)
from transforms.errors import Reason, StageError
from transforms.records import FloatArray

av.logging.set_level(None)  # its findings are told by warnings and errors, not on stderr

_MOST_ERRORS = 100  # of the demuxer, one after the other, until a file is given up
# No protocol has that name. Some text files name others for ffmpeg to open (ffconcat, playlists),
# or make it wait at a port (SDP): a catalog must not read what is not in it.
_OPTIONS = {"protocol_whitelist": "none"}
_MOST_PLANES = 8  # PyAV reads past the end of the plane pointers of a frame with that many
# Demuxers of formats without any mark: ffmpeg takes plain text for one of them.
_MARKLESS = frozenset(
    "amrnb amrwb aptx aptx_hd codec2raw dfpwm g722 g723_1 g726 g726le g728 g729 msbc sbc".split()
)


class Unnamed:
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
        self._file.seek(min(target, self._end))  # no filesystem can be sought as far as headers say
        return target - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start


class PyAVReader:
    """ffmpeg's demuxers and decoders; goes on behind packets that cannot be decoded.

    Parameters
    ----------
    file : io.RawIOBase
        With a file descriptor.
    links : tuple of int
        Where each link of a chained file begins.
    like : AudioInfo or None
        Whose rate and channels to give, where this goes on for another reader.

    Raises
    ------
    StageError
        With the reason not_audio, unsupported_codec or corrupt.
    """

    def __init__(
        self, file: io.RawIOBase, links: tuple[int, ...] = (0,), like: AudioInfo | None = None
    ) -> None:
        size = os.fstat(file.fileno()).st_size
        spans = list(zip(links, (*links[1:], size), strict=True))
        self.warnings: set[DecodeWarning] = set()
        self._container = open_av(Unnamed(file, *spans[0]))
        try:
            self._stream, self._context = audio_stream(self._container)
            self._frames = self._all_decoded(file, spans[1:])
            self._first = next(self._frames, None)
            if self._first is None:
                raise StageError(Reason.CORRUPT, "PyAV: no packet of it could be decoded")
            self.info = self._info(self._first, like)
            check_shape(self.info)
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
                container = open_av(Unnamed(file, *span))
            except StageError:
                self.warnings.add(DecodeWarning.CORRUPT_FRAMES)
                continue
            with container:
                try:
                    stream, context = audio_stream(container)
                except StageError:
                    continue
                yield from self._decoded(container, stream, context)

    def _decoded(self, container: Any, stream: Any, context: Any) -> Iterator[av.AudioFrame]:
        return decoded_frames(
            container, stream, context, lambda: self.warnings.add(DecodeWarning.CORRUPT_FRAMES)
        )

    def _conformed(self) -> Iterator[FloatArray]:
        """Frames as (frames, channels) of one rate and layout."""
        assert self._first is not None
        resampler: av.AudioResampler | None = None
        kind: tuple[str, str, int] | None = None
        for frame in itertools.chain([self._first], self._frames):
            frame_kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or frame_kind != kind:
                if resampler is not None:
                    self.warnings.add(DecodeWarning.STREAM_CHANGE)
                    # What it still holds:
                    yield from self._resampled(resampler, None)
                kind = frame_kind
                resampler = self._resampler()
            frame.pts = None  # a gap in time stamps is no sound
            yield from self._resampled(resampler, frame)
        if resampler is not None:
            yield from self._resampled(resampler, None)

    def _resampled(
        self, resampler: av.AudioResampler, frame: av.AudioFrame | None
    ) -> list[FloatArray]:
        try:
            return [self._interleaved(part) for part in resampler.resample(frame)]
        except av.FFmpegError:  # a rate or layout that ffmpeg itself cannot resample
            self.warnings.add(DecodeWarning.CORRUPT_FRAMES)
            return []

    def _interleaved(self, frame: av.AudioFrame) -> FloatArray:
        samples = frame.to_ndarray()  # (channels, frames), or (1, frames * channels) if packed
        planar = frame.format.is_planar
        block = samples.T if planar else samples.reshape(-1, self.info.channels)
        return np.ascontiguousarray(block, dtype=np.float32)

    def _resampler(self) -> av.AudioResampler:
        form = "fltp" if self.info.channels < _MOST_PLANES else "flt"
        return av.AudioResampler(form, self._layout, self.info.sample_rate_hz)

    def blocks(self) -> Iterator[FloatArray]:
        return reblocked(self._conformed(), block_frames(self.info.channels))

    def stopped_early(self, seconds: float) -> bool:
        """Nothing reads on where ffmpeg stopped."""
        return False

    def close(self) -> None:
        self._container.close()


def open_av(file: Any, **options: str) -> Any:
    """Open an object with ``read``, and with ``seek`` and ``tell`` where it can; no other file.

    Raises
    ------
    StageError
        With the reason not_audio.
    """
    try:
        container = av.open(
            file, mode="r", metadata_errors="replace", options={**options, **_OPTIONS}
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise StageError(Reason.NOT_AUDIO, f"PyAV: {error_text(error)}") from error
    if container.format.name in _MARKLESS:
        container.close()
        raise StageError(Reason.NOT_AUDIO, f"PyAV: no more than a guess ({container.format.name})")
    return container


def audio_stream(container: Any) -> tuple[Any, Any]:
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


def decoded_frames(
    container: Any, stream: Any, context: Any, damaged: Callable[[], object]
) -> Iterator[av.AudioFrame]:
    """Decode a stream behind damage too; ``damaged`` is called for each piece that is skipped."""
    for packet in _packets(container, stream, damaged):
        try:
            frames = context.decode(packet)
        except av.EOFError:
            return
        except av.FFmpegError:
            damaged()
            continue
        yield from (frame for frame in frames if frame.samples and frame.sample_rate)


def _packets(container: Any, stream: Any, damaged: Callable[[], object]) -> Iterator[Any]:
    """Demux behind errors too; the last packet is empty, or None: it flushes the decoder."""
    packets, failed = container.demux(stream), 0
    while failed < _MOST_ERRORS:
        try:
            packet = next(packets)
        except (StopIteration, av.EOFError):
            return
        except (av.FFmpegError, IndexError) as error:
            if isinstance(error, av.FFmpegError):  # else another stream began, unknown to PyAV
                damaged()
            failed += 1
            packets = container.demux(stream)  # one that failed has ended its iterator
            continue
        failed = 0
        yield packet
    yield None


def _layout_name(channels: int) -> str:
    return {1: "mono", 2: "stereo"}.get(channels, f"{channels}c")

"""A live source's bytes to sound, by PyAV, as they come.

Decoding runs in this process, without the child that guards a catalog's runs: a publisher reads
the few sources that its user names. What it decodes cannot make it open anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from transforms.audio.pyav_reader import audio_stream, decoded_frames, open_av
from transforms.errors import Reason, StageError
from transforms.streaming.cutting import Sound
from transforms.streaming.http_input import SCHEMES, HttpInput
from transforms.streaming.live_input import Input, open_local
from transforms.streaming.ogg_links import MARK, Pages

_FORMS = {"pcm_s16le": "s16", "pcm_f32le": "flt"}
_LAYOUTS = {1: "mono", 2: "stereo"}
_HEAD_BYTES = 512
_MOST_DAMAGED = 100  # pieces one after the other, until a source is given up
# ffmpeg would listen to five seconds before it gives the first.
_LIVE = {"probesize": "32768", "analyzeduration": "200000"}
_PLAYLIST = re.compile(
    rb"\s*(#EXTM3U|\[playlist\]|\[Reference\]|ffconcat version"
    rb"|<(\?xml[^>]*>\s*<)?(asx|smil|MPD|playlist)\b|(https?|file|concat|ftp|rtp|rtmp)://)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(rb"https?://[\x21-\x7e]+?(?=[\"'<>\s]|$)")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What sound is made into; None: as the source has it."""

    encoding: str = "pcm_s16le"
    sample_rate_hz: int | None = None
    channels: int | None = None  # 1 or 2


def is_url(source: str) -> bool:
    """Whether a source is a web address, which may break off and come back."""
    return source.lower().startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def make_input(source: str, patience_s: float) -> Input:
    """The bytes of a source.

    Raises
    ------
    StageError
        A file that cannot be opened. An address is connected to when its context is entered.
    """
    return HttpInput(source, patience_s) if is_url(source) else open_local(source)


class LiveSource:
    """Decodes an input as it comes.

    Attributes
    ----------
    damaged : int
        Pieces that could not be decoded, and were skipped.
    """

    def __init__(self, data: Input, conversion: Conversion) -> None:
        self._input, self._conversion = data, conversion
        self.damaged = 0
        self._damaged_in_a_row = 0

    def sounds(self) -> Iterator[Sound]:
        """Decode to the end.

        Raises
        ------
        StageError
            Not audio, no decoder, or an input that broke off; all that came before was given.
        """
        head = self._input.peek(_HEAD_BYTES)
        self._input.check()
        if not head:
            raise StageError(Reason.EMPTY_FILE, "there is nothing in it; check the source")
        _refuse_playlist(head)
        given = False
        try:
            for file in self._files(head):
                for sound in self._decoded(file):
                    given = True
                    yield sound
        except StageError:
            self._input.check()  # what broke off is the cause
            raise
        self._input.check()
        if not given:
            raise StageError(Reason.CORRUPT, "no sound could be decoded; check the source")

    def _files(self, head: bytes) -> Iterator[Any]:
        """What to decode, one after the other."""
        if head.startswith(MARK):
            yield from Pages(self._input.read).links()
        else:
            yield self._input.seekable() or _Stream(self._input.read)

    def _decoded(self, file: Any) -> Iterator[Sound]:
        live = _LIVE if not hasattr(file, "seek") else {}
        with _opened(file, live) as container:
            stream, context = audio_stream(container)
            frames = decoded_frames(container, stream, context, self._count_damage)
            converter: _Converter | None = None
            for frame in frames:
                self._damaged_in_a_row = 0
                if converter is None or not converter.fits(frame):
                    if converter is not None:
                        yield from converter.rest()
                    converter = _Converter(frame, self._conversion)
                yield from converter.converted(frame)
            if converter is not None:
                yield from converter.rest()

    def _count_damage(self) -> None:
        self.damaged += 1
        self._damaged_in_a_row += 1
        if self._damaged_in_a_row >= _MOST_DAMAGED:
            raise StageError(
                Reason.CORRUPT, f"{_MOST_DAMAGED} pieces in a row cannot be decoded; check the "
                "source, and give a file by its path"
            )  # fmt: skip


class _Stream:
    """Nothing but ``read``: PyAV would seek if it could."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read


def _opened(file: Any, options: dict[str, str]) -> Any:
    try:
        return open_av(file, **options)
    except StageError as error:
        raise StageError(
            error.reason, f"is not audio that can be read as it comes ({error.message}); "
            "check the source, or convert it"
        ) from error  # fmt: skip


def _refuse_playlist(head: bytes) -> None:
    if not _PLAYLIST.match(head):
        return
    found = _ADDRESS.search(head)
    named = f", perhaps {found.group().decode()}" if found else ""
    raise StageError(
        Reason.NOT_AUDIO, f"is a playlist, which is not followed; give what it names{named}"
    )


class _Converter:
    """Frames of one kind to sound of one kind."""

    def __init__(self, frame: av.AudioFrame, conversion: Conversion) -> None:
        self._kind = _kind(frame)
        self._encoding = conversion.encoding
        terms = [f"sample_fmts={_FORMS[conversion.encoding]}"]
        if conversion.sample_rate_hz is not None:
            terms.append(f"sample_rates={conversion.sample_rate_hz}")
        if conversion.channels is not None:
            terms.append(f"channel_layouts={_LAYOUTS[conversion.channels]}")
        self._graph = av.filter.Graph()
        begin = self._graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format,
            layout=frame.layout,
            time_base=Fraction(1, frame.sample_rate),
        )
        # A mix must not be louder in floats than in integers, where ffmpeg sees to it itself.
        mix = self._graph.add("aresample", "rematrix_maxval=1")
        made = self._graph.add("aformat", ":".join(terms))
        self._graph.link_nodes(begin, mix, made, self._graph.add("abuffersink")).configure()

    def fits(self, frame: av.AudioFrame) -> bool:
        return _kind(frame) == self._kind

    def converted(self, frame: av.AudioFrame | None) -> Iterator[Sound]:
        if frame is not None:
            frame.pts = None  # a gap in time stamps is no sound
        try:
            self._graph.push(frame)
            while True:
                yield self._sound(self._graph.pull())
        except (av.BlockingIOError, av.EOFError):
            return
        except av.FFmpegError as error:
            raise StageError(
                Reason.CORRUPT, f"{', '.join(map(str, self._kind))}: cannot be converted ({error})"
            ) from error

    def rest(self) -> Iterator[Sound]:
        """What a resampler still holds."""
        return self.converted(None)

    def _sound(self, frame: Any) -> Sound:
        return Sound(
            encoding=self._encoding,
            sample_rate_hz=frame.sample_rate,
            channels=frame.layout.nb_channels,
            payload=frame.to_ndarray().tobytes(),
        )


def _kind(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate

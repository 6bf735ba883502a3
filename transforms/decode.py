"""Decode: tracks to windows of samples at the file's own rate, the last with the track's facts."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import apache_beam as beam
from apache_beam import pvalue

from transforms.audio.sandbox import DecoderLimits, RemoteAudio, Sandbox
from transforms.contents import COUNTS, KNOWN, ContentDoFn
from transforms.errors import Reason, StageError
from transforms.fetch import Fetched
from transforms.models.front_end import FrontEnd
from transforms.records import (
    AudioWindow,
    FloatArray,
    Track,
    TrackFacts,
    TrackFeatures,
)
from transforms.results import LABELS
from transforms.stage_metrics import FAILURES
from transforms.storage.known import KnownRows
from transforms.windows import cut_parts, cut_windows, needs_total

STAGE = LABELS.stage
WINDOWS = "windows"

_DEFAULT_LIMITS = DecoderLimits()

_Opened: TypeAlias = Callable[[], contextlib.AbstractContextManager[RemoteAudio]]


def check_length(duration_s: float, min_seconds: float) -> None:
    """Raise StageError, ``too_short``, if there is less sound than ``min_seconds``."""
    if duration_s < min_seconds:
        raise StageError(
            Reason.TOO_SHORT, f"{duration_s:.3f} s of sound; at least {min_seconds} s are labelled"
        )


def long_enough(audio: RemoteAudio, min_seconds: float) -> Iterator[FloatArray]:
    """Pass on the blocks of ``audio``; raises StageError at their end if they are too short."""
    yield from audio.blocks()
    check_length(audio.duration_s, min_seconds)


def decode_track(
    track: Track,
    source: Fetched,
    front_end: FrontEnd,
    *,
    min_seconds: float,
    sandbox: Sandbox,
    features: bool = False,
    count_seconds: Callable[[Mapping[str, float]], None] = lambda spent: None,
) -> Iterator[AudioWindow]:
    """Decode one track to its windows.

    Parameters
    ----------
    track : Track
    source : Fetched
        Its bytes.
    front_end : FrontEnd
        Says which windows, and where decoding stops.
    min_seconds : float
        Less sound than this is a failure.
    sandbox : Sandbox
        Where the decoders run.
    features : bool
        Whether the facts have features, for which the track is decoded once more.
    count_seconds : callable
        Takes the seconds that were spent, by part: decode, mono, transfer, features.

    Yields
    ------
    AudioWindow
        In order, mono by the front end's channel rule; the last one carries the facts. A track
        that then fails may have given some.

    Raises
    ------
    StageError
        If the file cannot be decoded, or holds less than ``min_seconds`` of sound.
    """

    @contextlib.contextmanager
    def opened() -> Iterator[RemoteAudio]:
        with sandbox.open(
            source.path,
            max_seconds=front_end.decoded_seconds,
            channel_rule=front_end.channel_rule,
        ) as audio:
            try:
                yield audio
            finally:
                count_seconds(audio.spent)

    with opened() as audio:
        frames = None
        if not needs_total(front_end):
            windows = cut_windows(
                long_enough(audio, min_seconds),
                track=track,
                sample_rate_hz=audio.info.sample_rate_hz,
                front_end=front_end,
            )
        else:
            windows, frames = _placed(track, audio, opened, front_end, min_seconds)
        for window in _with_facts(windows, source, audio, frames):
            if features and window.facts is not None:
                heard = _features(source, front_end, sandbox, count_seconds)
                window = dataclasses.replace(
                    window, facts=dataclasses.replace(window.facts, features=heard)
                )
            yield window


def _placed(
    track: Track,
    audio: RemoteAudio,
    opened: _Opened,
    front_end: FrontEnd,
    min_seconds: float,
) -> tuple[Iterator[AudioWindow], int]:
    """Windows whose place depends on the track's length, and that length in frames."""
    rate_hz = audio.info.sample_rate_hz
    seeks = audio.exact_frames is not None
    frames = audio.exact_frames if audio.exact_frames is not None else audio.count_frames()
    check_length(frames / rate_hz, min_seconds)
    what: dict[str, Any] = {"track": track, "sample_rate_hz": rate_hz, "front_end": front_end}
    if seeks:
        return cut_parts(audio.part, total_frames=frames, **what), frames
    return _decoded_again(opened, total_frames=frames, **what), frames


def _decoded_again(opened: _Opened, **what: Any) -> Iterator[AudioWindow]:
    with opened() as audio:
        yield from cut_windows(audio.blocks(), **what)


def _features(
    source: Fetched,
    front_end: FrontEnd,
    sandbox: Sandbox,
    count_seconds: Callable[[Mapping[str, float]], None],
) -> TrackFeatures | None:
    """Decode all channels of the whole track: its windows may be one channel of a few parts.

    A decoder that hands out damage fails nothing here: the windows may hold none of it, and if
    they do, that is for Preprocess to say.
    """
    started = time.perf_counter()
    from transforms.features import track_features  # an option: librosa takes seconds to import

    try:
        with sandbox.open(source.path, max_seconds=front_end.decoded_seconds) as audio:
            return track_features(audio.blocks(), sample_rate_hz=audio.info.sample_rate_hz)
    finally:
        count_seconds({"features": time.perf_counter() - started})


def _with_facts(
    windows: Iterator[AudioWindow], source: Fetched, audio: RemoteAudio, frames: int | None
) -> Iterator[AudioWindow]:
    """Hold each window back until the next one shows that it is not the last."""
    held: AudioWindow | None = None
    for window in windows:
        if held is not None:
            yield held
        held = window
    if held is not None:
        facts = track_facts(source, audio, held.window_index + 1, frames)
        yield dataclasses.replace(held, facts=facts)


def track_facts(
    source: Fetched, audio: RemoteAudio, window_count: int, frames: int | None = None
) -> TrackFacts:
    """Gather the facts about a track whose blocks have all been handed out or counted."""
    seconds = audio.duration_s if frames is None else frames / audio.info.sample_rate_hz
    return TrackFacts(
        content_sha256=source.sha256,
        size_bytes=source.size_bytes,
        duration_s=seconds,
        sample_rate_hz=audio.info.sample_rate_hz,
        channels=audio.info.channels,
        container=audio.info.container,
        codec=audio.info.codec,
        decoder=audio.info.decoder,
        window_count=window_count,
        decode_warnings=audio.warnings,
    )


@dataclass
class Decode(beam.PTransform):  # type: ignore[misc]
    """``PCollection[Track]`` to windows, failures, known contents and counts.

    Parameters
    ----------
    front_end : FrontEnd
        Says which windows a track has, and where decoding stops (warning ``too_long``).
    min_seconds : float
        A track with less decoded sound is a ``too_short`` failure. Windows of it may have left
        by then: a failure outweighs them.
    limits : DecoderLimits
        What the decoding of one file may cost.
    known : KnownRows, optional
        A track whose very bytes are known is not decoded: skipped where they have a row under
        its own uri, else handed on as known.
    features : bool
        Whether the facts on a track's last window have features; see transforms.features.

    Returns
    -------
    windows : PCollection[AudioWindow]
        The main output.
    failures : PCollection[Failure]
        Of the tracks that are not decoded to their end.
    known : PCollection[KnownContent]
        Tracks whose bytes have a row under another uri.
    counts : PCollection[((outcome, kind), int)]
        Listings skipped, see transforms.books.
    """

    front_end: FrontEnd
    min_seconds: float = 0.1
    limits: DecoderLimits = _DEFAULT_LIMITS
    known: KnownRows | None = None
    features: bool = False

    def expand(self, tracks: pvalue.PCollection[Track]) -> pvalue.DoOutputsTuple:
        do_fn = _DecodeFn(
            self.front_end, self.min_seconds, self.limits, self.known, features=self.features
        )
        outputs: pvalue.DoOutputsTuple = tracks | beam.ParDo(do_fn).with_outputs(
            FAILURES, KNOWN, COUNTS, main=WINDOWS
        )
        return outputs


class _DecodeFn(ContentDoFn):
    def __init__(
        self,
        front_end: FrontEnd,
        min_seconds: float,
        limits: DecoderLimits,
        known: KnownRows | None,
        *,
        features: bool = False,
    ) -> None:
        super().__init__(limits, known)
        self._front_end = front_end
        self._min_seconds = min_seconds
        self._features = features

    def work(self, track: Track, source: Fetched) -> Iterator[AudioWindow]:
        windows = decode_track(
            track,
            source,
            self._front_end,
            min_seconds=self._min_seconds,
            sandbox=self._sandbox,
            features=self._features,
            count_seconds=self._meter.timed.update,
        )
        for window in windows:
            if window.facts is not None:
                self.count_audio(window.facts.duration_s)
            yield window

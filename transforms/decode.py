"""Decode: tracks to windows of samples at the file's own rate, and one row of facts per track."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.decoders import Audio, open_audio
from transforms.errors import Reason, StageError
from transforms.manifest import file_uri_path
from transforms.models.front_end import FrontEnd
from transforms.records import AudioWindow, Failure, FloatArray, Track, TrackFacts
from transforms.stage_metrics import FAILURES, StageMeter
from transforms.windows import cut_windows, needs_total

STAGE = "Decode"
WINDOWS, FACTS = "windows", "facts"

_Output: TypeAlias = "AudioWindow | pvalue.TaggedOutput[Any, Any]"

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Fetched:
    """A track's bytes as a local file."""

    path: Path
    sha256: str  # hexadecimal
    size_bytes: int  # as read


def local_path(uri: str) -> Path | None:
    """Return the local file that ``uri`` names, or None where it is on another filesystem."""
    if (named := file_uri_path(uri)) is not None:
        return Path(named)
    return Path(uri) if FileSystems.get_scheme(uri) is None else None


@contextlib.contextmanager
def fetched(uri: str) -> Iterator[Fetched]:
    """Provide the bytes behind ``uri``, hashed: in place, or as a temporary copy.

    Parameters
    ----------
    uri : str
        A path, or a URI of any Beam filesystem. Compressed files are taken as they are.

    Yields
    ------
    Fetched

    Raises
    ------
    StageError
        With the reason not_found, permission_denied or unreadable.
    """
    path = local_path(uri)
    if path is not None:
        with _reasoned(uri):
            if not path.is_file():  # a pipe must not be opened: it may never end
                _refuse(path)
            with path.open("rb") as source:
                digest, size = _read(source, None)
        yield Fetched(path, digest, size)
        return
    with tempfile.TemporaryDirectory(prefix="decode-") as folder:
        copy = Path(folder) / "track"
        with _reasoned(uri):
            digest, size = _copy(uri, copy)
        yield Fetched(copy, digest, size)


def _refuse(path: Path) -> None:
    path.stat()  # says not found or permission denied
    raise StageError(Reason.UNREADABLE, f"{path} is no regular file")


def _copy(uri: str, copy: Path) -> tuple[str, int]:
    # UNCOMPRESSED: the default would silently undo what a name like "take.wav.gz" suggests.
    source: BinaryIO = FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)
    with contextlib.closing(source), copy.open("wb") as sink:
        return _read(source, sink)


def _read(source: BinaryIO, sink: BinaryIO | None) -> tuple[str, int]:
    """SHA-256 and size of what ``source`` holds, copied to ``sink`` on the way."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
        if sink is not None:
            sink.write(chunk)
    return digest.hexdigest(), size


@contextlib.contextmanager
def _reasoned(uri: str) -> Iterator[None]:
    """Turn whatever a filesystem raises into a StageError with the nearest reason."""
    try:
        yield
    except StageError:
        raise
    except Exception as error:  # each filesystem has its own kinds; the cause stays attached
        message = f"{uri}: {type(error).__name__}: {error}"
        raise StageError(_reason(error), message) from error


def _reason(error: Exception) -> Reason:
    code = getattr(error, "code", None)  # cloud clients put the HTTP status here
    if isinstance(error, FileNotFoundError) or code == 404:
        return Reason.NOT_FOUND
    if isinstance(error, PermissionError) or code in (401, 403):
        return Reason.PERMISSION_DENIED
    return Reason.UNREADABLE


def count_frames(path: Path, *, max_seconds: float) -> int:
    """Frames that decoding ``path`` gives, by decoding it; no header is asked."""
    with open_audio(path, max_seconds=max_seconds) as audio:
        return sum(len(block) for block in audio.blocks())


def long_enough(audio: Audio, min_seconds: float) -> Iterator[FloatArray]:
    """Pass on the blocks of ``audio``.

    Raises
    ------
    StageError
        At the end, with the reason too_short, if they hold less than ``min_seconds``.
    """
    yield from audio.blocks()
    if audio.duration_s < min_seconds:
        raise StageError(
            Reason.TOO_SHORT,
            f"{audio.duration_s:.3f} s of sound; at least {min_seconds} s are labelled",
        )


def track_facts(uri: str, source: Fetched, audio: Audio, window_count: int) -> TrackFacts:
    """Gather the facts about a track whose blocks have all been handed out."""
    return TrackFacts(
        uri=uri,
        content_sha256=source.sha256,
        size_bytes=source.size_bytes,
        duration_s=audio.duration_s,
        sample_rate_hz=audio.info.sample_rate_hz,
        channels=audio.info.channels,
        container=audio.info.container,
        codec=audio.info.codec,
        decoder=audio.info.decoder,
        window_count=window_count,
        decode_warnings=audio.warnings,
    )


def decode_track(
    uri: str, source: Fetched, front_end: FrontEnd, *, min_seconds: float
) -> Iterator[AudioWindow | TrackFacts]:
    """Decode one track: its windows, then its facts.

    Parameters
    ----------
    uri : str
        The track.
    source : Fetched
        Its bytes.
    front_end : FrontEnd
        Says which windows, and where decoding stops.
    min_seconds : float
        Less sound than this is a failure.

    Yields
    ------
    AudioWindow
        In order; a track that then turns out too short may already have given some.
    TrackFacts
        The last element.

    Raises
    ------
    StageError
        If the file cannot be decoded, or holds less than ``min_seconds`` of sound.
    """
    total, max_seconds = None, front_end.decoded_seconds
    if needs_total(front_end):
        total = count_frames(source.path, max_seconds=max_seconds)
    with open_audio(source.path, max_seconds=max_seconds) as audio:
        windows = cut_windows(
            long_enough(audio, min_seconds),
            uri=uri,
            sample_rate_hz=audio.info.sample_rate_hz,
            front_end=front_end,
            total_frames=total,
        )
        count = 0
        for window in windows:
            count += 1
            yield window
        yield track_facts(uri, source, audio, count)


@dataclass
class Decode(beam.PTransform):  # type: ignore[misc]
    """``PCollection[Track]`` to windows, facts and failures.

    Parameters
    ----------
    front_end : FrontEnd
        Says which windows a track has, and where decoding stops (warning ``too_long``).
    min_seconds : float
        A track with less decoded sound is a ``too_short`` failure. Windows of it may have left
        by then: a failure outweighs them.

    Returns
    -------
    windows : PCollection[AudioWindow]
        The main output.
    facts : PCollection[TrackFacts]
        One for every decoded track, after its windows.
    failures : PCollection[Failure]
        One for every other track.
    """

    front_end: FrontEnd
    min_seconds: float = 0.1

    def expand(self, tracks: pvalue.PCollection[Track]) -> pvalue.DoOutputsTuple:
        do_fn = _DecodeFn(self.front_end, self.min_seconds)
        outputs: pvalue.DoOutputsTuple = tracks | beam.ParDo(do_fn).with_outputs(
            FACTS, FAILURES, main=WINDOWS
        )
        return outputs


class _DecodeFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, front_end: FrontEnd, min_seconds: float) -> None:
        self._front_end = front_end
        self._min_seconds = min_seconds
        self._meter = StageMeter(STAGE)

    def process(self, track: Track) -> Iterator[_Output]:
        size_bytes = track.size_bytes

        def work() -> Iterable[_Output]:
            nonlocal size_bytes
            with fetched(track.uri) as source:
                size_bytes = source.size_bytes
                for item in self._decode(track.uri, source):
                    yield _tagged(item)

        for item in self._meter.run(track.uri, work):
            yield _with_size(item, size_bytes)

    def _decode(self, uri: str, source: Fetched) -> Iterator[AudioWindow | TrackFacts]:
        return decode_track(uri, source, self._front_end, min_seconds=self._min_seconds)


def _tagged(item: AudioWindow | TrackFacts) -> _Output:
    return pvalue.TaggedOutput(FACTS, item) if isinstance(item, TrackFacts) else item


def _with_size(item: _Output, size_bytes: int | None) -> _Output:
    """Tell a failure how large the file is."""
    if isinstance(item, pvalue.TaggedOutput) and isinstance(item.value, Failure):
        return pvalue.TaggedOutput(item.tag, dataclasses.replace(item.value, size_bytes=size_bytes))
    return item

"""The command line of ``python -m pipeline.publish``: its help, and a frozen configuration.

Imports neither PyAV nor Kafka's client, so that ``--help`` and a wrong call answer at once.
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePath

from pipeline.arguments import positive
from transforms.errors import UsageError
from transforms.streaming.kafka_client import KafkaTopic

_DESCRIPTION = """\
Publish live sound: cut it into blocks, and send them to a Kafka topic or into a folder.

  python -m pipeline.publish --source=https://radio.example/live.mp3 --to=kafka://HOST:9092/blocks
  python -m pipeline.publish --source=set.flac --real_time --to=blocks
  arecord -f cd -t wav | python -m pipeline.publish --source=- --stream_id=mixer --to=blocks

A source that ends, or is ended by Ctrl-C or SIGTERM, ends its stream with a last block. A web
address that breaks off is tried again, and begins a new session when it is back.
"""
_EPILOG = """\
exit status: 0 all sources were published to their ends, or to the signal that ended them; 1 one
failed, the others were published; 2 a wrong call, nothing was published
"""
_MAX_ID = 128
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_FOREIGN = re.compile(r"[^A-Za-z0-9._-]+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """What a publisher was asked to do."""

    sources: tuple[str, ...]  # paths, "-", http:// and https:// addresses
    stream_ids: tuple[tuple[str, ...], ...]  # of each source
    to: str  # kafka://HOST:PORT/TOPIC, or a folder
    block_seconds: float
    encoding: str  # pcm_s16le | pcm_f32le
    sample_rate_hz: int | None
    channels: int | None
    real_time: bool
    seconds: Fraction | None
    session: int | None
    event_time: dt.datetime | None
    retries: int
    timeout_seconds: float
    progress: str  # lines | none


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m pipeline.publish``."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.publish",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_ends(parser.add_argument_group("from and to"))
    _add_blocks(parser.add_argument_group("blocks"))
    _add_run(parser.add_argument_group("run"))
    return parser


def _add_ends(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--source", action="append", required=True, type=_source, metavar="FILE|-|URL",
        help="what to publish; may be repeated, then all are published at the same time. A file, "
        "- for standard input (in a format with a header, as WAV), or an http:// or https:// "
        "address of a stream in MP3, AAC, Ogg…; playlists (.m3u, .pls, HLS) are not followed",
    )  # fmt: skip
    group.add_argument(
        "--to", required=True, type=_sink, metavar="kafka://HOST:PORT/TOPIC|FOLDER",
        help="where the blocks go: messages of a topic, with the stream's id as their key, or "
        "FOLDER/STREAM_ID/SESSION-SEQUENCE.block",
    )  # fmt: skip
    group.add_argument(
        "--stream_id", action="append", type=_stream_id, metavar="ID",
        help="of each --source, in order: letters, digits, '.', '_' and '-' (default: after the "
        "file's name or the address)",
    )  # fmt: skip
    group.add_argument(
        "--copies", type=positive(int), metavar="N",
        help="publish one source as N streams, ID-00, ID-01…, to try a load",
    )  # fmt: skip


def _add_blocks(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--block_seconds", type=positive(float), default=0.25, metavar="SECONDS",
        help="of sound in a block, or as much as fits into 1 MB (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--encoding", choices=("pcm_s16le", "pcm_f32le"), default="pcm_s16le",
        help="of the samples (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--sample_rate_hz", type=_rate, metavar="HZ", help="resample (default: the source's own)"
    )
    group.add_argument(
        "--channels", type=int, choices=(1, 2),
        help="mix to mono or stereo (default: the source's own)",
    )  # fmt: skip
    group.add_argument(
        "--session", type=_session, metavar="NUMBER",
        help="of the first session; must grow whenever a stream begins anew (default: the time, "
        "in microseconds)",
    )  # fmt: skip
    group.add_argument(
        "--event_time", type=_event_time, metavar="TIME",
        help="when the first sample sounded, as 2026-01-31T20:00:00+01:00 (default: when it came)",
    )  # fmt: skip


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--real_time", action="store_true",
        help="send no block before its sound is over; else files go as fast as they are taken",
    )  # fmt: skip
    group.add_argument(
        "--seconds", type=_seconds, metavar="SECONDS", help="end each stream after so much sound"
    )
    group.add_argument(
        "--retries", type=_count, default=10, metavar="N",
        help="in a row, of a web address that broke off, after 1, 2, 4… up to 30 s "
        "(default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--timeout_seconds", type=positive(float), default=10.0, metavar="SECONDS",
        help="for a web address to answer, and to send more (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--progress", choices=("lines", "none"), default="lines",
        help="lines: one for each source every ten seconds, on stderr (default: %(default)s)",
    )  # fmt: skip


def _source(text: str) -> str:
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() not in ("http", "https"):
        raise argparse.ArgumentTypeError(
            f"{text}: {scheme[1]}:// is not followed; give a path, -, http:// or https://"
        )
    if scheme and not _is_address(text):
        raise argparse.ArgumentTypeError(f"{text} is no address; give http://HOST:PORT/PATH")
    if not text.strip():  # an unset shell variable would mean this folder
        raise argparse.ArgumentTypeError("is empty; give a path, -, http:// or https://")
    return text


def _is_address(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        return bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", text)
    except ValueError:
        return False


def _sink(text: str) -> str:
    scheme = _SCHEME.match(text)
    if not text.strip() or (scheme and scheme[1] != "kafka"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: give kafka://HOST:PORT/TOPIC, or a folder of this machine"
        )
    if scheme:
        try:
            KafkaTopic.parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _stream_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: take letters, digits, '.', '_' and '-', {_MAX_ID} at most"
        )
    return text


def _rate(text: str) -> int:
    value = int(text)
    if not 1_000 <= value <= 384_000:
        raise ValueError
    return value


_rate.__name__ = "rate from 1000 to 384000"


def _session(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**61:
        raise ValueError
    return value


_session.__name__ = "number from 0 on"


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


_count.__name__ = "number from 0 on"


def _seconds(text: str) -> Fraction:
    positive(float)(text)
    return Fraction(text)  # exactly what was written


_seconds.__name__ = "positive number"


def _event_time(text: str) -> dt.datetime:
    try:
        time = dt.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: write 2026-01-31T20:00:00+01:00") from error
    if time.tzinfo is None or time.timestamp() < 0:
        raise argparse.ArgumentTypeError(
            f"{text}: must be after 1970, with a time zone, as 2026-01-31T20:00:00+01:00"
        )
    return time


def default_id(source: str) -> str:
    """A stream's id after its source; empty where no letter of it may be in one."""
    if source == "-":
        return "stdin"
    if _SCHEME.match(source):
        parts = urllib.parse.urlsplit(source)
        name = f"{parts.hostname or ''}{parts.path.rstrip('/')}"
    else:
        name = PurePath(source).stem
    return _FOREIGN.sub("-", name).strip(".-")[:_MAX_ID]


def _all_ids(options: argparse.Namespace) -> tuple[tuple[str, ...], ...]:
    """The ids of each source.

    Raises
    ------
    ValueError
        With a line for the caller.
    """
    sources, given = options.source, options.stream_id
    if given and len(given) != len(sources):
        raise ValueError(
            f"{len(given)} --stream_id for {len(sources)} --source; give one for each, or none"
        )
    if sources.count("-") > 1:
        raise ValueError("--source=- can be given only once")
    ids = given or [default_id(source) for source in sources]
    for source, stream_id in zip(sources, ids, strict=True):
        if not stream_id:
            raise ValueError(f"no id can be made of {source}; give --stream_id")
    if twice := sorted({stream_id for stream_id in ids if ids.count(stream_id) > 1}):
        raise ValueError(f"two streams would be {', '.join(twice)}; give each a --stream_id")
    if options.copies is None:
        return tuple((stream_id,) for stream_id in ids)
    if len(sources) > 1:
        raise ValueError(f"--copies takes one --source, not {len(sources)}")
    digits = max(2, len(str(options.copies - 1)))
    stem = ids[0][: _MAX_ID - digits - 1]
    return (tuple(f"{stem}-{number:0{digits}d}" for number in range(options.copies)),)


def parse_options(argv: Sequence[str] | None = None) -> PublishConfig:
    """Parse a command line; argparse ends the process with status 2 if it is wrong."""
    parser = build_parser()
    options = parser.parse_args(argv)
    try:
        stream_ids = _all_ids(options)
    except ValueError as error:
        parser.error(str(error))
    return PublishConfig(
        sources=tuple(options.source),
        stream_ids=stream_ids,
        to=options.to,
        block_seconds=options.block_seconds,
        encoding=options.encoding,
        sample_rate_hz=options.sample_rate_hz,
        channels=options.channels,
        real_time=options.real_time,
        seconds=options.seconds,
        session=options.session,
        event_time=options.event_time,
        retries=options.retries,
        timeout_seconds=options.timeout_seconds,
        progress=options.progress,
    )

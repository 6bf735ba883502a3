"""The command line of ``python -m pipeline.stream``: its help, and a frozen configuration.

Imports neither Beam nor torch, so that ``--help`` and a wrong call answer at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.arguments import positive
from transforms.models.enhancer import DEFAULT_ENHANCER
from transforms.streaming.kafka_client import KAFKA

DEFAULT_MODEL = "digits-gru"

_DESCRIPTION = """\
Label live audio as it arrives: many streams at once, each with its own state of the model, which is
carried from block to block. The labels are those that the whole recording would have given.

  python -m pipeline.stream --source=recordings --to=labels
  ffmpeg ... -f wav - | python -m pipeline.stream --source=-
  python -m pipeline.stream --source=http://radio.example/live.mp3
  python -m pipeline.stream --source=kafka://HOST:9092/blocks --to=kafka://HOST:9092/labels \\
      --runner=FlinkRunner --flink_master=HOST:8081
  python -m pipeline.stream --compare=speech.wav

python -m pipeline.publish cuts live sound into blocks for a topic or a folder.
"""
_EPILOG = """\
Options that are not listed here go to Apache Beam (--flink_master, --checkpointing_interval, ...).

results: rows of kind second (the running label), segment (a stretch of one label), gap and end,
and failures, as docs/streaming.md says. As Parquet: FOLDER/labels and FOLDER/failures. To Kafka:
TOPIC and TOPIC-failures, JSON.

exit status: 0 the sources have ended, or it was stopped by Ctrl-C (a second one ends at once:
130); 2 a wrong call; with --compare 1 if a difference is over 1e-6; 1 anything else
"""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What a run of the stream program was asked to do."""

    sources: tuple[str, ...]
    once: bool
    from_start: bool  # of a topic
    for_seconds: float | None
    sinks: tuple[str, ...]
    file_seconds: float
    clean_to: str | None
    denoise: str
    model: str
    half_life_seconds: float | None  # None: the length of the model's windows; 0: for ever
    min_segment_seconds: float
    silence_seconds: float
    idle_seconds: float
    forget_seconds: float
    lateness_seconds: float
    max_held_blocks: int
    max_ahead_seconds: float
    runner: str
    compare: str | None
    picture: str
    beam_args: tuple[str, ...] = ()

    workers = 1  # of DirectRunner: a stream's blocks stay in order

    @property
    def is_live(self) -> bool:
        """Whether sources are followed by this process, until they end or are stopped."""
        return not self.once and (self.runner == "DirectRunner" or not self.reads_kafka)

    @property
    def reads_kafka(self) -> bool:
        """Whether the source is a topic."""
        return any(source.startswith(KAFKA) for source in self.sources)


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m pipeline.stream``."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.stream",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_ends(parser.add_argument_group("from where, and to where"))
    _add_labels(parser.add_argument_group("labels"))
    _add_order(parser.add_argument_group("order, in seconds of event time"))
    group = parser.add_argument_group("run")
    group.add_argument(
        "--runner",
        default="DirectRunner",
        help="DirectRunner is this machine, one process; or FlinkRunner, ... (default: "
        "%(default)s)",
    )
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--compare",
        metavar="FILE",
        help="instead of all else, hear one audio file as a stream and as a whole, with every kind "
        "of cell, and tell the largest difference",
    )
    group.add_argument(
        "--picture",
        default="streamed_against_whole.png",
        metavar="FILE",
        help="of --compare: what to draw it in (default: %(default)s)",
    )
    return parser


def _add_ends(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--source",
        action="append",
        default=[],
        help="a folder that a recorder writes into, one folder for each stream; - for sound on "
        "standard input; http(s)://...; or kafka://HOST:PORT/TOPIC; may be given several times, "
        "a topic alone",
    )
    group.add_argument(
        "--once",
        action="store_true",
        help="of folders: end with what is there, rather than wait for more",
    )
    group.add_argument(
        "--from_start",
        action="store_true",
        help="of a topic: read what is there already, too (default: what comes from now on)",
    )
    group.add_argument(
        "--for_seconds",
        type=positive(float),
        metavar="SECONDS",
        help="stop after so long (default: when the sources end, or by Ctrl-C)",
    )
    group.add_argument(
        "--to",
        action="append",
        default=[],
        help="- for JSON on standard output, a folder for Parquet, or kafka://HOST:PORT/TOPIC; may "
        "be given several times (default: -)",
    )
    group.add_argument(
        "--file_seconds",
        type=positive(float),
        default=60.0,
        metavar="SECONDS",
        help="event time in one file of Parquet (default: %(default)g)",
    )
    group.add_argument(
        "--clean_to",
        help="give the streams without their noise, too: blocks into this folder or "
        "kafka://HOST:PORT/TOPIC",
    )
    group.add_argument(
        "--denoise",
        default=DEFAULT_ENHANCER,
        metavar="CHECKPOINT",
        help="of --clean_to: what takes the noise out (default: %(default)s)",
    )


def _add_labels(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="CHECKPOINT",
        help="a shipped recogniser, or the folder of one; python -m pipeline.train "
        "--task=recognise makes them (default: %(default)s)",
    )
    group.add_argument(
        "--half_life_seconds",
        type=_from_zero,
        metavar="SECONDS",
        help="after which what was heard counts half in the running label; 0: all counts alike, "
        "for ever (default: the length of the windows that the model was trained on)",
    )
    _add_seconds(
        group, "min_segment_seconds", 0.5, "how long another label must hold to end a segment"
    )
    _add_seconds(
        group,
        "silence_seconds",
        10.0,
        "of silence that become a failure, silence; the labels go on",
    )


def _add_order(group: argparse._ArgumentGroup) -> None:
    _add_seconds(
        group, "lateness_seconds", 2.0, "how long to wait for a missing block before it is a gap"
    )
    _add_seconds(group, "idle_seconds", 10.0, "without a block, until what is open is told")
    _add_seconds(group, "forget_seconds", 3_600.0, "without a block, until a stream has ended")
    group.add_argument(
        "--max_held_blocks",
        type=positive(int),
        default=64,
        metavar="BLOCKS",
        help="that may wait for a missing one (default: %(default)s)",
    )
    _add_seconds(
        group, "max_ahead_seconds", 10.0,
        "of sound more than event time has passed, before a stream floods and blocks are dropped",
    )  # fmt: skip


def _add_seconds(group: argparse._ArgumentGroup, name: str, default: float, text: str) -> None:
    group.add_argument(
        f"--{name}",
        type=positive(float),
        default=default,
        metavar="SECONDS",
        help=f"{text} (default: %(default)g)",
    )


def _from_zero(text: str) -> float:
    value = float(text)
    return value if value == 0 else float(positive(float)(text))


_from_zero.__name__ = "float from 0 on"


def parse_options(argv: Sequence[str] | None = None) -> StreamConfig:
    """Parse a command line; argparse ends the process with status 2 if it is wrong."""
    parser = build_parser()
    options, beam_args = parser.parse_known_args(argv)
    if not options.source and options.compare is None:
        parser.error("--source or --compare is needed")
    own = {field.name for field in dataclasses.fields(StreamConfig)}
    plain = {name: value for name, value in vars(options).items() if name in own}
    plain["clean_to"] = options.clean_to and _place(options.clean_to)
    sinks = tuple(_place(sink) for sink in options.to) or ("-",)
    return StreamConfig(
        **plain, sources=tuple(options.source), sinks=sinks, beam_args=tuple(beam_args)
    )


def _place(sink: str) -> str:
    """A sink as workers find it, too, which a cluster starts in folders of their own."""
    if sink == "-" or "://" in sink:
        return sink.rstrip("/")
    return os.path.abspath(sink)
